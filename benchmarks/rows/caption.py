"""Captioning a folder of pictures against transformers, which takes one picture at a time."""

from itertools import product
from typing import Any

from benchmarks.language import LANGUAGE
from benchmarks.pair import OURS, PEER, compare
from benchmarks.pictures import write_pictures
from benchmarks.row import Case, Row, Setting, programs
from benchmarks.whole import write_whole
from isthmus.build.imported import Towers, convert_in

PICTURES, TOKENS, BATCH = {"full": 64, "tiny": 6}, 20, 16


def run(case: Case, setting: Setting) -> dict[str, Any]:
    """Write a whole model and a folder, and caption all of it on both sides in turn."""
    folder, pictures = setting.folder, PICTURES[setting.name]
    write_whole(folder / "theirs", setting.scale, LANGUAGE[setting.name])
    convert_in(str(folder / "theirs"), folder / "ours", Towers())
    write_pictures(folder / "pictures", pictures, side=case["side"], suffix=".jpg")
    sides = programs("ours_caption", "transformers_caption", environment="transformers")
    measured = compare(sides, folder, {"dtype": case["dtype"], "tokens": TOKENS, "batch": BATCH}, setting.effort)
    said = {side: measured["pairs"][-1][side]["captions"] for side in (OURS, PEER)}
    same = sum(said[OURS].get(name) == text for name, text in said[PEER].items())
    for pair in measured["pairs"]:
        for side in (OURS, PEER):
            del pair[side]["captions"]
    rates = {side: pictures / measured[f"{side}_seconds"]["median"] for side in (OURS, PEER)}
    return {**measured, "pictures": pictures, "same_captions": same, "pictures_per_second": rates}


ROW = Row(
    name="caption-transformers",
    title="captioning a folder",
    peer="transformers 5.23, one picture at a time",
    cases=tuple({"side": side, "dtype": dtype} for side, dtype in product((480,), ("bf16", "fp32"))),
    run=run,
)
