"""An epoch from the feature store against the same steps with all patches in memory: both sides are ours."""

from itertools import product
from typing import Any

from benchmarks.encoder import SIZE, ColourEncoder
from benchmarks.inputs import FIXED_LENGTH, write_weights
from benchmarks.pair import OURS, PEER, compare
from benchmarks.pictures import write_pictures
from benchmarks.row import Case, Row, Setting, programs
from isthmus.checkpoints.keymap import lavis
from isthmus.data.place import files_below
from isthmus.features.extract import extract
from isthmus.features.key import Views

BATCH, BATCHES = 8, 4
_NAMES = {"bf16": "bfloat16", "fp32": "float32"}


def run(case: Case, setting: Setting) -> dict[str, Any]:
    """Fill a store, then take an epoch from it and one from memory in turn."""
    scale, folder = setting.scale, setting.folder
    write_weights(folder, scale.bridge, lavis(None))
    pictures = write_pictures(folder / "pictures", BATCH * BATCHES, side=SIZE, suffix=".png", captions=FIXED_LENGTH - 2)
    encoder = ColourEncoder(scale.patches, scale.bridge.vision_width)
    files = [path for path in files_below(pictures) if path.suffix == ".png"]
    extract(files, encoder, folder=folder / "store", views=Views(dtype=_NAMES[case["dtype"]]))
    sides = programs("ours_epoch", "ours_epoch")
    options = {"batch": BATCH, "patches": scale.patches, "workers": case["workers"], "dtype": case["dtype"]}
    measured = compare(sides, folder, options, setting.effort, apart={OURS: {"memory": False}, PEER: {"memory": True}})
    ratio = measured[f"{OURS}_seconds"]["median"] / measured[f"{PEER}_seconds"]["median"]
    return {**measured, "store_over_memory": ratio}


ROW = Row(
    name="epoch-store",
    title="an epoch from the feature store",
    peer="the same batches in memory",
    cases=tuple({"workers": workers, "dtype": dtype} for workers, dtype in product((0, 1), ("bf16", "fp32"))),
    run=run,
)
