"""The key tables: every tensor of a bridge has a name in a layout, or is said to have none."""

import pytest

from bridges import tiny_bridge
from isthmus.checkpoints.keymap import CONDITIONAL, INSTRUCT, QFORMER, RETRIEVAL, check_keys, lavis
from isthmus.errors import CheckpointError

TABLES = [CONDITIONAL, INSTRUCT, RETRIEVAL, QFORMER, lavis("t5_proj")]
KINDS = {
    "stage 1": {},
    "stage 2": {"text": False, "shared_width": None, "language_width": 7},
    "instructed": {"lm_head": False, "shared_width": None, "language_width": 7},
    "without temperature": {"lm_head": False, "temperature": False, "cross_frequency": 1, "layers": 4},
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_tensor_is_named_or_said_to_be_lost(table, kind):
    bridge = tiny_bridge(**kind)
    names, lost = table.keys(bridge.sizes), table.lost(bridge.sizes)
    assert sorted([*names, *lost]) == sorted(bridge.state_dict())
    assert len({*names.values()}) == len(names)


@pytest.mark.parametrize(
    ("table", "kind", "lost"),
    [
        (CONDITIONAL, "stage 2", set()),
        (INSTRUCT, "instructed", set()),
        (RETRIEVAL, "without temperature", set()),
        (lavis(None), "stage 1", set()),
        (lavis("opt_proj"), "stage 2", set()),
        (RETRIEVAL, "stage 1", {"heads.temperature", "qformer.text.head"}),
        (CONDITIONAL, "instructed", {"qformer.text.words", "qformer.text.positions", "qformer.layers."}),
        (QFORMER, "stage 2", {"qformer.queries", "qformer.memory.norm", "projection"}),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_what_a_layout_has_no_place_for(table, kind, lost):
    found = table.lost(tiny_bridge(**KINDS[kind]).sizes)
    assert all(name.startswith(tuple(lost) or "nothing") for name in found)
    assert all(any(name.startswith(part) for name in found) for part in lost)


def test_keys_that_are_missing_or_foreign_are_named():
    sizes = tiny_bridge(**KINDS["stage 2"]).sizes
    keys = [*CONDITIONAL.keys(sizes).values(), "vision_model.embeddings.class_embedding", "language_model.x"]
    assert sorted(check_keys(CONDITIONAL, sizes, keys, "a folder").values()) == sorted(keys[:-2])
    with pytest.raises(CheckpointError, match=r"a folder lacks language_projection\.bias, read as Blip2ForCond"):
        check_keys(CONDITIONAL, sizes, [key for key in keys if key != "language_projection.bias"], "a folder")
    with pytest.raises(CheckpointError, match=r"a folder has keys that no table knows: lora\.up, read as"):
        check_keys(CONDITIONAL, sizes, [*keys, "lora.up"], "a folder")
    with pytest.raises(CheckpointError, match=r"and \d+ more, read as"):
        check_keys(CONDITIONAL, sizes, [], "a folder")
