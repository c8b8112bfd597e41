"""How a stage-1 step of ours grows with the batch, the queries and the patches; no peer."""

from dataclasses import replace
from typing import Any

from benchmarks.flops import minimal_stage1
from benchmarks.inputs import shape_of, write_rows, write_weights
from benchmarks.pair import compare
from benchmarks.row import Case, Row, Setting, programs, utilisation
from isthmus.checkpoints.keymap import lavis

_USUAL = {"batch": 8, "queries": 32, "patches": 257}
_OTHERS = (("batch", 2), ("batch", 4), ("batch", 16), ("batch", 32), ("queries", 16), ("queries", 64))
_PATCHES = (("patches", 64), ("patches", 577))


def run(case: Case, setting: Setting) -> dict[str, Any]:
    """Take steps at one size."""
    bridge = replace(setting.scale.bridge, queries=case["queries"])
    scale, batch = replace(setting.scale, bridge=bridge, patches=case["patches"]), case["batch"]
    write_weights(setting.folder, bridge, lavis(None))
    lengths = write_rows(setting.folder, scale, batch, "11")
    options = {"batch": batch, "dtype": case["dtype"]}
    measured = compare(programs("ours_stage1"), setting.folder, options, setting.effort)
    least = minimal_stage1(lengths, shape_of(scale))
    return {**measured, "gflop": {"least": least / 1e9}, "mfu": utilisation(measured, least)}


ROW = Row(
    name="growth",
    title="growth of a stage-1 step",
    peer="",
    cases=tuple(
        {**_USUAL, name: value, "dtype": dtype}
        for dtype in ("bf16", "fp32")
        for name, value in (("batch", 8), *_OTHERS, *_PATCHES)
    ),
    run=run,
)
