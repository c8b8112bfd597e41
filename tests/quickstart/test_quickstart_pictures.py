import pytest
from icon_sets import NAMES, write_set

from isthmus.quickstart import pictures
from isthmus.quickstart.artists import ARTISTS

pytest.importorskip("resvg_py")


def test_from_packages_to_pictures_and_metadata(tmp_path, monkeypatch):
    def fetch(artist, folder):
        target = folder / artist.name
        return target if target.is_dir() else write_set(target, licence=artist.licence)

    monkeypatch.setattr(pictures, "fetch_artist", fetch)
    told = []
    table = pictures.prepare_pictures(tmp_path, processes=1, progress=lambda *step: told.append(step))
    assert table == {artist.name: tuple(sorted(NAMES)) for artist in ARTISTS}
    total = len(ARTISTS) * len(NAMES)
    assert told[:9] == [("fetch", done, 9) for done in range(1, 10)]
    assert told[-1] == ("draw", total, total)
    assert len(list((tmp_path / "pictures").rglob("*.png"))) == total
    for line in (tmp_path / "pictures" / "train.jsonl").read_text().splitlines():
        assert "twemoji" not in line
    told.clear()
    assert pictures.prepare_pictures(tmp_path, progress=lambda *step: told.append(step)) == table
    assert [step for step, _, _ in told] == ["fetch"] * 9
