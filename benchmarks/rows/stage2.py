"""A stage-2 step against transformers, before a frozen language model of OPT-125m's size."""

from itertools import product
from typing import Any

from benchmarks.flops import minimal_stage2
from benchmarks.inputs import shape_of, with_language, write_rows, write_weights
from benchmarks.language import LANGUAGE, write_language_model
from benchmarks.pair import compare
from benchmarks.row import Case, Row, Setting, differences, programs, utilisation
from isthmus.checkpoints.keymap import CONDITIONAL

BATCHES = 2


def run(case: Case, setting: Setting) -> dict[str, Any]:
    """Make the inputs and take both sides' steps in turn."""
    language, batch = LANGUAGE[setting.name], case["batch"]
    scale = with_language(setting.scale, language.width)
    write_weights(setting.folder, scale.bridge, CONDITIONAL)
    write_language_model(setting.folder, language)
    lengths = write_rows(setting.folder, scale, BATCHES * batch, case["captions"])
    sides = programs("ours_stage2", "transformers_stage2", environment="transformers")
    measured = compare(sides, setting.folder, {"batch": batch, "dtype": case["dtype"]}, setting.effort)
    least = minimal_stage2(lengths, language.counted, shape_of(scale)) / BATCHES
    return {
        **measured,
        "differences_at_start": differences(measured),
        "gflop": {"least": least / 1e9},
        "mfu": utilisation(measured, least),
    }


ROW = Row(
    name="stage2-transformers",
    title="a stage-2 step before OPT-125m's size",
    peer="transformers 5.23",
    cases=tuple(
        {"batch": batch, "dtype": dtype, "captions": "11"} for batch, dtype in product((4, 8, 32), ("bf16", "fp32"))
    ),
    run=run,
)
