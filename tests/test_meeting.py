"""What is told of a lost process, and what passes as it is; more in `build/test_processes.py` with real processes."""

import pytest
from torch import distributed as group

from isthmus import distributed
from isthmus.errors import LostProcessError
from isthmus.meeting import telling

GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/{}"


@pytest.mark.parametrize(
    ("problem", "happened"),
    [
        (RuntimeError(GLOO.format("pair.cc:547] Connection closed by peer [127.0.0.1]:1")), "has ended"),
        (RuntimeError(GLOO.format("unbound_buffer.cc:78] Timed out waiting 3000ms")), "did not answer within"),
        (group.DistBackendError("NCCL communicator was aborted"), "has ended"),
    ],
)
def test_what_a_collective_throws_is_one_sentence(problem, happened):
    told = rf"^another process of this run {happened}.+ process 0 of 1 ends too"
    with pytest.raises(LostProcessError, match=told), telling():
        raise problem


@pytest.mark.parametrize("problem", [RuntimeError("shapes differ"), ValueError("gloo")])
def test_anything_else_passes(problem):
    with pytest.raises(type(problem)) as passed, telling():
        raise problem
    assert passed.value is problem


def test_one_process_agrees_with_itself():
    assert distributed.agree(5) == 5
    distributed.meet()
    with distributed.in_turn():
        distributed.wait()
