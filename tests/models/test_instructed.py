"""The bridge that looks with a question in mind: against the definition, row by row, and through a language model."""

from dataclasses import replace

import pytest
import torch

from bridges import CLS, DEC, SEP, tiny_batch, tiny_bridge
from decoders import llm as decoder
from decoders import spelled
from encoder_decoders import llm as encoder_decoder
from encoder_decoders import plain_row_loss
from isthmus.errors import AbsentPartError
from isthmus.language.llm import Decoding
from isthmus.language.prompts import Prompt
from isthmus.models.generate import Questions, answer_by_llm
from isthmus.models.stage2 import Stage2
from isthmus.qformer.masks import bidirectional
from isthmus.records import Step, Text

STEP = Step(0, 0, 0.5)
PROMPT = Prompt(before="see:", after=" Q: {question} A:")
QUESTIONS = ("what is it?", "big", "how many cats are there?", "a")
ANSWERS = ("a dog", "red", "two", "yes")


def instruction(lengths=(5, 3, 7, 2)):
    """Questions as the Q-Former reads them, [CLS] ... [SEP], padded on the right."""
    generator, width = torch.Generator().manual_seed(5), max(lengths)
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    ids = torch.randint(4, DEC, mask.shape, generator=generator) * mask
    ids[:, 0] = CLS
    ids[torch.arange(len(lengths)), torch.tensor(lengths) - 1] = SEP
    return Text(ids, mask)


def instructed(width=7):
    return tiny_bridge(shared_width=None, lm_head=False, language_width=width)


def asked():
    return replace(tiny_batch(), captions=ANSWERS, questions=QUESTIONS, instruction=instruction())


def test_the_instructed_prompt_is_the_definition_under_the_bidirectional_mask():
    bridge, batch, words = instructed(), tiny_batch(), instruction()
    states = bridge.qformer(words, bidirectional(2, words.mask), batch.vision).queries
    found = bridge.instructed_prompt(batch.vision, words)
    assert torch.allclose(found, bridge.projection(states), atol=1e-12)
    assert not torch.allclose(found, bridge.soft_prompt(batch.vision), atol=1e-3), "or the question is not read"


def test_questions_of_different_lengths_are_what_each_is_alone():
    bridge, batch, words = instructed(), tiny_batch(), instruction()
    together = bridge.instructed_prompt(batch.vision, words)
    for row in range(4):
        index = torch.tensor([row])
        alone = bridge.instructed_prompt(batch.vision[index], words.select(index).trimmed())
        assert torch.allclose(together[index], alone, atol=1e-12)


def test_a_bridge_without_a_text_half_cannot():
    bridge = tiny_bridge(text=False, shared_width=None, language_width=7)
    with pytest.raises(AbsentPartError, match="no text half"):
        bridge.instructed_prompt(tiny_batch().vision, instruction())


def by_decoder(tower, soft, question, answer):
    """One row, unpadded, by transformers' own `labels`: BOS, before, soft prompt, question, answer, end mark."""
    label = spelled(f" {answer}\n")
    embed = tower.model.get_input_embeddings()
    head, tail = [1, *spelled("see:")], [*spelled(f" Q: {question} A:"), *label]
    before, after = (embed(torch.tensor([ids])) for ids in (head, tail))
    sequence = torch.cat([before, soft[None], after], 1)
    labels = torch.tensor([[-100] * (sequence.shape[1] - len(label)) + label])
    return tower.model(inputs_embeds=sequence, labels=labels).loss.double() * len(label)


def by_encoder_decoder(tower, soft, question, answer):
    """The encoder reads the question, the decoder is asked for the whole answer and the end of sequence."""
    tower.prompt = Prompt(before="see:", after=f" Q: {question} A:")
    return plain_row_loss(tower, soft, "", answer, bos=False)


TOWERS = {
    "llama": (lambda: decoder("llama", PROMPT), by_decoder),
    "gpt2": (lambda: decoder("gpt2", PROMPT), by_decoder),
    "t5": (lambda: encoder_decoder("t5", PROMPT), by_encoder_decoder),
}


@pytest.mark.parametrize("family", TOWERS)
def test_the_loss_is_on_the_answers_alone_row_by_row(family):
    make, oracle = TOWERS[family]
    tower = make()
    stage, batch = Stage2(instructed(tower.width), tower), asked()
    states = stage.bridge.qformer(batch.instruction, bidirectional(2, batch.instruction.mask), batch.vision).queries
    term = stage(batch, STEP)["lm"]
    assert stage.count(batch, STEP)["lm"] == term.weight
    rows = [oracle(tower, *row) for row in zip(stage.bridge.projection(states), QUESTIONS, ANSWERS, strict=True)]
    assert term.sum.item() == pytest.approx(sum(rows).item(), rel=1e-6)  # transformers' own is in fp32
    marks = 1 if family == "t5" else 2  # the end mark, and the space before
    assert term.weight == sum(len(answer) + marks for answer in ANSWERS)
    parameters = [p for p in stage.bridge.parameters() if p.requires_grad]
    found = torch.autograd.grad(term.sum, parameters, allow_unused=True)
    wanted = torch.autograd.grad(sum(rows), parameters, allow_unused=True)
    scale = max(other.abs().max().item() for other in wanted if other is not None)
    for one, other in zip(found, wanted, strict=True):
        assert (one is None) == (other is None or not other.any())
        assert one is None or torch.allclose(one, other, rtol=1e-5, atol=1e-6 * scale)


def test_all_but_the_words_of_the_last_layer_learns():
    tower = decoder("llama", PROMPT)
    stage = Stage2(instructed(tower.width), tower)
    stage(asked(), STEP)["lm"].mean().backward()
    without = {name for name, parameter in stage.bridge.named_parameters() if parameter.grad is None}
    assert without == {name for name in dict(stage.bridge.named_parameters()) if "layers.2.text_feed_forward" in name}
    assert without and stage.bridge.qformer.text.words.weight.grad.any()


def test_another_question_is_another_loss_in_both_readers():
    tower = decoder("llama", PROMPT)
    stage, batch = Stage2(instructed(tower.width), tower), asked()
    before = stage(batch, STEP)["lm"].sum
    assert not torch.allclose(stage(replace(batch, questions=QUESTIONS[::-1]), STEP)["lm"].sum, before)
    other = batch.instruction.select(torch.tensor([1, 0, 3, 2]))
    assert not torch.allclose(stage(replace(batch, instruction=other), STEP)["lm"].sum, before)


@pytest.mark.parametrize("family", TOWERS)
def test_answers_together_are_those_of_single_questions(family):
    tower = TOWERS[family][0]().float()
    bridge, batch = instructed(tower.width).float(), asked()
    memory, decoding = bridge.qformer.memory.project(batch.vision.float()), Decoding(max_new_tokens=6)
    questions = Questions(QUESTIONS, batch.instruction)
    together = answer_by_llm(bridge, tower, memory, decoding, questions=questions)
    for row in range(4):
        index = torch.tensor([row])
        alone = answer_by_llm(bridge, tower, memory.select(index), decoding, questions=questions.select(index))
        assert alone == [together[row]]
    assert len(set(together)) > 1
