"""Where logits are made: every route gives the same ones, and none waits for the device.

That each listed type's head is its own is held in tests/parity/test_language_models.py.
"""

import inspect

import pytest
import torch

import decoders
import encoder_decoders
from decoders import soft_prompt
from isthmus.language import heads
from isthmus.language.heads import label_losses
from isthmus.language.labels import place_labels
from isthmus.language.llm import Target

CAPTIONS, DRAWS = ["a dog", "red", "two big cats", "x", ""], [0.01, 0.99, 0.5, 0.7, 0.7]
TOWERS = {
    **{family: lambda family=family: decoders.llm(family) for family in decoders.MODELS},
    **{family: lambda family=family: encoder_decoders.llm(family) for family in encoder_decoders.MODELS},
}


def losses_and_gradient(tower):
    soft = soft_prompt(tower, 5)
    sums, _ = tower.row_losses(soft, tower.tokenize(CAPTIONS, DRAWS))
    return sums.detach(), torch.autograd.grad(sums.sum(), soft)[0]


@pytest.mark.parametrize("counts_freely", [True, False], ids=["by-mask", "by-positions"])
@pytest.mark.parametrize("family", TOWERS)
def test_a_type_that_is_not_listed_has_the_same_losses_by_its_own_forward(family, counts_freely, monkeypatch):
    expected = losses_and_gradient(TOWERS[family]())
    monkeypatch.setattr(heads, "HEADS", {})
    if not counts_freely:
        monkeypatch.setattr(heads, "COUNTS_FREELY", set())
    tower = TOWERS[family]()
    asked, forward = [], type(tower.model).forward

    def spy(*inputs, **named):
        output = forward(tower.model, *inputs, **named)
        asked.append((named.get("logits_to_keep"), output.logits.shape))
        return output

    spy.__signature__ = inspect.signature(forward)
    monkeypatch.setattr(tower.model, "forward", spy)
    found = losses_and_gradient(tower)
    assert all((a - b).abs().max() <= 1e-12 * b.abs().max() for a, b in zip(found, expected, strict=True))
    kept, shape = asked[-1]
    labels, width = tower.tokenize(CAPTIONS, DRAWS).mask, tower.vocabulary()
    if family in encoder_decoders.MODELS:
        assert kept is None and shape == (*labels.shape, width)
    elif counts_freely:
        assert kept.dtype == torch.bool and shape == (labels.sum(), width)
    else:
        assert kept.shape == labels.shape and shape == (*labels.shape, width)


@pytest.mark.parametrize("family", TOWERS)
def test_a_listed_type_s_head_reads_the_labels_states_and_no_others(family):
    tower = TOWERS[family]()
    read = []
    tower.model.lm_head.register_forward_pre_hook(lambda module, given: read.append(given[0].shape[:-1]))
    target = tower.tokenize(CAPTIONS, DRAWS)
    if family in decoders.MODELS:
        tower._prefix(1)  # made once, by the whole model
        read.clear()
    tower.row_losses(soft_prompt(tower, 5), target)
    assert read == [(target.count,)]


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("family", TOWERS)
def test_nothing_waits_for_the_device(family, listed, monkeypatch):
    """On the meta device, which holds no numbers: whoever asks for one raises.

    transformers asks for itself, of a mask for fused attention and of every encoder's, whether anything is padding.
    """
    tower = TOWERS[family]()
    tower.model.set_attn_implementation("eager")
    target = tower.tokenize(CAPTIONS).to("meta")
    if not listed:
        monkeypatch.setattr(heads, "HEADS", {})
    model = tower.model.to("meta")
    batch, length = target.ids.shape
    soft = torch.zeros(batch, 7 + length, tower.width, device="meta", dtype=torch.float64, requires_grad=True)
    mask = torch.ones(soft.shape[:2], dtype=torch.long, device="meta")
    inputs = {"inputs_embeds": soft, "attention_mask": mask, "use_cache": False}
    if family in encoder_decoders.MODELS:
        inputs |= {"decoder_input_ids": target.ids, "attention_mask": None}
    labels = place_labels(target, first=0 if "decoder_input_ids" in inputs else 7)
    losses = label_losses(model, labels, inputs)
    labels.row_sums(losses).sum().backward()
    assert losses.shape == (target.count,) and soft.grad.shape == soft.shape


def test_places_count_through_states_and_through_tokens():
    mask = torch.tensor([[True, True, False], [True, False, False], [False] * 3, [True] * 3])
    labels = place_labels(Target(torch.arange(12).view(4, 3), mask), first=2)
    assert labels.cells.tolist() == labels.ids.tolist() == [0, 1, 3, 9, 10, 11]
    assert labels.states().tolist() == [2, 3, 7, 17, 18, 19]  # of four rows of five states


def test_each_row_sums_its_own_labels():
    mask = torch.tensor([[True, True], [False, False], [True, False]])
    labels = place_labels(Target(torch.tensor([[1, 2], [0, 0], [0, 0]]), mask), first=0)
    assert labels.row_sums(torch.tensor([1.0, 2.0, 4.0])).tolist() == [3.0, 0.0, 4.0]


def test_a_target_counts_once_and_keeps_it_where_it_moves():
    target = Target(torch.zeros(2, 3, dtype=torch.long), torch.tensor([[True, True, False], [True, False, False]]))
    assert target.count == 3
    assert target.to("meta").count == 3
