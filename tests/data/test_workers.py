"""Loading processes that are killed, hang, find no shared memory, or would outlive the one that they work for."""

import errno
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from torch.utils.data import Dataset

from isthmus.data.loader import TrainingRows, make_loader
from isthmus.data.sampler import CounterSampler
from isthmus.data.screen import verdicts
from isthmus.data.workers import Workers, prepared
from isthmus.errors import UserError, WorkerError
from isthmus.records import Example, Text

SOURCE = [Example(Path(f"{index}.jpg"), str(index), (f"a {index}",)) for index in range(12)]
GONE = 10
"""Seconds that a process gets to disappear; it takes far less."""


def tokenize(captions):
    ids = torch.tensor([[len(caption)] for caption in captions])
    return Text(ids, torch.ones_like(ids, dtype=torch.bool))


def look(example, index, epoch):
    return torch.tensor([float(index), float(epoch)])


def loader(look=look, count=2, timeout=60.0):
    """Four epochs of three batches of four."""
    rows = TrainingRows(SOURCE, look, seed=1)
    sampler = CounterSampler(len(SOURCE), 4, seed=1)
    return make_loader(rows, sampler, steps=range(12), tokenize=tokenize, workers=Workers(count, timeout))


def at_row_4(do):
    """Load, but do something else at a row that lies in every epoch."""

    def strange(example, index, epoch):
        if index == 4 and multiprocessing.parent_process() is not None:
            do()
        return look(example, index, epoch)

    return strange


BEFORE = set()


@pytest.fixture(autouse=True)
def before():
    """Processes that other tests left: the interpreter's resource tracker is not the loader's to end."""
    BEFORE.clear()
    BEFORE.update(psutil.Process().children())


def children():
    """All processes, ended ones that nobody waited for too, that began in this test."""
    return [one for one in psutil.Process().children() if one not in BEFORE]


def rows_of(batches):
    return [(batch.index.tolist(), batch.captions, batch.vision.tolist()) for batch in batches]


ENDS = {
    "killed": (lambda: os.kill(os.getpid(), signal.SIGKILL), r"was killed \(SIGKILL\), as a system that runs out of"),
    "no memory": (lambda: os.kill(os.getpid(), signal.SIGBUS), "ended by SIGBUS, as happens where shared memory is"),
    "terminated": (lambda: os.kill(os.getpid(), signal.SIGTERM), "ended by SIGTERM"),
    "left": (lambda: os._exit(3), "ended with exit code 3"),
    "left in peace": (lambda: os._exit(0), "ended with exit code 0"),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("count", [1, 2])
def test_a_worker_that_ends_is_named_with_the_row_it_was_at(end, count):
    do, words = ENDS[end]
    with pytest.raises(UserError, match=rf"^loading worker [01] \(pid \d+\) {words}") as told:
        list(loader(at_row_4(do), count))
    assert isinstance(told.value, WorkerError)
    assert "; it had last begun row 4 (4.jpg): free memory, enlarge /dev/shm (" in str(told.value)
    assert str(told.value).endswith(" MB are free there), or lower data.workers (0 loads in the training process)")
    assert not children()


class Silent(Dataset):
    """Rows that say nothing of themselves."""

    def __getitem__(self, key):
        if key == 2:
            os._exit(1)
        return key


def test_a_worker_that_ends_before_its_first_row_is_told_too():
    with pytest.raises(WorkerError, match=r"loading worker 1 \(pid \d+\) ended with exit code 1; it had begun no row:"):
        list(prepared(Silent(), [[1], [2], [3]], collate=list, workers=Workers(2), name=str))


@pytest.mark.parametrize("count", [1, 2])
def test_a_worker_that_hangs_is_named_within_the_timeout(count):
    begun = time.monotonic()
    with pytest.raises(WorkerError, match=r"^loading worker [01] \(pid \d+\) gave no batch within 3 seconds") as told:
        list(loader(at_row_4(lambda: time.sleep(600)), count, timeout=3.0))
    assert "; it had last begun row 4 (4.jpg): see whether that can be read at all, raise data.timeout" in str(
        told.value
    )
    assert time.monotonic() - begun < 3 + GONE and not children()


def test_a_worker_that_is_slow_but_within_the_timeout_is_waited_for():
    slow = at_row_4(lambda: time.sleep(0.7))
    assert rows_of(loader(slow, 1)) == rows_of(loader(count=0))


def test_workers_that_are_frozen_with_batches_in_their_hands_end_the_wait_too():
    stream = iter(loader(timeout=1.0))
    next(stream)
    time.sleep(0.5)  # for them to load ahead: what they have loaded is fetched from them when it is asked for
    for worker in children():
        worker.suspend()
    with pytest.raises(WorkerError, match=r"gave no batch within 1 seconds"):
        list(stream)
    assert not children()


def test_a_dead_worker_raises_at_the_next_batch_and_nowhere_else():
    before = signal.getsignal(signal.SIGCHLD)
    stream = iter(loader())
    next(stream)
    assert signal.getsignal(signal.SIGCHLD) == before
    victim = children()[0]
    victim.kill()
    for _ in range(20):
        time.sleep(0.01)  # here torch's own handler would raise
    with pytest.raises(WorkerError, match=rf"\(pid {victim.pid}\) was killed"):
        next(stream)
    assert not children()


def test_a_fault_of_the_program_in_a_worker_keeps_its_traceback():
    def divide():
        return 1 / 0

    with pytest.raises(ZeroDivisionError, match=r"(?s)Caught ZeroDivisionError in DataLoader worker.*in divide"):
        list(loader(at_row_4(divide)))
    assert not children()


def no_room(*_):
    raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)\nat x")


def test_shared_memory_that_is_full_is_told_where_it_is_needed(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "share_memory_", no_room)
    with pytest.raises(
        WorkerError, match=r"^loading worker 0 \(pid \d+\) cannot put a batch into shared memory"
    ) as told:
        list(loader())
    why = "(unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)): free memory, enl"
    assert why in str(told.value)
    assert not children()


_LARGE = """
import torch
from isthmus.data.workers import Workers, begin, prepared
from isthmus.errors import WorkerError
class Rows:
    def __getitem__(self, key):
        begin(key)
        return torch.zeros(500_000)
try:
    for _ in prepared(Rows(), [[0], [1, 2]], collate=torch.stack, workers=Workers(1), name=str):
        print("a batch")
except WorkerError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("size", "batches", "said"),
    [
        ("3m", 1, r"loading worker 0 \(pid \d+\) cannot put a batch into shared memory \(.*No space left on device"),
        (
            "4k",
            0,
            r"1 loading workers cannot be started \(No space left on device\): free memory, enlarge /dev/shm \(0 MB",
        ),
    ],
)
def test_a_small_dev_shm_is_told(size, batches, said):
    """The real thing, where this machine lets a process mount a file system of its own."""
    inside = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    mount = f"mount -t tmpfs -o size={size} none /dev/shm"
    if subprocess.run([*inside, mount], capture_output=True, check=False).returncode:
        pytest.skip("a file system cannot be mounted here; test_shared_memory_that_is_full ran at the seam")
    script = [*inside, f'{mount} && exec "$0" -c "$1"', sys.executable, _LARGE]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.stderr == "" and done.returncode == 0
    assert done.stdout.startswith("a batch\n" * batches)
    assert re.match(said, done.stdout.removeprefix("a batch\n" * batches))


def test_workers_that_cannot_be_started_are_told(monkeypatch):
    def full():
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(os, "fork", full)
    with pytest.raises(WorkerError, match=r"^2 loading workers cannot be started \(Cannot allocate memory\): free"):
        list(loader())


@pytest.fixture
def answered(tmp_path):
    """Handlers in this process for the signals that a run answers; the numbers of those that were answered."""
    file, kinds = tmp_path / "answered", (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

    def handle(number, _):
        with file.open("a") as lines:
            lines.write(f"{number}\n")

    before = {kind: signal.signal(kind, handle) for kind in kinds}
    yield lambda: file.read_text() if file.exists() else ""
    for kind, handler in before.items():
        signal.signal(kind, handler)


def test_signals_are_the_main_process_s_to_answer(answered):
    stream = iter(loader())
    first = next(stream)
    for worker in children():
        worker.send_signal(signal.SIGINT)
        worker.send_signal(signal.SIGUSR1)
    assert rows_of([first, *stream]) == rows_of(loader(count=0)) and answered() == ""


def test_a_worker_leaves_when_it_is_asked_to_and_says_nothing(answered, capfd):
    stream = iter(loader())
    next(stream)
    asked = children()[0]
    asked.terminate()
    while asked.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    with pytest.raises(WorkerError, match=rf"\(pid {asked.pid}\) ended by SIGTERM"):
        list(stream)  # what it had handed over before is given first
    assert answered() == "" and capfd.readouterr() == ("", "")


def test_closing_a_loader_ends_its_workers():
    loading = loader()
    streams = [iter(loading), iter(loading)]
    for stream in streams:
        next(stream)
    assert len(children()) == 4
    loading.close()
    assert not children() and [list(stream) for stream in streams] == [[], []]
    loading.close()
    assert len(list(loading)) == 12, "a closed loader starts again"


def test_an_iteration_that_is_dropped_ends_its_workers():
    stream = iter(loader())
    next(stream)
    del stream
    assert not children()


def test_a_copy_of_this_process_leaves_the_workers_alone():
    stream = iter(loader())
    first = next(stream)
    copy = os.fork()
    if not copy:
        stream.close()
        os._exit(0)
    os.waitpid(copy, 0)
    assert rows_of([first, *stream]) == rows_of(loader(count=0))


class Deadly:
    """A picture whose reading ends a worker."""

    def __str__(self):
        return "deadly.png"

    def read_bytes(self):
        os._exit(1)


def test_a_picture_that_ends_the_worker_that_tries_it_is_named():
    with pytest.raises(WorkerError, match=r"ended with exit code 1; it had last begun deadly\.png:"):
        list(verdicts([Path("nowhere.png"), Deadly()], Workers(1)))


_RUN = """
import os, signal, sys, time
from pathlib import Path
from isthmus.data.workers import Workers, begin, prepared
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in a shell's background
class Rows:
    def __getitem__(self, key):
        begin(key)
        os.write(1, f"{os.getpid()}\\n".encode())
        time.sleep(600)
list(prepared(Rows(), [[0], [1]], collate=list, workers=Workers(2, float(sys.argv[1])), name=str))
"""


@pytest.mark.parametrize("end", ["error", "SIGTERM", "SIGINT", "SIGKILL"])
def test_no_worker_outlives_the_process_it_works_for(end):
    """However that one ends, and though the workers are hung."""
    timeout = "5" if end == "error" else "600"
    with subprocess.Popen(
        [sys.executable, "-c", _RUN, timeout], stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as run:
        workers = [psutil.Process(int(run.stdout.readline())) for _ in range(2)]
        if end == "SIGINT":  # as Ctrl-C: to all of them
            os.killpg(run.pid, signal.SIGINT)
        elif end != "error":
            run.send_signal(getattr(signal, end))
        code = run.wait(timeout=60)
        _, alive = psutil.wait_procs(workers, timeout=GONE)
        assert not alive
        told = run.stderr.read().decode()
    assert code == (1 if end == "error" else -getattr(signal, end))
    assert ("gave no batch within 5 seconds; it had last begun 0:" in told) == (end == "error")
    assert told.count("Traceback") == (end in ("error", "SIGINT")), "the main process's own, and no worker's"
