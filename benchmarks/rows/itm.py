"""Re-ranking by ITM, one picture's features and many texts, against transformers' `Blip2ForImageTextRetrieval`."""

from dataclasses import replace
from itertools import product
from typing import Any

from benchmarks.flops import minimal_itm
from benchmarks.inputs import FIXED_LENGTH, shape_of, write_rows, write_weights
from benchmarks.pair import OURS, PEER, compare
from benchmarks.row import Case, Row, Setting, differences, programs, utilisation
from isthmus.checkpoints.keymap import RETRIEVAL

AT_ONCE = 16
"""Texts that the peer takes in a call: it repeats the features for each."""


def run(case: Case, setting: Setting) -> dict[str, Any]:
    """Make the inputs and score all texts on both sides in turn."""
    texts = case["texts"]
    sizes = replace(setting.scale.bridge, lm_head=False, temperature=False)
    write_weights(setting.folder, sizes, RETRIEVAL)
    write_rows(setting.folder, setting.scale, texts, "11")
    sides = programs("ours_itm", "transformers_itm", environment="transformers")
    options = {"texts": texts, "dtype": case["dtype"], "at_once": AT_ONCE}
    measured = compare(sides, setting.folder, options, setting.effort)
    least = minimal_itm(texts, FIXED_LENGTH, shape_of(setting.scale))
    return {
        **measured,
        "differences_at_start": differences(measured),
        "pairs_per_second": {side: texts / measured[f"{side}_seconds"]["median"] for side in (OURS, PEER)},
        "gflop": {"least": least / 1e9},
        "mfu": utilisation(measured, least),
    }


ROW = Row(
    name="itm-transformers",
    title="ITM of one picture with many texts",
    peer="transformers 5.23",
    cases=tuple({"texts": texts, "dtype": dtype} for texts, dtype in product((16, 128), ("bf16", "fp32"))),
    run=run,
)
