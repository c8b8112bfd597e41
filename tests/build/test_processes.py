"""Joining the other processes of a run: who is refused, who is found, and what is said when one is lost."""

import re
import signal
import subprocess
from datetime import timedelta

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn

from faulty_rank import CONTENT
from isthmus import distributed
from isthmus.build import processes
from isthmus.build.precision import Compute
from isthmus.build.processes import _check_devices, join, leave_towers_out, stay_alone
from isthmus.config.run import check
from isthmus.errors import ConfigError, LostProcessError
from many_processes import FAULTY, free_port, started, torchrun

LOST = re.compile(
    r"isthmus: another process of this run (has ended|did not answer within train\.timeout_minutes), so process \d of "
    r"\d ends too; the reason stands in that process's own output; start the run again to go on from its last "
    r"checkpoint\n"
)


def config(batch_size=2, **more):
    train = {"steps": 1, "batch_size": batch_size, "timeout_minutes": 0.02}
    return check({**CONTENT, "train": train, **more}, "here")


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "ACCELERATE_USE_CPU"):
        monkeypatch.delenv(name, raising=False)
    AcceleratorState._reset_state(reset_partial_state=True)


def test_one_process_joins_nobody():
    accelerator = join(config())
    assert accelerator.num_processes == 1 and not torch.distributed.is_initialized()
    assert distributed.agree(5) == 5
    with distributed.in_turn():
        distributed.wait()


@pytest.mark.parametrize("ways_in", [join, stay_alone])
def test_a_batch_with_nothing_to_tell_apart_is_refused(ways_in):
    with pytest.raises(ConfigError, match=r"global batch of 1 has no negatives"):
        ways_in(config(batch_size=1))


def test_a_language_model_is_shared_out_among_several_only():
    second = {"stage": 2, "bridge": {}, "init": {"from": "runs/one"}}
    llm = {"weights": "folder:llama", "sharded": True}
    with pytest.raises(ConfigError, match=r"`llm\.sharded` shares .* and this run is one; start several with torchrun"):
        join(config(**second, llm=llm))
    assert stay_alone(config(**second, llm=llm)).num_processes == 1
    assert "sharded" not in config(**second, llm=llm).given()["llm"]


@pytest.mark.parametrize("name", ["FSDP", "DEEPSPEED", "MEGATRON_LM"])
def test_wrappers_that_would_wrap_the_bridge_are_refused(monkeypatch, name):
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(ConfigError, match=rf"accelerate launch --use_{name.lower()}. would wrap the bridge"):
        join(config())


def test_a_launcher_that_starts_one_process_for_many_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    assert join(config()).num_processes == 1  # `--cpu` alone
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")  # `--num_processes` above 1
    with pytest.raises(ConfigError, match="starts one process whatever --num_processes says"):
        join(config())


def test_each_process_needs_a_device_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    cuda, first = (Compute(torch.device(name), torch.float32) for name in ("cuda", "cuda:0"))
    _check_devices("cuda", cuda, {"LOCAL_WORLD_SIZE": "2"})
    _check_devices("cuda:0", first, {})
    with pytest.raises(ConfigError, match="3 processes were started on this host, which has 2 CUDA devices"):
        _check_devices("cuda", cuda, {"LOCAL_WORLD_SIZE": "3"})
    with pytest.raises(ConfigError, match="`device` is 'cuda:0', and 2 processes on this host cannot share one"):
        _check_devices("cuda:0", first, {"LOCAL_WORLD_SIZE": "2"})


def test_others_that_cannot_be_reached_are_one_sentence(monkeypatch):
    port = free_port()
    monkeypatch.setattr(processes, "_ARRIVAL", timedelta(seconds=2))
    for name, value in {
        "RANK": 1,
        "LOCAL_RANK": 1,
        "WORLD_SIZE": 2,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(
        LostProcessError, match=rf"process 1 of 2 cannot join the others at 127\.0\.0\.1:{port} \(.+\); look"
    ):
        join(config())


def test_ddp_sees_the_bridge_alone():
    stage = nn.ModuleDict({"bridge": nn.Linear(2, 2), "llm": nn.BatchNorm1d(2)})
    leave_towers_out(stage)
    assert sorted(stage._ddp_params_and_buffers_to_ignore) == sorted(
        f"llm.{name}" for name in stage["llm"].state_dict()
    )


@pytest.mark.parametrize(
    ("fault", "struck", "count", "happened"),
    [
        ("kill", 1, 2, "has ended"),
        ("kill", 0, 2, "has ended"),
        ("kill", 1, 3, "has ended"),
        ("stop", 1, 2, "did not answer"),
        ("sleep", 0, 2, "did not answer"),
        ("late", 1, 2, "did not answer"),
    ],
)
def test_when_one_dies_or_hangs_the_others_end_with_a_sentence(fault, struck, count, happened):
    with started(count, fault, struck) as ranks:
        for rank, process in enumerate(ranks):
            if rank != struck:
                _, err = process.communicate(timeout=200)
                assert process.returncode == 4 and LOST.fullmatch(err) and happened in err, (rank, err)


def test_a_signal_is_heard_while_others_are_waited_for():
    with started(2, "busy") as ranks:
        assert ranks[0].stdout.readline() == "rank 0 waits\n"
        ranks[0].send_signal(signal.SIGTERM)
        assert ranks[0].wait(timeout=60) == 143


def test_waiting_is_longer_than_the_timeout_and_ends_when_the_other_dies():
    with started(2, "busy") as ranks:
        assert [one.stdout.readline() for one in ranks] == ["rank 0 waits\n", "rank 1 waits\n"]
        with pytest.raises(subprocess.TimeoutExpired):
            ranks[0].wait(timeout=20)
        ranks[1].kill()
        _, err = ranks[0].communicate(timeout=60)
        assert ranks[0].returncode == 4 and "has ended" in err


@pytest.mark.parametrize("fault", ["kill", "sleep"])
def test_a_launcher_starts_all_of_them_again(fault):
    restarted = torchrun("--standalone", "--nproc-per-node", 2, "--max-restarts", 1, FAULTY, fault)
    assert restarted.returncode == 0, restarted.stderr
    assert restarted.stdout.count("waits") == 2


def test_without_a_restart_the_launcher_fails_too():
    ended = torchrun("--standalone", "--nproc-per-node", 2, FAULTY, "kill")
    assert ended.returncode != 0 and "waits" not in ended.stdout
