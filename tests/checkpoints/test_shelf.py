"""The checkpoints of a run: whatever is cut off, full or damaged, one before it is there, bit for bit."""

import errno
import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from isthmus.checkpoints import shelf as shelf_module
from isthmus.checkpoints.shelf import Shelf
from isthmus.errors import CheckpointError
from training_files import DAMAGES, NAMES, print_of, save_tokenizer, training_file

PROGRAM = Path(__file__).parent.parent / "killed_shelves.py"
PRINTS = {step: print_of(training_file(step)) for step in range(1, 9)}


@pytest.fixture
def shelf(tmp_path):
    """A shelf with the checkpoints of steps 1, 2 and 3."""
    shelf = Shelf(tmp_path / "run" / "checkpoints", keep=3)
    for step in (1, 2, 3):
        shelf.write(training_file(step), step, save_tokenizer=save_tokenizer)
    return shelf


def again(shelf, keep=3):
    """The shelf as another process opens it."""
    return Shelf(shelf.folder, keep=keep)


def steps(shelf):
    return sorted(int(path.name.removeprefix("step-")) for path in shelf.folder.glob("step-*"))


def there(shelf):
    return sorted(path.name for path in shelf.folder.iterdir())


def place(shelf, step):
    return shelf.folder / f"step-{step:08d}"


def assert_newest(shelf, step, *passed_over):
    """Another process finds this step, bit for bit, and has these things to say, one for each pattern in its order."""
    found = again(shelf).newest()
    assert (found.folder, print_of(found.file)) == (place(shelf, step), PRINTS[step])
    assert len(found.passed_over) == len(passed_over), found.passed_over
    for sentence, words in zip(found.passed_over, passed_over, strict=True):
        assert words in sentence


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def run(mode, folder, *, around=()):
    """What a program that writes and is killed said, line by line."""
    done = subprocess.run(
        [*around, sys.executable, str(PROGRAM), mode, str(folder)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_what_is_written_is_found(shelf):
    assert there(shelf) == ["latest", "step-00000001", "step-00000002", "step-00000003"]
    assert (shelf.folder / "latest").read_text() == "step-00000003\n"
    assert_newest(shelf, 3)
    assert shelf.write(training_file(4), 4) == place(shelf, 4)


def test_where_there_was_never_one_there_is_none(tmp_path):
    assert Shelf(tmp_path / "nowhere", keep=1).newest() is None
    assert Shelf(tmp_path / "nowhere", keep=1).best() is None
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(ValueError, match="keeps 1 checkpoint or more, not 0"):
        Shelf(tmp_path, keep=0)


def test_the_last_ones_and_the_best_are_kept(shelf):
    shelf = again(shelf, keep=2)
    shelf.mark_best(1, "R@1", 0.25)
    assert steps(shelf) == [1, 2, 3], "a shelf that has written nothing removes nothing"
    for step in (4, 5):
        shelf.write(training_file(step), step)
    assert steps(shelf) == [1, 4, 5]
    assert again(shelf).best() == {"step": 1, "metric": "R@1", "value": 0.25}
    shelf.mark_best(5, "R@1", 0.1 + 0.2)
    assert steps(shelf) == [4, 5]
    assert again(shelf).best() == {"step": 5, "metric": "R@1", "value": 0.1 + 0.2}


def test_what_is_not_there_is_not_marked(shelf):
    with pytest.raises(CheckpointError, match=r"step-00000009 is not there to be kept as the best"):
        shelf.mark_best(9, "R@1", 1.0)
    assert shelf.best() is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"step": 1}', b'{"step": "1", "metric": "a", "value": 1}'])
def test_a_damaged_mark_is_said_and_nothing_is_removed(shelf, content):
    shelf.mark_best(1, "R@1", 0.25)
    (shelf.folder / "best.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"best\.json is damaged; remove it"):
        shelf.best()
    shelf.write(training_file(4), 4)
    assert steps(shelf) == [1, 2, 3, 4]
    assert_newest(shelf, 4)


def test_older_ones_go_only_when_the_new_one_is_named(shelf, monkeypatch):
    shelf.keep = 1
    put = shelf._put

    def put_watched(name, line):
        assert steps(shelf) == [1, 2, 3, 4]
        put(name, line)

    monkeypatch.setattr(shelf, "_put", put_watched)
    shelf.write(training_file(4), 4)
    assert steps(shelf) == [4]


def test_going_back_gives_up_what_came_after(shelf):
    """Only once the next checkpoint is on the disk, and not the best; until then `latest` says where the run stands."""
    shelf.mark_best(1, "R@1", 0.5)
    shelf.write(training_file(4), 4)
    back = again(shelf)
    assert_newest(shelf, 4)
    back.write(training_file(2), 2)
    assert steps(shelf) == [1, 2]
    assert_newest(shelf, 2)
    back.mark_best(2, "R@1", 0.6)
    back.write(training_file(1), 1)
    assert steps(shelf) == [1, 2]
    assert_newest(shelf, 1, "step-00000002 does not count: latest names an earlier one")


def test_a_later_one_that_latest_does_not_name_does_not_count(shelf):
    (shelf.folder / "latest").write_text("step-00000002\n")
    assert_newest(shelf, 2, "step-00000003 does not count: latest names an earlier one")


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [*NAMES, "complete"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(shelf, name, damage):
    damage(place(shelf, 3) / name)
    named = str(place(shelf, 3)) if name == "complete" else name
    assert_newest(shelf, 2, named)
    damage(place(shelf, 2) / name)
    assert_newest(shelf, 1, named, "step-00000002")
    assert steps(shelf) == [1, 2, 3], "what is damaged is left for whoever looks into it"
    again(shelf, keep=1).write(training_file(3), 3)
    assert steps(shelf) == [3]
    assert_newest(shelf, 3)


def test_pickles_are_passed_over_by_name(shelf):
    (place(shelf, 3) / "optimizer.pt").write_bytes(b"\x80\x04.")
    assert_newest(shelf, 2, "optimizer.pt has the name of a pickle")


def test_the_only_undamaged_one_is_not_removed(shelf):
    for step in (2, 3):
        (place(shelf, step) / "model.safetensors").write_bytes(b"")
    resumed = again(shelf, keep=1)
    assert resumed.newest().folder == place(shelf, 1)
    resumed.mark_best(3, "R@1", 0.5)
    assert steps(shelf) == [1, 2, 3]
    resumed.write(training_file(2), 2)
    assert steps(shelf) == [2, 3]
    assert_newest(shelf, 2, "step-00000003 does not count")


@pytest.mark.parametrize("damage", [*DAMAGES, lambda path: path.write_text("step-00000009\n")])
def test_without_latest_the_newest_whole_one_is_found_by_looking(shelf, damage):
    damage(shelf.folder / "latest")
    assert_newest(shelf, 3, "latest ")
    (place(shelf, 3) / "complete").unlink()
    assert_newest(shelf, 2, "latest ", "step-00000003 is no whole checkpoint: it lacks complete")


def test_where_all_are_damaged_nothing_begins_from_the_start(shelf):
    for step in (1, 2, 3):
        (place(shelf, step) / "training.json").unlink()
    with pytest.raises(
        CheckpointError, match=r"holds no checkpoint that can be read \(.*step-00000003.*training\.json"
    ):
        again(shelf).newest()
    for step in (1, 2, 3):
        shutil.rmtree(place(shelf, step))
    with pytest.raises(CheckpointError, match=r"latest names step-00000003, which is not there"):
        again(shelf).newest()


def test_leftovers_are_named_and_removed(shelf):
    for name in (".tmp-step-00000004-abc", ".tmp-gone-step-00000001", ".step-00000003-old"):
        shutil.copytree(place(shelf, 1), shelf.folder / name)
    for name in (".latest.tmp", ".best.json.tmp"):
        (shelf.folder / name).write_text("step")
    left = [name for name in there(shelf) if name.startswith(".")]
    assert_newest(shelf, 3, *sorted(left, key=lambda name: str(shelf.folder / name)))
    assert there(shelf) == ["latest", "step-00000001", "step-00000002", "step-00000003"]
    (shelf.folder / ".tmp-step-00000004-abc").mkdir()
    assert len(again(shelf).clear()) == 1
    assert again(shelf).clear() == []


def test_a_checkpoint_that_was_being_replaced_is_found(shelf):
    place(shelf, 3).rename(shelf.folder / ".step-00000003-old")
    assert_newest(shelf, 3)


def test_a_run_may_be_moved(shelf, tmp_path):
    shelf.mark_best(1, "R@1", 0.5)
    moved = (tmp_path / "run").rename(tmp_path / "elsewhere")
    content = b"".join(path.read_bytes() for path in moved.rglob("*") if path.is_file())
    assert str(tmp_path).encode() not in content
    found = Shelf(moved / "checkpoints", keep=1)
    assert print_of(found.newest().file) == PRINTS[3]
    found.write(training_file(4), 4)
    assert steps(found) == [1, 4]


@pytest.mark.parametrize("name", ["latest", "best.json"])
def test_a_disk_that_is_full_for_the_last_line_takes_nothing_away(shelf, monkeypatch, name):
    shelf.mark_best(1, "R@1", 0.5)
    shelf.keep = 1
    monkeypatch.setattr(shelf_module, "write_atomically", full)
    with pytest.raises(CheckpointError, match=rf"{name} could not be written \(No space left on device\); free some"):
        shelf.write(training_file(4), 4) if name == "latest" else shelf.mark_best(2, "R@1", 0.6)
    monkeypatch.undo()
    ahead = ["step-00000004 does not count"] if name == "latest" else []
    assert_newest(shelf, 3, *ahead)
    assert steps(shelf)[:3] == [1, 2, 3]
    assert shelf.best()["step"] == 1


class Gate:
    """Holds every write of a checkpoint until it is opened."""

    def __init__(self, monkeypatch):
        self.begun, self.opened, self.write = threading.Event(), threading.Event(), shelf_module.write_training
        monkeypatch.setattr(shelf_module, "write_training", self.held)

    def held(self, *args, **kwargs):
        self.begun.set()
        assert self.opened.wait(60)
        self.write(*args, **kwargs)


def test_a_write_in_a_thread_keeps_what_it_was_given(shelf, monkeypatch):
    """The caller goes on with its own tensors, of which it handed over copies."""
    gate, live = Gate(monkeypatch), training_file(4)
    handed = training_file(4)
    for theirs, ours in ((live.optimizer, handed.optimizer), (live.bridge.tensors, handed.bridge.tensors)):
        ours.update({name: tensor.clone() for name, tensor in theirs.items()})
    shelf.write_later(handed, 4)
    assert gate.begun.wait(60)
    for tensors in (live.optimizer, live.bridge.tensors):
        for tensor in tensors.values():
            tensor.mul_(0).add_(torch.nan)
    assert steps(shelf) == [1, 2, 3]
    gate.opened.set()
    shelf.wait()
    assert_newest(shelf, 4)


def test_writes_keep_their_order_and_never_overlap(shelf, monkeypatch):
    inside, order, write = [], [], shelf_module.write_training

    def watched(file, place, **kwargs):
        assert not inside
        inside.append(place)
        write(file, place, **kwargs)
        order.append(int(place.name.removeprefix("step-")))
        inside.pop()

    monkeypatch.setattr(shelf_module, "write_training", watched)
    for step in (4, 5, 6):
        shelf.write_later(training_file(step), step)
    shelf.write(training_file(7), 7)
    shelf.write_later(training_file(8), 8)
    shelf.mark_best(8, "R@1", 0.5)
    assert order == [4, 5, 6, 7, 8]
    assert steps(shelf) == [6, 7, 8]
    assert_newest(shelf, 8)


def test_who_looks_waits_for_the_outstanding_write(shelf, monkeypatch):
    gate = Gate(monkeypatch)
    shelf.write_later(training_file(4), 4)
    assert gate.begun.wait(60)
    threading.Timer(0.05, gate.opened.set).start()
    assert print_of(shelf.newest().file) == PRINTS[4]


@pytest.mark.parametrize("next_call", ["wait", "write", "write_later", "mark_best", "newest"])
def test_a_failure_in_the_thread_is_told_once_by_what_comes_next(shelf, monkeypatch, next_call):
    arguments = {"write": (training_file(5), 5), "write_later": (training_file(5), 5), "mark_best": (3, "R@1", 0.5)}
    with monkeypatch.context() as broken:
        broken.setattr("isthmus.checkpoints.sealed.save_file", full)
        shelf.write_later(training_file(4), 4)
        with pytest.raises(CheckpointError, match=r"step-00000004 could not be written .*No space left"):
            getattr(shelf, next_call)(*arguments.get(next_call, ()))
    assert there(shelf) == ["latest", "step-00000001", "step-00000002", "step-00000003"]
    shelf.wait()
    shelf.write_later(training_file(6), 6)
    shelf.wait()
    assert_newest(shelf, 6)


def test_an_interrupted_wait_forgets_nothing(shelf, monkeypatch):
    gate = Gate(monkeypatch)
    shelf.write_later(training_file(4), 4)

    def interrupted(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as signalled:
        signalled.setattr(shelf_module, "wait_for", interrupted)
        with pytest.raises(KeyboardInterrupt):
            shelf.wait()
    gate.opened.set()
    shelf.wait()
    assert_newest(shelf, 4)


def test_a_tokenizer_is_saved_by_the_thread_that_uses_it(shelf):
    threads = []

    def save(folder):
        threads.append(threading.current_thread())
        (folder / "inner").mkdir()
        (folder / "inner" / "merges.txt").write_text("a b")
        save_tokenizer(folder)

    shelf.write_later(training_file(4), 4, save_tokenizer=save)
    shelf.wait()
    assert threads == [threading.current_thread()]
    assert (place(shelf, 4) / "inner" / "merges.txt").read_text() == "a b"
    assert_newest(shelf, 4)
    with pytest.raises(CheckpointError, match=r"checkpoints cannot be written \(.*No space left.*\); free some space"):
        shelf.write_later(training_file(5), 5, save_tokenizer=full)
    assert_newest(shelf, 4)


def test_a_process_that_ends_waits_for_its_write(tmp_path):
    run("leave early", tmp_path)
    assert Shelf(tmp_path, keep=1).newest().folder.name == "step-00000001"


def assert_nothing_lost(line):
    """After a kill: bit for bit what was told to be written, or the one that was being written; leftovers named."""
    assert line["equal"], line
    told = line["told"] or line["before"]
    assert told <= line["found"] <= max(told + 1, line["before"] + 1), line
    assert line["left"] == line["named"] or line["found"] == 0, line
    assert line["after"] == [], line


def test_twenty_kills_at_random_moments_lose_nothing(tmp_path):
    lines = run("moments", tmp_path)
    assert [line["code"] for line in lines] == [-9] * 20
    for line in lines:
        assert_nothing_lost(line)
    assert any(line["left"] for line in lines), "some were in the midst of a write"
    assert lines[-1]["found"] > lines[0]["before"], "and the run went on"


def test_a_kill_before_any_call_that_writes_loses_nothing(tmp_path):
    lines = run("calls", tmp_path)
    assert [line["code"] for line in lines] == [-9] * (len(lines) - 1) + [0]
    assert len(lines) > 50
    for line in lines[:-1]:
        assert line["equal"] and line["found"] in ((3,) if line["told"] else (2, 3)), line
        assert {name for name in line["left"] if not name.endswith("-old")} <= {*line["named"]}, line
        assert line["after"] == [], line


def test_a_kill_at_any_byte_of_a_file_loses_nothing(tmp_path):
    lines = run("bytes", tmp_path)
    assert {line["code"] for line in lines} == {-25}, "SIGXFSZ: the kernel ended it at that byte"
    for line in lines:
        assert_nothing_lost(line)
        assert line["left"], line


def test_what_is_written_is_on_the_disk_before_what_comes_after_it(tmp_path):
    """Files and folders before the marker, it before the name, that before `latest`, that before anything goes."""
    calls = [tuple(call) for call in run("trace", tmp_path)]
    (scratch,) = {call[1] for call in calls if call[0] == "mkdir" and "/.tmp-step-00000003-" in call[1]}
    scratch = scratch.split()[0]
    named = next(call for call in calls if call[0] == "rename" and call[1].startswith(scratch))
    removed = next(call for call in calls if call[0] == "rename" and "gone-step-00000001" in call[1])
    order = [
        ("open", f"{scratch}/complete"),
        ("fsync", f"{scratch}/complete"),
        named,
        ("fsync", "SHELF"),
        ("open", "SHELF/.latest.tmp"),
        ("fsync", "SHELF/.latest.tmp"),
        ("rename", "SHELF/.latest.tmp SHELF/latest"),
    ]
    places = [calls.index(call) for call in order]
    assert places == sorted(places), calls
    for name in NAMES:
        assert calls.index(("fsync", f"{scratch}/{name}")) < places[0], calls
    assert ("fsync", scratch) in calls[places[1] : places[2]]
    assert ("fsync", "SHELF") in calls[places[-1] : calls.index(removed)]
    assert not [
        path for event, path in calls[: calls.index(removed)] if event in ("remove", "rmdir") and "step" in path
    ]


def test_a_small_disk_that_is_full(tmp_path, record_property):
    """A tmpfs of 4 MB in a mount namespace of its own, where that is permitted; the other tests inject ENOSPC."""
    inside = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=4m none "$0" && exec "$@"', str(tmp_path)]
    try:
        tried = subprocess.run([*inside, "true"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no unshare on this system: ENOSPC is injected at the write seam by the other tests only")
    if tried.returncode:
        pytest.skip(
            f"no tmpfs can be mounted here ({tried.stderr.strip()}): ENOSPC is injected at the write seam by the "
            "other tests only"
        )
    (line,) = run("small disk", tmp_path, around=inside)
    record_property("disk", "a real tmpfs of 4 MB")
    assert [sentence is None for sentence in line["said"]] == [True, True, True, False, False, True]
    before, middle = line["said"][3:5]
    assert "step-00000004 takes 0.001 GB and 0.00" in before and "GB are free; free space" in before
    assert "step-00000004 could not be written (" in middle and "free some space" in middle
    assert line["left"] == ["latest", "step-00000001", "step-00000002", "step-00000003"]
    assert line["equal"] == [True, True]
    assert line["passed_over"] == []
    assert list(tmp_path.iterdir()) == [], "the disk was its own"
