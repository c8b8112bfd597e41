"""What others used of the cores: what is ours, and ours' own processes, does not count."""

import os
import subprocess
import sys
import time

from benchmarks.quiet import Watch, _used_by

WORK = "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass"


def test_a_process_of_our_own_counts_as_ours_while_it_runs_and_after():
    before = _used_by(os.getpid())
    subprocess.run([sys.executable, "-c", WORK], check=True)
    assert _used_by(os.getpid()) - before >= 0.25


def test_a_foreign_process_counts_as_another():
    foreign = subprocess.Popen([sys.executable, "-c", WORK])
    watch, begun = Watch([]), time.monotonic()
    foreign.wait()
    assert watch.others() * (os.cpu_count() or 1) * (time.monotonic() - begun) >= 0.2


def test_a_process_that_is_gone_used_nothing():
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert _used_by(ended.pid) == 0.0
