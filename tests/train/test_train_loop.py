"""The loop on tiny stages whose loss is a weighted quadratic: weights, skipped steps, lines, epochs, order of hooks."""

import json
import math
import signal
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from bridges import DEC, rows_of, tiny_batch, tiny_bridge
from isthmus.data.sampler import CounterSampler
from isthmus.errors import DataError, UserError
from isthmus.models.stage1 import Stage1
from isthmus.records import Losses, Term
from isthmus.train import loop
from isthmus.train.hooks import Hooks
from isthmus.train.loop import Trainer
from isthmus.train.optimizer import AdamW, Rates, make_optimizer
from isthmus.train.plan import Plan
from isthmus.train.stopping import Stopped, Stopping
from isthmus.train.tracking import JsonLines, Reporter

PLAN = Plan(
    steps=6,
    batches_per_epoch=2,
    accumulation=1,
    warmup=0,
    warmup_from=0.0,
    lowest=1.0,
    cosine_by_epoch=False,
    clip=1e9,
    seed=3,
    per_rank_mean=False,
    log_every=2,
    evaluate_every=3,
    save_every=None,
    save_seconds=None,
    stop_after_skipped=2,
)


class Quadratic(nn.Module):
    """Squared error of a linear map, weighted by each row's count of text tokens; keeps the steps it was given."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.bridge = nn.Linear(6, 2).double()
        self.steps = []

    def forward(self, batch, step):
        self.steps.append(step)
        error = (self.bridge(batch.vision.mean(1)) - 1).square().sum(1)
        return Losses({"lm": Term((error * batch.text.mask.sum(1)).sum(), batch.text.mask.sum().double())})

    def count(self, batch, step):
        return {"lm": batch.text.mask.sum().double()}


def make_trainer(stage, plan=PLAN, rate=0.05):
    optimizer = make_optimizer(stage.bridge, AdamW(Rates(rate, rate, rate), (0.9, 0.98), 0.0), fresh=())
    return Trainer(stage, optimizer, Accelerator(cpu=True), plan)


@pytest.fixture
def told():
    """The lines that a run says above its progress."""
    return []


@pytest.fixture
def hooks(tmp_path, told):
    """Hooks that keep what is called, with a log at `log.jsonl`."""

    def hooks(calls=None, evaluate=None):
        calls = [] if calls is None else calls
        score = evaluate or (lambda: calls.append("evaluate") or {"R@1": 50.0})
        reporter = Reporter("", PLAN.steps, silent=True)
        reporter.say = told.append
        save = lambda number: calls.append(f"save {number}")  # noqa: E731
        return Hooks(score, str, save, lambda number, _: calls.append(f"scored {number}"), log, reporter)

    with JsonLines(tmp_path / "log.jsonl") as log:
        yield hooks


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def weights(stage):
    return [parameter.detach().clone() for parameter in stage.parameters()]


def test_the_loss_falls(tmp_path, hooks):
    stage, batch = Quadratic(), tiny_batch()
    trainer = make_trainer(stage, replace(PLAN, steps=60, log_every=1))
    trainer.run([batch] * 60, hooks())
    losses = [record["lm"] for record in read(tmp_path / "log.jsonl") if "lm" in record]
    assert len(losses) == 60
    assert losses[-1] < 0.2 * losses[0]


def test_every_evaluation_is_told_in_a_line(hooks, told):
    trainer = make_trainer(Quadratic(), replace(PLAN, steps=4, evaluate_every=2))
    trainer.run([tiny_batch()] * 4, hooks())
    assert told == [f"held-out pictures, step {step}: {{'R@1': 50.0}}" for step in (2, 4)]
    make_trainer(Quadratic(), trainer.plan).run([tiny_batch()] * 4, hooks(evaluate=dict))
    assert len(told) == 2  # nothing is held out


def test_micro_batches_of_unequal_weight_are_one_batch():
    whole = tiny_batch((6, 2, 3, 5))
    parts = [rows_of(whole, slice(0, 1)), rows_of(whole, slice(1, 4))]
    together, apart = Quadratic(), Quadratic()
    trainers = [make_trainer(together), make_trainer(apart, replace(PLAN, accumulation=2))]
    norms = [trainers[0].step([whole], 0), trainers[1].step(parts, 0)]
    assert torch.allclose(*norms, atol=1e-12, rtol=0)
    for one, two in zip(weights(together), weights(apart), strict=True):
        assert torch.allclose(one, two, atol=1e-10, rtol=0)
    assert trainers[0].meters.read()["lm"] == pytest.approx(trainers[1].meters.read()["lm"])


def test_the_gradient_is_clipped_and_its_norm_before_is_told():
    stage, batch = Quadratic(), tiny_batch()
    seen = []
    trainer = make_trainer(stage, replace(PLAN, clip=0.5))
    trainer.raw_optimizer.register_step_pre_hook(lambda *_: seen.append(norm_of(stage)))
    norm = trainer.step([batch], 0)
    assert norm > 0.5
    assert seen == [pytest.approx(0.5, rel=1e-4)]


def norm_of(stage):
    return torch.stack([parameter.grad.norm() for parameter in stage.parameters()]).norm().item()


def test_a_gradient_that_is_not_finite_leaves_everything_as_it_was_and_is_counted():
    stage, good = Quadratic(), tiny_batch()
    bad = replace(good, vision=good.vision.clone())
    bad.vision[0, 0, 0] = math.inf
    trainer = make_trainer(stage)
    trainer.step([good], 0)
    before = weights(stage)
    moments = {id(p): {k: v.clone() for k, v in s.items()} for p, s in trainer.raw_optimizer.state.items()}
    trainer.step([bad], 1)
    assert all(torch.equal(a, b) for a, b in zip(weights(stage), before, strict=True))
    for parameter, state in trainer.raw_optimizer.state.items():
        assert all(torch.equal(state[name], value) for name, value in moments[id(parameter)].items())
    trainer.step([good], 2)
    assert not any(torch.equal(a, b) for a, b in zip(weights(stage), before, strict=True))
    assert trainer.skips.read() == [{"step": 2, "skipped_rows": bad.index.tolist()}]
    assert (trainer.skips.total, trainer.skips.in_a_row, trainer.skips.read()) == (1, 0, [])


def test_the_first_step_may_be_skipped_too():
    stage, batch = Quadratic(), tiny_batch()
    before = weights(stage)
    trainer = make_trainer(stage)
    trainer.step([replace(batch, vision=batch.vision * math.nan)], 0)
    assert all(torch.equal(a, b) for a, b in zip(weights(stage), before, strict=True))
    trainer.step([batch], 1)
    assert all(torch.isfinite(parameter).all() for parameter in stage.parameters())


def test_lines_of_the_log_and_the_order_of_the_hooks(tmp_path, hooks):
    calls, plan = [], replace(PLAN, save_every=3, warmup=4)
    found = make_trainer(Quadratic(), plan).run([tiny_batch()] * 6, hooks(calls))
    assert found == {"R@1": 50.0}
    assert calls == ["save 3", "evaluate", "scored 3", "save 6", "evaluate", "scored 6"], "saved before scored"
    lines = read(tmp_path / "log.jsonl")
    assert [(line["step"], "evaluation" in line) for line in lines] == [
        (2, False),
        (3, True),
        (4, False),
        (6, False),
        (6, True),
    ]
    assert lines[1]["evaluation"] == {"R@1": 50.0}
    assert set(lines[0]) == {
        "time",
        "step",
        "lm",
        "gradient_norm",
        "lr",
        "skipped",
        "seconds_per_step",
        "pairs_per_second",
    }
    assert lines[0]["lr"] == pytest.approx(0.05 * 2 / 4), "the rate of the step"
    assert lines[0]["skipped"] == 0


def test_an_evaluation_that_fails_takes_nothing_away(hooks):
    calls = []

    def fail():
        raise UserError("all captions are the same")

    with pytest.raises(UserError, match="all captions"):
        make_trainer(Quadratic(), replace(PLAN, evaluate_every=None)).run([tiny_batch()] * 6, hooks(calls, fail))
    assert calls == ["save 6", "save 6"], "what was not saved yet is saved before the error"


def test_a_run_that_only_skips_ends_and_saves_nothing_more(tmp_path, hooks):
    batch, calls = tiny_batch(), []
    bad = replace(batch, vision=batch.vision * math.nan)
    with pytest.raises(UserError, match=r"the last 3 steps up to step 4 were skipped.*lower train.lr"):
        make_trainer(Quadratic(), replace(PLAN, save_every=2)).run([batch, bad, bad, bad], hooks(calls))
    assert calls == ["save 2", "evaluate", "scored 3"]
    lines = read(tmp_path / "log.jsonl")
    assert [(line["step"], line["skipped"]) for line in lines if "lm" in line] == [(2, 1), (4, 3)]
    assert all(math.isnan(line["lm"]) for line in lines if "lm" in line), "the log shows it"
    rows = bad.index.tolist()
    assert [(line["step"], line["skipped_rows"]) for line in lines if "skipped_rows" in line] == [
        (number, rows) for number in (2, 3, 4)
    ]


def test_fewer_steps_in_a_row_than_allowed_are_passed_over(hooks):
    batch = tiny_batch()
    bad = replace(batch, vision=batch.vision * math.nan)
    trainer = make_trainer(Quadratic(), replace(PLAN, stop_after_skipped=3))
    trainer.run([bad, bad, batch, bad, bad, batch], hooks())
    assert (trainer.done, trainer.skips.total, trainer.skips.in_a_row) == (6, 4, 0)


class Hearing(Stopping):
    """Hears a signal when it is told to, as if a handler had been called."""

    def hear(self, number=signal.SIGTERM):
        self._hear(number, None)


def test_a_wish_to_end_is_granted_after_the_step_in_progress(hooks):
    calls, stage, stopping = [], Quadratic(), Hearing()
    trainer = make_trainer(stage)
    stage.register_forward_hook(lambda *_: stopping.hear() if len(stage.steps) == 4 else None)
    with pytest.raises(Stopped, match="after step 4 of 6") as stopped:
        trainer.run([tiny_batch()] * 6, hooks(calls), stopping)
    assert (trainer.done, stopped.value.number) == (4, signal.SIGTERM)
    assert calls == ["evaluate", "scored 3", "save 4"]


def test_a_step_that_accumulates_is_left_at_the_next_micro_batch_and_its_gradient_dropped(hooks):
    calls, stage, stopping = [], Quadratic(), Hearing()
    trainer = make_trainer(stage, replace(PLAN, accumulation=3, evaluate_every=None))
    stage.register_forward_hook(lambda *_: stopping.hear() if len(stage.steps) == 5 else None)
    with pytest.raises(Stopped, match="after step 1 of 6"):
        trainer.run([tiny_batch()] * 18, hooks(calls), stopping)
    assert len(stage.steps) == 5 and calls == ["save 1"]
    assert all(parameter.grad is None for parameter in stage.parameters())
    alone = make_trainer(Quadratic(), trainer.plan)
    alone.step([tiny_batch()] * 3, 0)
    assert all(torch.equal(a, b) for a, b in zip(weights(stage), weights(alone.stage), strict=True))
    assert trainer.meters.read() == alone.meters.read(), "nor does its loss count"


def test_waiting_for_data_and_evaluation_are_left_at_once(hooks):
    def batches():
        for number in range(6):
            if number == 2:
                stopping.hear()
                pytest.fail("the wait goes on")
            yield tiny_batch()

    calls, stopping = [], Hearing()
    with pytest.raises(Stopped, match="after step 2 of 6"):
        make_trainer(Quadratic()).run(batches(), hooks(calls), stopping)
    assert calls == ["save 2"]

    def evaluate():
        stopping.hear(signal.SIGINT)
        pytest.fail("the evaluation goes on")

    calls, stopping = [], Hearing()
    trainer = make_trainer(Quadratic())
    with pytest.raises(Stopped, match="after step 3 of 6"):
        trainer.run([tiny_batch()] * 6, hooks(calls, evaluate), stopping)
    assert calls == ["save 3"] and trainer.scored == 0, "it is made up for when the run goes on"


def test_data_that_cannot_be_had_is_told_when_what_was_done_is_saved(hooks):
    def batches():
        yield from [tiny_batch()] * 2
        raise DataError("worker 1 died")

    calls = []
    with pytest.raises(DataError, match="worker 1 died"):
        make_trainer(Quadratic()).run(batches(), hooks(calls))
    assert calls == ["save 2"]


def test_time_without_a_checkpoint_calls_for_one(hooks, monkeypatch):
    class Clock:
        now = 0.0

        def monotonic(self):
            self.now += 1.0
            return self.now

    monkeypatch.setattr(loop, "time", Clock())
    calls = []
    make_trainer(Quadratic(), replace(PLAN, save_seconds=2.0, evaluate_every=None)).run(
        [tiny_batch()] * 6, hooks(calls)
    )
    saved = [call for call in calls if call.startswith("save")]
    assert 2 <= len(saved) <= 4 and saved[-1] == "save 6"


@pytest.mark.parametrize("accumulation", [1, 2])
def test_steps_carry_the_epoch_of_their_rows_and_their_share_of_the_run(hooks, accumulation):
    sampler = CounterSampler(7, 2, seed=3)
    plan = replace(PLAN, batches_per_epoch=sampler.batches_per_epoch * accumulation, accumulation=accumulation)
    stage = Quadratic()
    make_trainer(stage, plan).run([tiny_batch()] * 6 * accumulation, hooks())
    epochs = [visits[0].epoch for visits in sampler.steps(0, 6)]
    assert epochs == [0, 0, 0, 1, 1, 1]
    assert [step.epoch for step in stage.steps[::accumulation]] == epochs
    assert [step.progress for step in stage.steps[::accumulation]] == [number / 6 for number in range(6)]
    assert {step.seed for step in stage.steps} == {3}


def rates_of_a_run(plan):
    seen, trainer = [], make_trainer(Quadratic(), plan)
    trainer.raw_optimizer.register_step_pre_hook(lambda optimizer, *_: seen.append(optimizer.param_groups[0]["lr"]))
    for number in range(plan.steps):
        trainer.step([tiny_batch()] * plan.accumulation, number)
    return seen


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_cosine_moves_with_the_epochs_of_the_rows_where_asked(accumulation):
    plan = replace(PLAN, accumulation=accumulation, batches_per_epoch=2 * accumulation, lowest=0.2)
    assert rates_of_a_run(replace(plan, cosine_by_epoch=True, warmup=2, warmup_from=0.5)) == pytest.approx(
        [0.05 * share for share in (0.5, 0.75, 0.8, 0.8, 0.4, 0.4)]
    )
    by_step = [0.2 + 0.8 * (1 + math.cos(math.pi * number / 6)) / 2 for number in range(6)]
    assert rates_of_a_run(plan) == pytest.approx([0.05 * share for share in by_step])


def test_an_epoch_that_the_run_does_not_finish_counts_as_one():
    plan = replace(PLAN, steps=5, lowest=0.0, cosine_by_epoch=True)
    assert [plan.rate(number) for number in (0, 2, 4)] == pytest.approx([1.0, 0.75, 0.25])


def test_stage_1_divides_each_term_by_its_own_weight():
    stage, batch = Stage1(tiny_bridge(), dec=DEC), tiny_batch()
    trainer = make_trainer(stage, rate=1e-3)
    expected = {name: term.mean().item() for name, term in stage(batch, trainer._keys(0))}
    trainer.step([batch], 0)
    assert trainer.meters.read() == pytest.approx(expected)
