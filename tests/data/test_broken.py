import json
from pathlib import Path

import pytest

from isthmus.data.broken import Bad, BrokenPictures
from isthmus.errors import DataError


def bad(path, reason="this is no picture."):
    return Bad.of(path, DataError(f"{path}: {reason}"))


def lines(folder):
    return [json.loads(line) for line in (folder / "bad_images.jsonl").read_text().splitlines()]


def test_a_bad_picture_is_written_once_with_its_reason(tmp_path):
    output, path = tmp_path / "run", tmp_path / "a.png"
    path.write_bytes(b"x")
    broken = BrokenPictures("skip", rate=0.5, output=output)
    broken.met(3)
    assert not output.exists(), "nothing is made before there is something to write"
    broken.met(1, [bad(path)])
    broken.met(1, [bad(path)])
    BrokenPictures("skip", rate=0.5, output=output).met(2, [bad(path), bad(tmp_path / "b\u2028.png", "gone.")])
    assert lines(output) == [
        {"path": str(path), "reason": "this is no picture.", "moved_to": None},
        {"path": str(tmp_path / "b\u2028.png"), "reason": "gone.", "moved_to": None},
    ]
    assert path.read_bytes() == b"x"
    assert broken.bad == {str(path): bad(path)}


def test_a_line_cut_short_does_not_stand_in_the_way(tmp_path):
    (tmp_path / "bad_images.jsonl").write_text('{"path": "a", "reason": "x"}\n{"path": "b", "rea')
    BrokenPictures("skip", rate=1.0, output=tmp_path).met(1, [bad(Path("a")), bad(Path("c"))])
    *_, last = (tmp_path / "bad_images.jsonl").read_text().splitlines()
    assert json.loads(last)["path"] == "c"


def test_quarantine_moves_files_under_their_paths_and_overwrites_nothing(tmp_path):
    one, two, output = tmp_path / "one", tmp_path / "two", tmp_path / "run"
    paths = [one / "sub/a.png", two / "sub/a.png", tmp_path / "else.png"]
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % number)
    broken = BrokenPictures("quarantine", rate=1.0, output=output, folders=[one, two])
    broken.met(4, [*map(bad, paths), bad(tmp_path / "gone.png")])
    moved = [output / "quarantine" / name for name in ("sub/a.png", "sub/a.png.1", "else.png")]
    assert [path.read_bytes() for path in moved] == [b"0", b"1", b"2"]
    assert not any(path.exists() for path in paths)
    assert [(line["path"], line["moved_to"]) for line in lines(output)] == [
        *((str(path), str(place)) for path, place in zip(paths, moved, strict=True)),
        (str(tmp_path / "gone.png"), None),
    ]
    broken.met(1, [bad(paths[0], "the picture cannot be read (No such file or directory).")])
    assert len(lines(output)) == 4, "what was moved is not reported again as missing"


def test_a_picture_in_a_table_cannot_be_moved(tmp_path):
    class Cell:
        def __str__(self):
            return "x.parquet, row 3"

        def read_bytes(self):
            return b""

    BrokenPictures("quarantine", rate=1.0, output=tmp_path).met(1, [bad(Cell())])
    assert lines(tmp_path) == [{"path": "x.parquet, row 3", "reason": "this is no picture.", "moved_to": None}]


def test_the_rate_is_judged_when_enough_pictures_were_met(tmp_path):
    broken = BrokenPictures("skip", rate=0.01, output=tmp_path)
    broken.met(100, [bad(Path(str(number))) for number in range(3)])
    with pytest.raises(DataError, match=r"3 of 200 pictures cannot be read, more than the share of 0\.01 that data"):
        broken.met(100)
    broken.met(100), broken.judge()


def test_at_the_end_of_a_pass_the_rate_is_judged_however_few_were_met(tmp_path):
    broken = BrokenPictures("skip", rate=0.25, output=tmp_path)
    broken.met(4, [bad(Path("a"))])
    broken.judge()
    broken.met(0, [bad(Path("b"))])
    with pytest.raises(DataError, match=r"2 of 4 .*bad_images\.jsonl names them: mend them, or allow more"):
        broken.judge()


def test_a_report_with_bytes_that_are_no_text_is_added_to(tmp_path):
    (tmp_path / "bad_images.jsonl").write_bytes(b"\xff\xfe\n")
    BrokenPictures("skip", rate=1.0, output=tmp_path).met(1, [bad(Path("a.png"))])
    kept, added = (tmp_path / "bad_images.jsonl").read_bytes().splitlines()
    assert kept == b"\xff\xfe" and json.loads(added)["path"] == "a.png"


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        DataError, match=r"bad_images\.jsonl: a\.png cannot be reported or moved \(.*\); free the place"
    ):
        BrokenPictures("skip", rate=1.0, output=tmp_path / "file").met(1, [bad(Path("a.png"))])
