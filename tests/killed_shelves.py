"""Children that write checkpoints and are killed in the midst, for `test_shelf.py`: a program of its own.

    python killed_shelves.py MODE FOLDER

Every child is a fork of this process, so that torch is imported once. Each prints what happened as one line of JSON.
"""

import json
import os
import random
import resource
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

from isthmus.checkpoints import shelf as shelf_module
from isthmus.checkpoints.shelf import Shelf
from isthmus.errors import CheckpointError
from training_files import print_of, save_tokenizer, training_file

KEEP = 2
FILES = {step: training_file(step) for step in range(1, 7)}
PRINTS = {step: print_of(file) for step, file in FILES.items()}


def file_of(step):
    """The checkpoint of any step: made beforehand, for the first six, and those again with other positions."""
    file = FILES[step % 6 + 1]
    return replace(file, position={**file.position, "step": step})


def say(content):
    sys.stdout.write(json.dumps(content) + "\n")
    sys.stdout.flush()


def write_on(folder, told):
    """Go on from the newest checkpoint and write one after the other, half of them in a thread, until killed."""
    shelf = Shelf(folder, keep=KEEP)
    found = shelf.newest()
    step = 0 if found is None else found.file.position["step"]
    while True:
        step += 1
        if step % 2:
            shelf.write(file_of(step), step, save_tokenizer=save_tokenizer)
        else:
            shelf.write_later(file_of(step), step, save_tokenizer=save_tokenizer)
            shelf.wait()
        os.write(told, f"{step}\n".encode())


def write_once(folder, told):
    """Write step 3, in whose course step 1 goes, and step 3 anew, in its own place; mark the best."""
    shelf = Shelf(folder, keep=KEEP)
    shelf.write(file_of(3), 3, save_tokenizer=save_tokenizer)
    os.write(told, b"3\n")
    shelf.write(file_of(3), 3, save_tokenizer=save_tokenizer)
    shelf.mark_best(2, "R@1", 0.5)


def child(work, folder, arm):
    """Run `work` in a fork that `arm` has prepared; its id and where it tells what is done."""
    heard, told = os.pipe()
    if (number := os.fork()) == 0:
        try:
            os.close(heard)
            arm()
            work(folder, told)
        except BaseException as problem:
            sys.stderr.write(f"{type(problem).__name__}: {problem}\n")
            os._exit(1)
        os._exit(0)
    os.close(told)
    return number, heard


def end_of(number, heard):
    """How a child ended (a signal is negative), and the last step that it told of."""
    _, status = os.waitpid(number, 0)
    with os.fdopen(heard) as lines:
        steps = [int(line) for line in lines]
    return os.waitstatus_to_exitcode(status), max(steps, default=0)


def look(folder, before, **said):
    """Tell what is found after a child has ended; `before` is the step that was there before it began."""
    left = sorted(path.name for path in folder.iterdir() if path.name.startswith("."))
    shelf = Shelf(folder, keep=KEEP)
    found = shelf.newest()
    step = 0 if found is None else found.file.position["step"]
    told = {
        **said,
        "before": before,
        "found": step,
        "equal": found is None or print_of(found.file) == print_of(file_of(step)),
        "left": left,
        "named": [name for name in left if found and any(name in sentence for sentence in found.passed_over)],
        "after": sorted(path.name for path in folder.iterdir() if path.name.startswith(".")),
        "sentences": [] if found is None else found.passed_over,
    }
    say(told)
    return step


def at_moments(folder, count=20):
    """SIGKILL after a random time, so often; the next child goes on from what is left."""
    begun = time.monotonic()
    for step in (1, 2, 3, 4):
        Shelf(folder, keep=KEEP).write(file_of(step), step, save_tokenizer=save_tokenizer)
    once, chance = (time.monotonic() - begun) / 4, random.Random(7)
    step = 4
    for _ in range(count):
        number, heard = child(write_on, folder, lambda: None)
        time.sleep(0.02 + once * 3 * chance.random())
        os.kill(number, signal.SIGKILL)
        code, told = end_of(number, heard)
        step = look(folder, step, code=code, told=told)


def at_bytes(folder, count=12):
    """The kernel kills the child at the byte of a file where a limit is: at a random one of the largest file's."""
    Shelf(folder, keep=KEEP).write(file_of(1), 1, save_tokenizer=save_tokenizer)
    largest = max(path.stat().st_size for path in (folder / "step-00000001").iterdir())
    chance, step = random.Random(7), 1
    for _ in range(count):
        limit = int(largest * chance.random() ** 2)

        def arm(limit=limit):
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

        code, told = end_of(*child(write_on, folder, arm))
        step = look(folder, step, code=code, told=told, limit=limit)


def watch(meet):
    """Let `meet(event, path)` know of every call that changes or flushes something, before it is made."""
    fsync = os.fsync

    def flushed(handle):
        meet("fsync", str(Path(f"/proc/self/fd/{handle}").readlink()))
        fsync(handle)

    def audited(event, arguments):
        if event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir"):
            meet(event.removeprefix("os."), " ".join(str(argument) for argument in arguments[:2]))
        elif event == "open" and isinstance(arguments[0], str) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            meet("open", arguments[0])

    os.fsync = flushed
    sys.addaudithook(audited)


def at_calls(folder):
    """SIGKILL before every single call of `write_once` that changes or flushes something, one child for each."""
    start = folder / "start"
    for step in (1, 2):
        Shelf(start, keep=KEEP).write(file_of(step), step, save_tokenizer=save_tokenizer)
    for number in range(1000):
        place = folder / f"{number}"
        shutil.copytree(start, place)

        def arm(number=number):
            calls = iter(range(number + 1))
            watch(lambda *_: next(calls) == number and os.kill(os.getpid(), signal.SIGKILL))

        code, told = end_of(*child(write_once, place, arm))
        look(place, 2, code=code, told=told)
        Shelf(place, keep=KEEP).write(file_of(4), 4)
        assert print_of(Shelf(place, keep=KEEP).newest().file) == print_of(file_of(4))
        if code == 0:
            return


def trace(folder):
    """Print every call of one write that changes or flushes something, in its order."""
    for step in (1, 2):
        Shelf(folder, keep=KEEP).write(file_of(step), step, save_tokenizer=save_tokenizer)
    watch(lambda event, path: say([event, path.replace(f"{folder}", "SHELF")]))
    Shelf(folder, keep=KEEP).write(file_of(3), 3, save_tokenizer=save_tokenizer)


def on_a_small_disk(folder):
    """Fill a disk of 4 MB: seen beforehand, then in the middle of a file; free some, and write."""

    def attempt(step):
        try:
            shelf.write(large(step), step)
        except CheckpointError as problem:
            return str(problem)
        return None

    def large(step):
        return training_file(step, random_bytes=1_000_000)

    shelf = Shelf(folder, keep=3)
    said = [attempt(step) for step in (1, 2, 3, 4)]
    usage = shutil.disk_usage
    shutil.disk_usage = lambda place: usage(place)._replace(free=10**12)
    said.append(attempt(4))
    shutil.disk_usage = usage
    found = shelf.newest()
    left = sorted(path.name for path in folder.iterdir())
    shutil.rmtree(folder / "step-00000001")
    said.append(attempt(4))
    last = shelf.newest()
    equal = [print_of(file) == print_of(large(step)) for file, step in ((found.file, 3), (last.file, 4))]
    say({"said": said, "left": left, "equal": equal, "passed_over": found.passed_over})


def leave_early(folder):
    """End normally while a write is outstanding, which has not begun when the last line is reached."""
    write = shelf_module.write_training

    def late(*args, **kwargs):
        time.sleep(0.3)
        write(*args, **kwargs)

    shelf_module.write_training = late
    Shelf(folder, keep=KEEP).write_later(file_of(1), 1)


MODES = {
    "moments": at_moments,
    "bytes": at_bytes,
    "calls": at_calls,
    "trace": trace,
    "small disk": on_a_small_disk,
    "leave early": leave_early,
}

if __name__ == "__main__":
    MODES[sys.argv[1]](Path(sys.argv[2]))
