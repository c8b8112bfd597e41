"""Contrastive batches from 64 to 4,096 in micro-batches of 64, and in one pass where that fits: both sides are ours."""

from dataclasses import replace
from itertools import product
from typing import Any

from benchmarks.inputs import SCALES, Scale, write_weights
from benchmarks.numbered import write_store
from benchmarks.pair import OURS, PEER, compare
from benchmarks.row import Case, Row, Setting, programs
from isthmus.checkpoints.keymap import lavis
from isthmus.features.key import Sizes
from isthmus.records import BridgeSizes

MIDDLE = Scale(
    BridgeSizes(
        vision_width=384,
        width=256,
        layers=4,
        heads=4,
        feed_forward_width=1024,
        queries=16,
        vocabulary=8000,
        shared_width=256,
    ),
    64,
)
"""A bridge of a fortieth of BLIP-2's arithmetic a pair: batches of thousands in minutes."""

MICRO, ONE_PASS, LARGE, TINIER = 64, 1024, 1024, 16
_NAMES = {"bf16": "bfloat16", "fp32": "float32"}


def run(case: Case, setting: Setting) -> dict[str, Any]:
    """Fill a store with as many pictures as the batch has, then take steps on all of them."""
    tiny = setting.name == "tiny"
    scale, smaller = (SCALES["tiny"], TINIER) if tiny else (MIDDLE, 1)
    batch, micro = case["batch"] // smaller, MICRO // smaller
    write_weights(setting.folder, scale.bridge, lavis(None))
    write_store(setting.folder / "store", batch, Sizes(scale.patches, scale.bridge.vision_width), _NAMES[case["dtype"]])
    fits = case["batch"] <= ONE_PASS
    sides = programs("ours_contrastive", "ours_contrastive" if fits else "")
    options = {"batch": batch, "micro": micro, "patches": scale.patches, "dtype": case["dtype"]}
    effort = setting.effort
    pairs = 1 if case["batch"] >= LARGE else 3  # of a large batch one step takes as long as many of a small one
    effort = replace(effort, warmup=1, pairs=min(pairs, effort.pairs), patience=min(2, effort.patience))
    apart = {OURS: {"two": True}, PEER: {"two": False}}
    measured = compare(sides, setting.folder, options, effort, apart=apart)
    seconds = {side: measured[f"{side}_seconds"]["median"] for side in sides}
    return {**measured, "ms_a_pair": {side: 1000 * taken / batch for side, taken in seconds.items()}}


ROW = Row(
    name="contrastive",
    title="a contrastive batch in two passes",
    peer="one pass",
    cases=tuple(
        {"batch": batch, "dtype": dtype}
        for dtype, batch in product(("bf16", "fp32"), (64, 128, 256, 512, 1024, 2048, 4096))
    ),
    run=run,
    own={"ms a pair, two passes / one": "ms_a_pair"},
)
