"""A stage-1 step against LAVIS: same weights, features, captions, batch, dropout, and the optimizer's step in it."""

from itertools import product
from typing import Any

from benchmarks.flops import lavis_stage1, minimal_stage1
from benchmarks.inputs import shape_of, write_rows, write_weights
from benchmarks.pair import compare
from benchmarks.row import Case, Row, Setting, differences, programs, utilisation
from isthmus.checkpoints.keymap import lavis

BATCHES = 2


def run(case: Case, setting: Setting) -> dict[str, Any]:
    """Make the inputs and take both sides' steps in turn."""
    scale, batch = setting.scale, case["batch"]
    write_weights(setting.folder, scale.bridge, lavis(None))
    lengths = write_rows(setting.folder, scale, BATCHES * batch, case["captions"])
    sides = programs("ours_stage1", "lavis_stage1", environment="lavis")
    measured = compare(sides, setting.folder, {"batch": batch, "dtype": case["dtype"]}, setting.effort)
    shape = shape_of(scale)
    least = sum(minimal_stage1(lengths[first : first + batch], shape) for first in (0, batch)) / BATCHES
    return {
        **measured,
        "differences_at_start": differences(measured),
        "gflop": {"lavis": lavis_stage1(batch, shape) / 1e9, "least": least / 1e9},
        "mfu": utilisation(measured, least),
    }


ROW = Row(
    name="stage1-lavis",
    title="a stage-1 step",
    peer="LAVIS 1.0.2",
    cases=tuple(
        {"batch": batch, "dtype": dtype, "captions": captions}
        for batch, dtype, captions in product((4, 8, 32), ("bf16", "fp32"), ("11", "mixed"))
    ),
    run=run,
)
