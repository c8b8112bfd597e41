"""A run with `train.chunked`, from the YAML to its last step: that of larger batches, and known to `--estimate`."""

import json
from functools import partial
from itertools import islice

import pytest
import torch
from accelerate.state import AcceleratorState

from command_line import isthmus, tiny_recipes
from isthmus.build.run import build_training, dry_trainer
from isthmus.config.stages import load_stages
from isthmus.estimate import estimate

PLAIN = ["precision=fp32", "data.evaluation=null", "train.evaluate_every=null", "train.log_every=1", "train.steps=4"]
STILL = [f"bridge.dropout.{place}=0.0" for place in ("embedding", "attention", "hidden")]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return tiny_recipes(tmp_path_factory.mktemp("place"))[0]


def joined(rows, parts):
    return [f"train.batch_size={rows}", f"train.accumulation={parts}", "train.chunked=true"]


def run_config(recipe, *overrides):
    AcceleratorState._reset_state(reset_partial_state=True)
    return load_stages(recipe, [*PLAIN, *overrides]).runs[0]


def losses(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [[line[name] for name in ("itc", "itg", "itm", "gradient_norm")] for line in lines if "itc" in line]


def test_micro_batches_of_three_train_as_a_batch_of_twelve(recipe, tmp_path, capfd):
    """Stored views are two and an epoch has two steps, so that rows must be read again by the right keys."""
    for name, batch in (("one", ["train.batch_size=12"]), ("two", joined(3, 4))):
        assert isthmus("train", recipe, *PLAIN, *STILL, *batch, f"output={tmp_path / name}") == 0
    capfd.readouterr()
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == len(two) == 4
    for step, expected in zip(two, one, strict=True):
        assert step == pytest.approx(expected, rel=2e-4)


def test_with_workers_it_is_the_same(recipe, tmp_path, capfd):
    for name in ("none", "one"):
        count = {"none": 0, "one": 1}[name]
        arguments = [*PLAIN, *joined(3, 2), f"data.workers={count}", f"output={tmp_path / name}"]
        assert isthmus("train", recipe, *arguments) == 0
    capfd.readouterr()
    assert losses(tmp_path / "none") == losses(tmp_path / "one")


def kept_by_a_forward_pass(training):
    """Bytes of the different storages that a micro-batch's forward pass keeps for its backward, patches aside."""
    there = {one.untyped_storage().data_ptr() for one in training.stage.state_dict().values()}
    kept, hooks = [], []

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in there:
            kept[-1][storage.data_ptr()] = storage.nbytes()
        return tensor

    def begin(stage, given):
        batch, _, told = given
        there.update(one.untyped_storage().data_ptr() for one in (batch.vision, *told.gradient.both))
        kept.append({})
        hooks.append(torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor))
        hooks[-1].__enter__()

    training.stage.register_forward_pre_hook(begin)
    training.stage.register_forward_hook(lambda *_: hooks[-1].__exit__(None, None, None))
    training.trainer.stage.train()
    training.trainer.step(islice(training.batches, training.trainer.plan.accumulation), 0)
    return [sum(one.values()) for one in kept]


def test_the_estimate_takes_the_same_steps(recipe):
    few, many = (estimate(run_config(recipe, *joined(3, parts)), dry_trainer)[0] for parts in (2, 8))
    assert few.activations == many.activations, "a micro-batch's"
    more = 18 * 5 * 8 * 4  # rows, a text and 4 queries each, E = 8, fp32: the embeddings
    assert more < many.peak - few.peak < 20 * more
    training = build_training(run_config(recipe, *joined(3, 8)), progress=partial(print, end=""))
    kept = kept_by_a_forward_pass(training)
    assert len(kept) == 8 and min(kept) < many.activations * 1.02 and max(kept) > many.activations * 0.9


def test_a_batch_of_one_row_has_negatives_in_the_other_micro_batches(recipe):
    assert build_training(run_config(recipe, *joined(1, 4)), progress=lambda *_: None).trainer.plan.accumulation == 4
