import importlib.util

import numpy as np
import pytest
from icon_sets import SQUARE
from PIL import Image

from isthmus.errors import DataError, UserError
from isthmus.quickstart.draw import SIZE, draw_pictures

pytest.importorskip("resvg_py")

OPEN = '<svg xmlns="http://www.w3.org/2000/svg" width="224" height="224" viewBox="0 0 20 10">'
DOCUMENT = f"{OPEN}{SQUARE}</svg>"


def drawings(folder, sets=2, each=20):
    return {folder / f"set{s}" / f"{i:02d}.png": DOCUMENT for s in range(sets) for i in range(each)}


def test_on_white_centred_at_size(tmp_path):
    path = tmp_path / "set" / "square.png"
    assert draw_pictures({path: DOCUMENT}, processes=1) == 1
    with Image.open(path) as opened:
        pixels = np.asarray(opened.convert("RGB"))
    assert pixels.shape == (SIZE, SIZE, 3)
    assert pixels[SIZE // 2, 10].tolist() == [255, 0, 0]
    assert pixels[SIZE // 2, SIZE - 10].tolist() == [255, 255, 255]
    assert pixels[10, 10].tolist() == [255, 255, 255]


@pytest.mark.parametrize("processes", [1, 2])
def test_draws_what_is_missing_and_tells_progress(tmp_path, processes):
    wanted = drawings(tmp_path)
    kept = next(iter(wanted))
    kept.parent.mkdir()
    kept.write_bytes(b"drawn before")
    told = []
    assert draw_pictures(wanted, processes=processes, progress=lambda *step: told.append(step)) == 39
    assert kept.read_bytes() == b"drawn before"
    assert all(path.is_file() for path in wanted)
    assert [total for _, total in told] == [40] * len(told)
    assert [done for done, _ in told] == sorted({done for done, _ in told}) and told[-1] == (40, 40)
    assert draw_pictures(wanted, processes=processes) == 0


@pytest.mark.parametrize("processes", [1, 2])
def test_interrupted_it_leaves_whole_pictures_and_goes_on(tmp_path, processes):
    wanted = drawings(tmp_path, each=100)

    def interrupt(_done, _total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw_pictures(wanted, processes=processes, progress=interrupt)
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert 0 < len(left) <= 200 and set(left) <= set(wanted)
    for path in left:
        with Image.open(path) as opened:
            opened.verify()
    assert draw_pictures(wanted, processes=processes) == 200 - len(left)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_document_that_cannot_be_drawn_is_named(tmp_path, processes):
    with pytest.raises(DataError, match=r"bad\.png cannot be drawn"):
        draw_pictures({tmp_path / "bad.png": "<svg"}, processes=processes)
    assert list(tmp_path.iterdir()) == []


def test_without_the_renderer(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(UserError, match="resvg-py"):
        draw_pictures({tmp_path / "a.png": DOCUMENT})
