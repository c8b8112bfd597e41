"""Signals as wishes: heard in real processes, granted in interruptible blocks, and a second one leaves at once."""

import os
import signal
import subprocess
import sys
import time

import pytest

from isthmus.train.stopping import Stopped, Stopping

_PROGRAM = """
import os, signal, time
from isthmus.train.stopping import Stopped, Stopping
with Stopping() as stopping:
    print("ready", flush=True)
    while stopping.asked is None:
        time.sleep(0.01)
    print(stopping.asked, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_is_a_wish_and_handlers_come_back(number):
    before = signal.getsignal(number)
    with Stopping() as stopping:
        os.kill(os.getpid(), number)
        assert stopping.asked == number
        with pytest.raises(Stopped), stopping.interruptible():
            pytest.fail("it was asked before")
    assert signal.getsignal(number) is before


def test_an_interruptible_block_is_left_at_once():
    with Stopping() as stopping:
        with pytest.raises(Stopped) as stopped, stopping.interruptible():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        assert stopped.value.number == signal.SIGTERM
        with pytest.raises(Stopped), stopping.interruptible():
            pytest.fail("the wish is forgotten")


def test_a_block_that_is_none_goes_on():
    with Stopping() as stopping:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # as of a launcher that passes it on
        assert stopping.asked == signal.SIGTERM


def test_a_second_signal_later_leaves_at_once():
    with subprocess.Popen([sys.executable, "-c", _PROGRAM], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == f"{int(signal.SIGTERM)}\n"
        time.sleep(1.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 128 + signal.SIGINT
