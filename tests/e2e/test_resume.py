"""A run that was stopped anywhere and goes on is bit-equal to the one that never was: both stages, workers or not."""

import json
import os
import shutil
import signal
from hashlib import sha256

import pytest
import torch

from command_line import STEPS, isthmus, tiny_recipes
from isthmus.build import data
from isthmus.checkpoints.native import read_bridge
from isthmus.tasks import caption
from isthmus.train import loop
from isthmus.train.loop import Trainer

pytestmark = pytest.mark.e2e

TIMES = ("time", "seconds_per_step", "pairs_per_second")
ALL = ("train.save_every=1", "train.keep=100", "train.log_every=4", "data.evaluation=null")
"""Every step is saved, and lines of the log span steps on both sides of most of them."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("resumed")
    tiny_recipes(place)
    return place


@pytest.fixture
def seen(monkeypatch):
    """What each step of the runs of a test saw: rows, patches and captions, and the rate it learned with."""
    steps, before = [], Trainer._step

    def step(self, held, number, stopping):
        norm, batches = before(self, held, number, stopping), held.batches
        content = [
            (b.index.tolist(), b.captions, sha256(b.vision.view(torch.uint8).numpy().tobytes()).hexdigest())
            for b in batches
        ]
        steps.append((number, content, self.raw_optimizer.param_groups[0]["lr"], float(norm)))
        return norm

    monkeypatch.setattr(Trainer, "_step", step)
    return steps


def arguments(place, stage, output, *more):
    kinds = {
        "stage 1": ("one.yaml", "features.folder=null", "features.flip=true", "bridge.dropout.hidden=0.1"),
        "stage 2": ("two.yaml", "train.accumulation=2", f"init.from={place / 'start'}", "bridge.dropout.hidden=0.1"),
        "1 in two passes": (
            *("one.yaml", "train.chunked=true", "train.accumulation=2", "features.flip=true", "objectives.itm_every=2"),
            *("bridge.dropout.hidden=0.1", "bridge.dropout.attention=0.1"),
        ),
    }
    recipe, *own = kinds[stage]
    if stage == "stage 2" and not (place / "start").exists():
        assert isthmus("train", place / "one.yaml", f"output={place / 'start'}", "train.steps=1", *ALL) == 0
    return ("train", place / recipe, f"output={place / output}", *own, *ALL, *more)


def lines(folder):
    """The lines of a log that training made, by step, without times; of a step told twice, the last."""
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    kept = {r["step"]: r for r in records if "gradient_norm" in r}
    return {step: {k: v for k, v in r.items() if k not in TIMES} for step, r in kept.items()}


def assert_equal_runs(one, other):
    first, second = read_bridge(one / "bridge").tensors, read_bridge(other / "bridge").tensors
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert lines(one) == lines(other)


WORKERS = [(0, 0), (0, 2), (1, 0), (2, 2)]


@pytest.mark.parametrize(
    ("stage", "workers"),
    [*[(stage, workers) for stage in ("stage 1", "stage 2") for workers in WORKERS], ("1 in two passes", (0, 2))],
)
def test_going_on_from_any_step_is_bit_equal(place, seen, stage, workers):
    """Eight steps are two epochs of four in stage 1, and four of two else: from mid-epoch and into the next."""
    before, after = workers
    name = f"{stage.replace(' ', '-')}-{before}-{after}"
    command = arguments(place, stage, f"whole-{name}", "train.steps=8", f"data.workers={before}")
    seen.clear()  # of what stage 2 starts from
    assert isthmus(*command) == 0
    whole = list(seen)
    assert [step for step, *_ in whole] == list(range(8))
    for done in (1, 3, 4, 6) if workers == (0, 0) else (3,):
        seen.clear()
        output, kept = f"again-{name}-{done}", place / f"whole-{name}" / "checkpoints" / f"step-{done:08d}"
        shutil.rmtree(place / output, ignore_errors=True)
        (place / output).mkdir()
        log = (place / f"whole-{name}" / "log.jsonl").read_text().splitlines(keepends=True)
        told = [line for line in log if json.loads(line).get("step", 0) <= done]
        (place / output / "log.jsonl").write_text("".join(told))  # as it was when the run was stopped
        more = ("train.steps=8", f"data.workers={after}", f"resume={kept}")
        assert isthmus(*arguments(place, stage, output, *more)) == 0
        assert seen == whole[done:]
        assert_equal_runs(place / f"whole-{name}", place / output)


@pytest.fixture
def ask(monkeypatch):
    """Send this process a signal when a function of the run is called for the n-th time."""

    def ask(owner, name, call, number):
        before, calls = getattr(owner, name), []

        def asking(*arguments, **more):
            calls.append(name)
            if len(calls) == call:
                os.kill(os.getpid(), number)
            return before(*arguments, **more)

        monkeypatch.setattr(owner, name, asking)
        return lambda: monkeypatch.setattr(owner, name, before)

    return ask


def whole(place):
    """The run of stage 1 that nothing stopped."""
    if not (place / "undisturbed" / "run.json").is_file():
        assert isthmus("train", place / "one.yaml", f"output={place / 'undisturbed'}") == 0
    return place / "undisturbed"


@pytest.mark.parametrize(
    ("where", "owner", "name", "call", "done"),
    [
        ("in a step", loop.nn.utils, "clip_grad_norm_", 4, 4),
        ("in evaluation", caption, "caption_all", 1, 3),
        ("waiting for data", loop.Batch, "to", 2, 1),
    ],
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_ends_a_run_whose_work_is_kept(place, capfd, ask, where, owner, name, call, done, number):
    undisturbed, output = whole(place), place / f"{name}-{number}"
    if owner is loop.nn.utils:
        owner = torch.nn.utils
    if owner is caption:
        from isthmus.build import evaluation as owner
    undo = ask(owner, name, call, number)
    command = ("train", place / "one.yaml", f"output={output}")
    code = 130 if number == signal.SIGINT else 143
    assert isthmus(*command) == code
    undo()
    last = capfd.readouterr().err.splitlines()[-1]
    word = "interrupted" if number == signal.SIGINT else "terminated"
    assert last == (
        f"isthmus: {word} after step {done} of {STEPS}; what was done is saved in {output / 'checkpoints'}, and the "
        "same command, without overwrite or resume, goes on from there"
    )
    assert (output / "checkpoints" / "latest").read_text().strip() == f"step-{done:08d}"
    assert isthmus(*command) == 0
    assert f"{done} of {STEPS} steps are done" in capfd.readouterr().err
    assert_equal_runs(undisturbed, output)
    record = json.loads((output / "run.json").read_text())
    assert (
        record["resumed_after"] == [done]
        and record["figures"] == json.loads((undisturbed / "run.json").read_text())["figures"]
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_while_features_are_made_ends_the_run_before_its_first_step(place, capfd, ask, number):
    output = place / f"features-{number}"
    undo = ask(data, "extract", 1, number)
    command = ("train", place / "one.yaml", f"output={output}", f"features.folder={place / f'store-{number}'}")
    assert isthmus(*command) == (130 if number == signal.SIGINT else 143)
    undo()
    assert capfd.readouterr().err.splitlines()[-1].endswith("; what was saved before is kept")
    assert isthmus(*command) == 0
    assert_equal_runs(whole(place), output)


def test_a_run_stopped_before_its_last_evaluation_makes_up_for_it(place, ask):
    output = place / "last"
    from isthmus.build import evaluation

    undo = ask(evaluation, "caption_all", 2, signal.SIGTERM)
    assert isthmus("train", place / "one.yaml", f"output={output}") == 143
    undo()
    assert (output / "bridge" / "complete").is_file() and not (output / "run.json").exists()
    assert isthmus("train", place / "one.yaml", f"output={output}") == 0
    assert_equal_runs(whole(place), output)
    assert json.loads((output / "run.json").read_text())["figures"]["text_to_image"]


def test_a_finished_run_is_not_gone_on_with(place, capfd):
    assert isthmus("train", place / "one.yaml", f"output={whole(place)}") == 2
    assert "holds the bridge of an earlier run" in capfd.readouterr().err


def test_the_best_checkpoint_is_kept_beside_the_last(place):
    output = place / "best"
    keep = ("train.best=text_to_image.R@5", "train.keep=1", "train.evaluate_every=1", "train.save_every=1")
    assert isthmus("train", place / "one.yaml", f"output={output}", *keep) == 0
    best = json.loads((output / "checkpoints" / "best.json").read_text())
    records = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    scores = {r["step"]: r["evaluation"]["text_to_image"]["R@5"] for r in records if "evaluation" in r}
    assert best["value"] == max(scores.values()) and scores[best["step"]] == best["value"]
    assert best["step"] == min(step for step, score in scores.items() if score == best["value"])
    kept = {path.name for path in (output / "checkpoints").glob("step-*")}
    assert kept == {f"step-{best['step']:08d}", f"step-{STEPS:08d}"}


def test_a_checkpoint_is_a_model_folder_too(place):
    assert isthmus("train", place / "one.yaml", f"output={place / 'model'}", "train.save_every=2") == 0
    folder = place / "model" / "checkpoints" / "step-00000004"
    assert isthmus("embed", folder, place / "pictures", "--output", place / "embedded.npz") in (0, 2)
    assert read_bridge(folder).provenance["step"] == 4


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["train.lr=5e-4"], "is a checkpoint of a run with `train.lr` 0.001, not 0.0005"),
        (
            ["train.batch_size=4"],
            "was made with 6 rows in a batch of all 1 processes and 1 batches a step, not 4 and 1",
        ),
        (["resume=nowhere"], "there is no folder nowhere"),
        (["overwrite=true", "resume=x"], "leave one of them out"),
        (
            ["train.best=loss.right", "train.evaluate_every=1"],
            "`train.best` is loss.right, which this run is not scored",
        ),
        (["train.best_is=lowest"], "`train.best` is missing"),
        (["train.best=text_to_image.R@1", "data.evaluation=null"], "`train.best` needs pictures to be scored on"),
    ],
)
def test_what_cannot_be_gone_on_with_is_one_line(place, capfd, ask, more, sentence):
    output = place / "refused"
    shutil.rmtree(output, ignore_errors=True)
    command = ("train", place / "one.yaml", f"output={output}")
    undo = ask(torch.nn.utils, "clip_grad_norm_", 2, signal.SIGTERM)
    assert isthmus(*command) == 143
    undo()
    capfd.readouterr()
    assert isthmus(*command, *more) == 2
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("isthmus: ") and (sentence in last or "best_is" in last)


def test_a_damaged_checkpoint_is_passed_over_by_name_and_refused_when_it_is_asked_for(place, capfd, ask):
    output = place / "damaged"
    command = ("train", place / "one.yaml", f"output={output}", "train.save_every=1", "train.keep=3")
    undo = ask(torch.nn.utils, "clip_grad_norm_", 4, signal.SIGTERM)
    assert isthmus(*command) == 143
    undo()
    newest = output / "checkpoints" / "step-00000004"
    content = bytearray((newest / "optimizer.safetensors").read_bytes())
    content[-5] ^= 1
    (newest / "optimizer.safetensors").write_bytes(content)
    capfd.readouterr()
    assert isthmus(*command, f"resume={newest}") == 2
    assert "optimizer.safetensors is damaged" in capfd.readouterr().err.splitlines()[-1]
    assert isthmus(*command) == 0
    err = capfd.readouterr().err
    assert "optimizer.safetensors is damaged" in err and f"3 of {STEPS} steps are done" in err
    assert_equal_runs(whole(place), output)


def test_training_over_a_run_leaves_its_checkpoints_until_the_new_one_starts(place, ask, monkeypatch):
    output = place / "over"
    command = ("train", place / "one.yaml", f"output={output}")
    undo = ask(torch.nn.utils, "clip_grad_norm_", 4, signal.SIGTERM)
    assert isthmus(*command) == 143
    undo()
    undo = ask(data, "extract", 1, signal.SIGTERM)  # before the first step, as of a process that dies
    assert isthmus(*command, "overwrite=true") == 143
    undo()
    aside = output / "checkpoints-overwritten"
    assert (aside / "latest").read_text().strip() == "step-00000004" and not (output / "checkpoints").exists()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")  # the launcher's restart of it goes on from nothing of that
    assert isthmus(*command, "overwrite=true") == 0
    assert not aside.exists() and json.loads((output / "run.json").read_text())["resumed_after"] == []
    assert_equal_runs(whole(place), output)


def test_a_restart_goes_on_from_what_it_saved_and_not_from_where_the_run_went_on_first(place, ask, monkeypatch, capfd):
    one, output = place / "over", place / "restarted"
    first = one / "checkpoints" / f"step-{STEPS:08d}"
    shutil.rmtree(output, ignore_errors=True)
    base = ("train", place / "one.yaml", f"output={output}", "train.save_every=1", "train.keep=9")
    undo = ask(torch.nn.utils, "clip_grad_norm_", 2, signal.SIGTERM)
    assert isthmus(*base) == 143
    undo()
    command = (*base, f"resume={output / 'checkpoints' / 'step-00000001'}")
    undo = ask(torch.nn.utils, "clip_grad_norm_", 3, signal.SIGTERM)
    assert isthmus(*command) == 143 and first.is_dir()
    undo()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    capfd.readouterr()
    assert isthmus(*command) == 0
    assert f"4 of {STEPS} steps are done" in capfd.readouterr().err
