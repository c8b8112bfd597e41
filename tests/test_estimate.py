"""`--estimate`: exact where it can be, and equal to what a real step saves for its backward."""

from dataclasses import replace

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState

from command_line import isthmus, tiny_recipes
from isthmus.build.run import build_training, dry_trainer
from isthmus.config.stages import load_stages
from isthmus.estimate import estimate
from isthmus.shadow import binary, storage_bytes

PLAIN = ["precision=fp32", "data.evaluation=null", "train.evaluate_every=null"]


@pytest.fixture(scope="module")
def recipes(tmp_path_factory):
    return tiny_recipes(tmp_path_factory.mktemp("place"))


def run_config(recipe, *overrides):
    AcceleratorState._reset_state(reset_partial_state=True)
    return load_stages(recipe, [*PLAIN, *overrides]).runs[0]


def estimated(recipe, *overrides, before=None):
    return estimate(run_config(recipe, *overrides), dry_trainer, before=before)


def saved(training, batch, step):
    """Bytes of the different storages that a real forward pass keeps for its backward, but for what was there."""
    there = {one.untyped_storage().data_ptr() for one in training.stage.state_dict().values()}
    there.add(batch.vision.untyped_storage().data_ptr())
    kept = {}

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() not in there:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        losses = training.stage.train()(batch, step)
    assert losses
    return sum(kept.values())


@pytest.mark.parametrize("stage", [1, 2])
def test_the_figures_are_those_of_the_run(recipes, stage):
    """Saved tensors are kept alive by the graph; a few scalars and the losses themselves are alive besides."""
    first, planned = estimated(recipes[0])
    figures = first if stage == 1 else estimated(recipes[1], before=planned)[0]
    training = build_training(run_config(recipes[0]), progress=lambda *_: None)
    if stage == 2:
        training.run()
        training = build_training(run_config(recipes[1]), progress=lambda *_: None)
    batch = max(training.batches, key=lambda one: (one.text.ids.numel(), max(map(len, one.captions))))
    trainer = training.trainer
    kept = saved(training, batch, trainer._keys(0))
    assert figures.activations == pytest.approx(kept, rel=0.02)
    seen = []
    trainer.raw_optimizer.register_step_pre_hook(
        lambda *_: seen.append(storage_bytes(one.grad for one in trainer.parameters if one.grad is not None))
    )
    trainer.step([batch], 0)
    state = [one for state in trainer.raw_optimizer.state.values() for one in state.values()]
    assert (figures.gradients, figures.optimizer) == (seen[0], storage_bytes(state))
    bridge = training.stage.bridge
    assert figures.trained == sum(one.numel() for one in bridge.parameters() if one.requires_grad)
    assert figures.parameters == storage_bytes(bridge.state_dict().values())
    assert figures.towers == {
        n: storage_bytes(t.module.state_dict().values()) for n, t in training.keeper.towers.items()
    }
    assert figures.resident == figures.peak + figures.gradients + figures.peak // 10
    assert replace(figures, device="cuda").resident is None
    assert figures.peak >= figures.activations + figures.parameters + figures.optimizer + sum(figures.towers.values())
    assert training.evaluation is None
    looked = figures.store
    assert looked is not None
    assert (looked.pictures, looked.views, looked.sizes.patches, looked.sizes.width) == (24, 2, 17, 16)
    assert looked.bytes == 24 * 2 * 17 * 16 * 4


def test_bf16_towers_and_stores_are_half_as_large(recipes):
    (full, _), (half, _) = estimated(recipes[0]), estimated(recipes[0], "precision=bf16")
    assert (half.towers["encoder"] * 2, half.store.bytes * 2) == (full.towers["encoder"], full.store.bytes)
    assert (half.parameters, half.optimizer) == (full.parameters, full.optimizer)
    assert half.dtype == "bfloat16"


def test_more_rows_take_more_and_pixels_need_no_store(recipes):
    (small, _), (large, _) = estimated(recipes[0]), estimated(recipes[0], "train.batch_size=12")
    assert 1.8 * small.activations < large.activations < 2.2 * small.activations
    pixels, _ = estimated(recipes[0], "features.folder=null", "features.views=1")
    assert (pixels.store, pixels.activations) == (None, small.activations)
    assert "every step encodes its pictures" in pixels.lines()[-1]


def test_the_command_prints_and_makes_nothing(recipes, capfd):
    place = recipes[0].parent
    before = sorted(place.rglob("*"))
    assert isthmus("train", recipes[0], "--estimate", f"output={place / 'nothing'}", "precision=fp32") == 0
    out = capfd.readouterr().out
    assert sorted(place.rglob("*")) == before
    assert out.startswith("stage 1 on cpu, computing in float32:\n  trained: 11,205 parameters")
    assert "peak of a step, towers included" in out
    assert "as the system shows it, about" in out
    assert "24 pictures x 2 views x 17 patches x 16: 51 KiB on disk" in out


def test_both_stages_of_a_file_are_told_before_either_is_trained(recipes, tmp_path, capfd):
    one, two = (yaml.safe_load(recipe.read_text()) for recipe in recipes)
    for section in (one, two):
        for key in ("stage", "output", "init"):
            section.pop(key, None)
    both = tmp_path / "both.yaml"
    both.write_text(yaml.safe_dump({"output": str(tmp_path / "runs"), "stage1": one, "stage2": two}))
    assert isthmus("train", both, "--estimate") == 0
    out = capfd.readouterr().out
    assert "stage 1 on cpu" in out
    assert "frozen llm" in out.partition("stage 2 on cpu")[2]
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("encoder.weights=folder:/nowhere", "there is no such folder at /nowhere"),
        ("bridge.bert=folder:/nowhere", "there is no such folder at /nowhere"),
        ("bridge.max_tokens=5000", "lower it"),
        ("device=cuda:77", "CUDA devices are here"),
        ("train.batch_size=1", "has no negatives for ITC and ITM"),
    ],
)
def test_what_is_wrong_is_one_sentence(recipes, capfd, override, message):
    assert isthmus("train", recipes[0], "--estimate", override) == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err


def test_bytes_are_told_in_binary_units():
    assert [binary(size) for size in (0, 1023, 1024, 1536 * 1024**2)] == ["0 B", "1023 B", "1 KiB", "1.5 GiB"]
