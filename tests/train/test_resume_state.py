"""A trainer's state out of one and into another: bit for bit, and what does not fit is named."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

import trained_ranks
from isthmus.checkpoints.training import TrainingFile
from isthmus.errors import CheckpointError, ConfigError, UserError
from isthmus.records import BridgeFile
from isthmus.train.resume import put_back, refuse_other_batch, take

CASE = trained_ranks.Case(stage=1, steps=4)


def stepped(steps, trainer=None):
    trainer = trainer or trained_ranks.trainer_of(CASE)
    for step in range(trainer.done, steps):
        trainer.stage.train()
        trainer.step([trained_ranks.share(CASE, 1, step, 0)], step)
        trainer.done += 1
    return trainer


def file_of(trainer):
    """A trainer's state as a checkpoint gives it back: its position has been JSON."""
    state = take(trainer)
    bridge = BridgeFile(trainer.bare.bridge.sizes, state.bridge, {})
    return TrainingFile(bridge, state.optimizer, state.random, json.loads(json.dumps(state.position)))


def test_a_trainer_goes_on_as_the_one_that_it_was_taken_of(tmp_path):
    unbroken, other = stepped(4), trained_ranks.trainer_of(CASE)
    put_back(other, file_of(stepped(2)), tmp_path)
    assert other.done == 2
    stepped(4, other)
    for name, parameter in unbroken.bare.bridge.named_parameters():
        assert torch.equal(parameter, dict(other.bare.bridge.named_parameters())[name]), name
        ours, theirs = (t.raw_optimizer.state[dict(t.bare.bridge.named_parameters())[name]] for t in (unbroken, other))
        assert all(torch.equal(ours[moment], theirs[moment]) for moment in ours)
    assert unbroken.meters.read() == other.meters.read(), "the running means too"


def test_what_was_taken_is_a_copy(tmp_path):
    trainer = stepped(1)
    file, before = file_of(trainer), file_of(trainer)
    stepped(2, trainer)
    for one, other in zip(file.bridge.tensors.values(), before.bridge.tensors.values(), strict=True):
        assert torch.equal(one, other)
    assert all(torch.equal(file.optimizer[name], before.optimizer[name]) for name in file.optimizer)


def test_every_generator_goes_on(tmp_path, monkeypatch):
    def draws():
        return torch.rand(3).tolist(), np.random.rand(2).tolist()

    state, given = (3, tuple(range(1, 626)), None), []
    monkeypatch.setattr(random, "getstate", lambda: state)  # the checks of types draw from the real one
    monkeypatch.setattr(random, "setstate", given.append)
    file = file_of(stepped(1))
    first = draws()
    put_back(trained_ranks.trainer_of(CASE), file, tmp_path)
    assert draws() == first and given == [state]


def test_what_is_not_finite_is_not_taken():
    trainer = stepped(1)
    trainer.bare.bridge.qformer.queries.data[0, 0] = torch.nan
    with pytest.raises(UserError, match=r"qformer\.queries is not finite after step 1, so that nothing was saved"):
        take(trainer)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda file: file.optimizer.pop("qformer.queries.exp_avg"),
            r"optimizer.safetensors .*queries.exp_avg is missing",
        ),
        (lambda file: file.optimizer.update({"x.exp_avg": torch.zeros(1)}), "x.exp_avg is not known"),
        (lambda file: file.bridge.tensors.pop("heads.temperature"), "model.safetensors .*heads.temperature is missing"),
        (
            lambda file: file.bridge.tensors.update({"qformer.queries": torch.zeros(3, 8)}),
            r"qformer.queries is \(3, 8\) and should be \(2, 8\)",
        ),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, change, message):
    file = file_of(stepped(1))
    change(file)
    with pytest.raises(CheckpointError, match=message):
        put_back(trained_ranks.trainer_of(CASE), file, tmp_path)


def test_a_step_that_was_left_out_and_not_told_yet_is_told_later(tmp_path):
    trainer = stepped(1)
    batch = trained_ranks.share(CASE, 1, 1, 0)
    trainer.step([replace(batch, vision=batch.vision * torch.nan)], 1)
    trainer.done, other = 2, trained_ranks.trainer_of(CASE)
    put_back(other, file_of(trainer), tmp_path)
    assert (other.skips.total, other.skips.in_a_row) == (1, 1)
    assert other.skips.read() == [{"step": 2, "skipped_rows": batch.index.tolist()}]


def test_another_global_batch_is_refused_with_the_way_out():
    position = {"rows": 8, "accumulation": 2, "processes": 2}
    refuse_other_batch(position, rows=8, accumulation=2)
    with pytest.raises(
        ConfigError, match=r"8 rows .* 2 processes and 2 batches a step, not 4 and 2; set .* to 8 divided"
    ):
        refuse_other_batch(position, rows=4, accumulation=2)


def test_the_sums_of_two_ranks_come_to_one(tmp_path):
    file = file_of(stepped(2))
    twice = {**file.position, "meters": file.position["meters"] * 2, "processes": 2}
    other, same = trained_ranks.trainer_of(CASE), trained_ranks.trainer_of(CASE)
    put_back(other, replace(file, position=twice), tmp_path)
    put_back(same, file, tmp_path)
    assert other.meters.read() == pytest.approx(same.meters.read()), "twice the sum over twice the weight"
