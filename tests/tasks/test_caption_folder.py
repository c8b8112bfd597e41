"""Captioning folders: what is a picture, what is done already, what is left when something breaks."""

import errno
import json
import os
import threading
import time
import weakref
from pathlib import Path

import pytest
from PIL import Image

from isthmus.errors import DataError, UserError
from isthmus.tasks import output
from isthmus.tasks.folder import Picture, caption_pictures, find_pictures
from isthmus.tasks.output import CaptionFile, SideCars


def paint(path, width=4):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, 3)).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    """Three pictures, widths 1 to 3, in a folder with files that are none."""
    root = tmp_path / "pictures"
    for width, name in enumerate(("b.png", "A.PNG", "inner/a.jpg"), start=1):
        paint(root / name, width)
    (root / "notes.md").write_text("no picture")
    paint(root / ".thumbnails" / "b.png")
    (root / ".hidden.png").write_text("")
    return root


class Captioner:
    """Says how wide each picture is, and keeps the sizes of its batches."""

    def __init__(self, prefix="width "):
        self.prefix, self.batches = prefix, []

    def __call__(self, pictures):
        said = [f"{self.prefix}{picture.width}" for picture in pictures]
        self.batches.append(len(said))
        return said


def run(place, pictures, captioner=None, batch_size=2, progress=lambda done, total: None):
    with place:
        captioner = captioner or Captioner()
        return caption_pictures(
            pictures, place, captioner, prepare=lambda picture: picture, batch_size=batch_size, progress=progress
        )


def lines(path):
    return [tuple(json.loads(line).values()) for line in path.read_text().splitlines()]


ALL = [("A.PNG", "width 2"), ("b.png", "width 1"), ("inner/a.jpg", "width 3")]


def test_pictures_of_a_folder_by_name_with_all_below_it(folder):
    found = find_pictures([folder])
    assert [picture.name for picture in found.pictures] == ["A.PNG", "b.png", "inner/a.jpg"]
    assert [picture.path for picture in found.pictures] == [folder / name for name, _ in ALL]
    assert found.others == (folder / "notes.md",)


def test_several_places_are_named_as_given_each_picture_once(folder, monkeypatch):
    monkeypatch.chdir(folder)
    found = find_pictures([Path("inner"), Path("b.png"), Path(), Path("notes.md")])
    assert [picture.name for picture in found.pictures] == ["inner/a.jpg", "b.png", "A.PNG", "notes.md"]


def test_a_link_to_a_picture_is_a_picture_and_a_link_to_a_folder_is_not_followed(folder):
    (folder / "c.png").symlink_to(folder / "b.png")
    (folder / "loop").symlink_to(folder)
    assert [picture.name for picture in find_pictures([folder]).pictures] == ["A.PNG", "b.png", "c.png", "inner/a.jpg"]


def test_a_missing_path_and_a_place_without_pictures_are_errors(tmp_path, folder):
    with pytest.raises(DataError, match=r"xxx cannot be looked at \(File name too long\)"):
        find_pictures([tmp_path / ("x" * 300)])
    with pytest.raises(DataError, match="nowhere: there is no such file or folder"):
        find_pictures([folder, tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: there is no picture in it \(0 other files\); .*\.jpeg"):
        find_pictures([tmp_path / "empty"])


def test_json_lines_in_batches_written_as_they_come(folder, tmp_path):
    path = tmp_path / "new" / "captions.jsonl"
    seen = []

    class Watching(Captioner):
        def __call__(self, pictures):
            seen.append(lines(path) if path.exists() else None)
            return super().__call__(pictures)

    captioner = Watching()
    outcome = run(CaptionFile(path, "skip"), find_pictures([folder]).pictures, captioner)
    assert lines(path) == ALL
    assert json.loads(path.read_text().splitlines()[0]) == {"file_name": "A.PNG", "text": "width 2"}
    assert captioner.batches == [2, 1] and seen == [None, ALL[:2]]
    assert (outcome.written, outcome.done_before, outcome.empty, outcome.broken) == (3, 0, 0, ())


class Ready:
    """A prepared picture whose life can be watched."""

    def __init__(self, picture):
        self.width = picture.width


def test_a_batch_is_read_while_the_one_before_is_captioned_and_no_more_than_that(tmp_path, monkeypatch):
    paths = [paint(tmp_path / f"{number:02}.png", number + 1) for number in range(11)]
    pictures = find_pictures([tmp_path]).pictures
    here, alive, read, ahead, held = threading.get_ident(), weakref.WeakSet(), [], [], []

    def prepare(picture):
        ready = Ready(picture)
        alive.add(ready)
        read.append((picture.width, threading.get_ident()))
        return ready

    def captioner(ready):
        said = [f"width {one.width}" for one in ready]
        wanted = min(len(paths), sum(ahead_of := [len(said), *map(len, written)]) + 3)
        deadline = time.monotonic() + 30
        while len(read) < wanted and time.monotonic() < deadline:
            time.sleep(0.001)
        ahead.append(len(read) - sum(ahead_of))
        held.append(len(alive))
        return said

    written = []
    place = CaptionFile(tmp_path / "captions.jsonl", "skip")
    monkeypatch.setattr(place, "write", lambda rows: written.append(rows))
    caption_pictures(pictures, place, captioner, prepare=prepare, batch_size=3, progress=lambda done, total: None)
    assert [text for rows in written for _, text in rows] == [f"width {number + 1}" for number in range(11)]
    assert ahead == [3, 3, 2, 0], "the next batch, while this one is captioned"
    assert max(held) <= 3 + 2, "the next batch, and the first and last of this one, which loops still hold"
    assert read[0] == (1, here) and all(thread != here for _, thread in read[1:])


def test_progress_counts_what_was_done_before(folder, tmp_path):
    path, pictures, told = tmp_path / "captions.jsonl", find_pictures([folder]).pictures, []
    run(CaptionFile(path, "skip"), pictures[:1])
    run(CaptionFile(path, "skip"), pictures, batch_size=1, progress=lambda *counts: told.append(counts))
    assert told == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("half", ['{"file_name": "b.png", "te', '{"fi', '{"file_name": "b.png", "text": "width 1"}'])
def test_going_on_after_a_kill_mends_the_last_line(folder, tmp_path, half):
    path = tmp_path / "captions.jsonl"
    path.write_text('{"file_name": "A.PNG", "text": "width 2"}\n' + half)
    captioner = Captioner()
    outcome = run(CaptionFile(path, "skip"), find_pictures([folder]).pictures, captioner)
    assert lines(path) == ALL
    whole = half.endswith("}")
    assert (outcome.done_before, sum(captioner.batches)) == ((2, 1) if whole else (1, 2))


def test_looking_at_a_file_changes_nothing(tmp_path):
    path = tmp_path / "captions.jsonl"
    path.write_text('{"file_name": "A.PNG", "text": "x"}\n{"file_n')
    before = path.read_bytes()
    for existing in ("skip", "overwrite", "append"):
        CaptionFile(path, existing)
        CaptionFile(tmp_path / "new" / "captions.jsonl", existing)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["captions.jsonl"]


def test_append_adds_what_is_new_to_the_same_line(folder, tmp_path):
    path, pictures = tmp_path / "captions.jsonl", find_pictures([folder]).pictures
    path.write_text(
        '{"file_name": "gone.png", "text": "old"}\n{"file_name": "b.png", "text": ["width 1", "x"], "image_id": 7}\n'
    )
    run(CaptionFile(path, "append"), pictures)
    run(CaptionFile(path, "append"), pictures, Captioner("w"))
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert entries == [
        {"file_name": "gone.png", "text": "old"},
        {"file_name": "b.png", "text": ["width 1", "x", "w1"], "image_id": 7},
        {"file_name": "A.PNG", "text": ["width 2", "w2"]},
        {"file_name": "inner/a.jpg", "text": ["width 3", "w3"]},
    ]
    run(CaptionFile(path, "append"), pictures, Captioner("w"))
    assert [json.loads(line) for line in path.read_text().splitlines()] == entries


GONE = '{"file_name": "gone.png",  "text": "old"}\n{"file_name": "gone.png", "text": "older", "split": "x"}\n'


def test_overwrite_replaces_the_captions_of_its_pictures_and_keeps_every_other_line_and_key(folder, tmp_path):
    path, pictures = tmp_path / "captions.jsonl", find_pictures([folder]).pictures
    own = '{"file_name": "b.png", "text": ["by hand", "x"], "image_id": 7}\n{"file_name": "b.png", "text": "y"}\n'
    path.write_text(GONE + own + '{"file_name": "half.p')
    run(CaptionFile(path, "overwrite"), pictures[:2])
    run(CaptionFile(path, "overwrite"), pictures, Captioner("w"))
    assert path.read_text() == GONE + (
        '{"file_name": "b.png", "text": "w1", "image_id": 7}\n'
        '{"file_name": "A.PNG", "text": "w2"}\n{"file_name": "inner/a.jpg", "text": "w3"}\n'
    )


def test_an_overwrite_that_is_broken_off_has_replaced_what_it_made(folder, tmp_path):
    path, pictures = tmp_path / "captions.jsonl", find_pictures([folder]).pictures
    path.write_text(GONE + '{"file_name": "A.PNG", "text": "old"}\n{"file_name": "b.png", "text": "old"}\n')

    def break_off(done, total):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(CaptionFile(path, "overwrite"), pictures, batch_size=1, progress=break_off)
    assert path.read_text() == GONE + (
        '{"file_name": "A.PNG", "text": "width 2"}\n{"file_name": "b.png", "text": "old"}\n'
    )


def test_side_cars(folder):
    pictures = find_pictures([folder]).pictures
    (folder / "b.txt").write_text("by hand\n")
    outcome = run(SideCars(pictures, "skip"), pictures)
    assert (outcome.written, outcome.done_before) == (2, 1)
    texts = {name: (folder / name).read_text() for name in ("A.txt", "b.txt", "inner/a.txt")}
    assert texts == {"A.txt": "width 2\n", "b.txt": "by hand\n", "inner/a.txt": "width 3\n"}
    run(SideCars(pictures, "append"), pictures)
    run(SideCars(pictures, "append"), pictures)
    assert (folder / "b.txt").read_text() == "by hand\nwidth 1\n" and (folder / "A.txt").read_text() == "width 2\n"
    run(SideCars(pictures, "overwrite"), pictures)
    assert (folder / "b.txt").read_text() == "width 1\n"
    assert not list(folder.rglob("*.tmp"))


def test_each_place_knows_its_own_files(folder, tmp_path):
    side_cars = SideCars(find_pictures([folder]).pictures, "skip")
    assert side_cars.owns(folder / "b.txt") and not side_cars.owns(folder / "notes.md")
    file = CaptionFile(folder / "captions.jsonl", "skip")
    assert file.owns(folder / "inner" / ".." / "captions.jsonl") and not file.owns(folder / "b.txt")


def test_two_pictures_never_share_a_side_car(folder):
    paint(folder / "b.jpg")
    with pytest.raises(DataError, match=r"b\.jpg and .*b\.png would share .*b\.txt"):
        SideCars(find_pictures([folder]).pictures, "skip")


def test_broken_pictures_are_named_and_left_out_and_batches_stay_full(folder, tmp_path):
    (folder / "B0.jpg").write_text("<html>")
    Image.effect_noise((32, 32), 90).save(folder / "c.png")
    (folder / "c.png").write_bytes((folder / "c.png").read_bytes()[:500])
    captioner, path = Captioner(), tmp_path / "captions.jsonl"
    outcome = run(CaptionFile(path, "skip"), find_pictures([folder]).pictures, captioner)
    assert lines(path) == ALL and captioner.batches == [2, 1]
    assert [(one.name, one.reason.split(" (")[0]) for one in outcome.broken] == [
        ("B0.jpg", "this is no picture in one of the formats JPEG, PNG, WEBP, GIF, BMP, TIFF."),
        ("c.png", "the picture is broken"),
    ]


def test_where_all_pictures_are_broken_all_are_named(tmp_path):
    pictures = [Picture(tmp_path / name, name) for name in ("1.png", "2.png")]
    path = tmp_path / "captions.jsonl"
    outcome = run(CaptionFile(path, "skip"), pictures)
    assert outcome.all_broken and [one.name for one in outcome.broken] == ["1.png", "2.png"]
    assert all(one.reason.startswith("the picture cannot be read (No such file") for one in outcome.broken)
    assert not path.exists()
    path.write_text('{"file_name": "1.png", "text": "by hand"}\n')
    assert not run(CaptionFile(path, "skip"), pictures).all_broken
    assert not run(CaptionFile(path, "skip"), pictures[:1]).all_broken


def silent_on(width):
    """A captioner that has no words for pictures of one width."""
    return lambda opened: [" " if picture.width == width else f"width {picture.width}" for picture in opened]


@pytest.mark.parametrize("existing", ["skip", "overwrite", "append"])
@pytest.mark.parametrize("kind", ["file", "beside"])
def test_empty_captions_are_not_written_and_told_and_tried_again(folder, tmp_path, caplog, existing, kind):
    path, pictures, told = tmp_path / "captions.jsonl", find_pictures([folder]).pictures, []

    def place():
        return CaptionFile(path, existing) if kind == "file" else SideCars(pictures, existing)

    outcome = run(place(), pictures, silent_on(1), progress=lambda *counts: told.append(counts))
    assert (outcome.written, outcome.empty, told[-1]) == (2, 1, (3, 3))
    assert "1 captions came out empty and were not written, such as that of b.png; the next run tries" in caplog.text
    assert lines(path) == [ALL[0], ALL[2]] if kind == "file" else not (folder / "b.txt").exists()
    outcome = run(place(), pictures)
    assert (outcome.written, outcome.done_before) == ((1, 2) if existing == "skip" else (3, 0))
    if kind == "file":
        assert sorted(lines(path)) == ALL
    else:
        assert (folder / "b.txt").read_text() == "width 1\n"


def test_a_line_without_a_caption_is_not_done_and_gets_one(folder, tmp_path):
    path, pictures = tmp_path / "captions.jsonl", find_pictures([folder]).pictures
    path.write_text('{"file_name": "b.png", "text": " ", "image_id": 7}\n{"file_name": "gone.png", "text": ""}\n')
    outcome = run(CaptionFile(path, "skip"), pictures)
    assert (outcome.written, outcome.done_before) == (3, 0)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"file_name": "b.png", "text": "width 1", "image_id": 7},
        {"file_name": "gone.png", "text": ""},
        {"file_name": "A.PNG", "text": "width 2"},
        {"file_name": "inner/a.jpg", "text": "width 3"},
    ]


@pytest.mark.parametrize("nothing", [b"", b" \n\t\n", b"\xef\xbb\xbf\n"])
@pytest.mark.parametrize("existing", ["skip", "overwrite", "append"])
def test_a_side_car_without_a_caption_is_not_done(folder, nothing, existing):
    pictures = find_pictures([folder]).pictures
    (folder / "b.txt").write_bytes(nothing)
    assert run(SideCars(pictures, existing), pictures).done_before == 0
    assert (folder / "b.txt").read_text() == "width 1\n"


def test_a_side_car_that_is_there_counts_whichever_case_its_ending_has(folder):
    pictures = find_pictures([folder]).pictures
    (folder / "b.TXT").write_text("by hand\n")
    place = SideCars(pictures, "skip")
    assert place.owns(folder / "b.TXT") and not place.owns(folder / "b.txt")
    assert run(place, pictures).done_before == 1
    run(SideCars(pictures, "append"), pictures)
    assert (folder / "b.TXT").read_text() == "by hand\nwidth 1\n"
    run(SideCars(pictures, "overwrite"), pictures)
    assert (folder / "b.TXT").read_text() == "width 1\n" and not (folder / "b.txt").exists()


def test_two_side_cars_of_one_picture_are_refused(folder):
    (folder / "b.TXT").write_text("one\n")
    (folder / "b.txt").write_text("two\n")
    with pytest.raises(DataError, match=r"b\.png has two texts beside it, b\.TXT and b\.txt; keep one of them"):
        SideCars(find_pictures([folder]).pictures, "skip")


def test_a_caption_is_one_line_of_a_side_car(folder):
    pictures = find_pictures([folder / "b.png"]).pictures
    for _ in range(2):
        run(SideCars(pictures, "append"), pictures, lambda opened: ["one\ntwo\u2028three" for _ in opened])
    assert (folder / "b.txt").read_text() == "one two three\n"


def test_a_picture_that_is_named_like_a_text_is_never_written_over(folder):
    (folder / "b.png").rename(folder / "b.txt")
    with pytest.raises(DataError, match=r"b\.txt is a picture and would be written over by a text; rename it"):
        SideCars(find_pictures([folder / "b.txt"]).pictures, "overwrite")


class FullDisk:
    """A file that takes some bytes and then no more, as a disk that gets full does."""

    def __init__(self, file, room):
        self._file, self._room = file, room

    def write(self, content):
        if self._room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = self._file.write(content[: self._room])
        self._room -= taken
        return taken

    def __getattr__(self, name):
        return getattr(self._file, name)


def test_a_full_disk_leaves_whole_lines_and_the_run_goes_on_later(folder, tmp_path, monkeypatch):
    path, pictures = tmp_path / "captions.jsonl", find_pictures([folder]).pictures
    place, opened = CaptionFile(path, "skip"), CaptionFile._open
    full = []

    def open_full(self):
        if not full:
            full.append(FullDisk(opened(self), 60))
        return full[0]

    monkeypatch.setattr(CaptionFile, "_open", open_full)
    with pytest.raises(UserError, match=r"captions\.jsonl cannot be written \(No space left on device\); what was"):
        run(place, pictures, batch_size=1)
    assert lines(path) == ALL[:1] and path.read_bytes().endswith(b"}\n")
    monkeypatch.undo()
    run(CaptionFile(path, "skip"), pictures)
    assert lines(path) == ALL


def test_a_full_disk_leaves_no_half_side_car(folder, monkeypatch):
    pictures = find_pictures([folder]).pictures
    (folder / "b.txt").write_text("by hand\n")

    def refuse(path, write):
        if path.name == "b.txt":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path)

    monkeypatch.setattr(output, "write_atomically", refuse)
    with pytest.raises(UserError, match=r"b\.txt cannot be written \(No space left on device\)"):
        run(SideCars(pictures, "overwrite"), pictures)
    assert (folder / "A.txt").read_text() == "width 2\n" and (folder / "b.txt").read_text() == "by hand\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("important\n", "line 1: this is no caption"),
        ("important", "line 1: this is no caption"),
        ('{"file_name": "a", "text": "b"}\n{"file_name": "a"}\n', "line 2: this is no caption"),
        ('{"file_name": "a", "text": 3}\n', "line 1: this is no caption"),
        ("[]\n", "line 1: this is no caption"),
    ],
)
@pytest.mark.parametrize("existing", ["skip", "overwrite", "append"])
def test_a_file_of_other_things_is_left_alone(tmp_path, content, message, existing):
    path = tmp_path / "notes.txt"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        CaptionFile(path, existing)
    assert path.read_text() == content


def test_a_place_that_cannot_be_written_is_refused_first(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written \(Not a directory\); choose another output"):
        CaptionFile(tmp_path / "file" / "captions.jsonl", "skip")
    with pytest.raises(UserError, match="cannot be written"):
        CaptionFile(Path("/proc/isthmus/captions.jsonl"), "skip")
    for path in (tmp_path / ("x" * 300), tmp_path / ("x" * 300) / "captions.jsonl"):
        with pytest.raises(UserError, match=r"cannot be .* \(File name too long\)"):
            CaptionFile(path, "skip")
    with pytest.raises(DataError, match="is no file that captions can be written to"):
        CaptionFile(tmp_path, "skip")
    paint(tmp_path / "a.png")
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(DataError, match=r"a\.txt is no file"):
        SideCars(find_pictures([tmp_path / "a.png"]).pictures, "skip")


def test_a_side_car_that_is_no_text_is_not_added_to(tmp_path):
    paint(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe")
    pictures = find_pictures([tmp_path]).pictures
    with pytest.raises(DataError, match=r"a\.txt is no text in UTF-8"):
        run(SideCars(pictures, "append"), pictures)
    assert (tmp_path / "a.txt").read_bytes() == b"\xff\xfe"


def test_a_name_that_is_no_utf_8_goes_out_and_in_again(tmp_path):
    paint(Path(os.fsdecode(os.fsencode(tmp_path / "pictures") + b"/\xff.png")))
    paint(tmp_path / "pictures" / "ä.png")
    path, pictures = tmp_path / "captions.jsonl", find_pictures([tmp_path / "pictures"]).pictures
    assert run(CaptionFile(path, "skip"), pictures).written == 2
    assert run(CaptionFile(path, "skip"), pictures).done_before == 2
    assert "ä.png" in path.read_text(encoding="utf-8")
