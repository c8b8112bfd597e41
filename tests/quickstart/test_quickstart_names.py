import json

import pytest
from icon_sets import SQUARE, write_set

from isthmus.errors import DataError
from isthmus.quickstart.names import caption, icon_svgs, thing_names


def test_kept_categories_without_clock_faces(tmp_path):
    names = thing_names(write_set(tmp_path / "set"))
    assert names == ("alarm-clock", "blue-dot", "green-dot", "old-square", "red-square")


def test_missing_category_is_named(tmp_path):
    folder = write_set(tmp_path / "set")
    (folder / "metadata.json").write_text(json.dumps({"categories": {"Activities": []}}))
    with pytest.raises(DataError, match="Animals & Nature"):
        thing_names(folder)


def test_caption_is_the_name_in_words():
    assert caption("snow-capped-mountain") == "snow capped mountain"


def test_aliases_are_not_followed(tmp_path):
    svgs = icon_svgs(write_set(tmp_path / "set"), ["old-square", "red-square", "absent"], 224)
    assert list(svgs) == ["red-square"]
    assert 'viewBox="0 0 10 10"' in svgs["red-square"] and SQUARE in svgs["red-square"]


def test_an_icons_own_box_overrides_the_sets(tmp_path):
    icon = {"body": SQUARE, "left": -2, "top": 1, "height": 14}
    svgs = icon_svgs(write_set(tmp_path / "set", icons={"tall": icon}), ["tall"], 64)
    assert 'width="64" height="64" viewBox="-2 1 10 14"' in svgs["tall"]


@pytest.mark.parametrize("text", ["not json", "[]", "{}"])
def test_broken_icons_are_one_sentence(tmp_path, text):
    folder = write_set(tmp_path / "set")
    (folder / "icons.json").write_text(text)
    with pytest.raises(DataError, match=r"icons\.json .*fetch it again"):
        icon_svgs(folder, ["red-square"], 64)
