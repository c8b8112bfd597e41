"""A prompt of its own for each row, as questions are: rows of different lengths are what each row is alone."""

import pytest
import torch

import decoders
import encoder_decoders
from decoders import MODELS, llm, soft_prompt, spelled
from fakes import byte_tokenizer
from isthmus.errors import ConfigError
from isthmus.language import heads
from isthmus.language.decoder_only import DecoderOnlyLLM
from isthmus.language.llm import Decoding
from isthmus.language.prompts import Prompt

ANSWERS = ["a dog", "red", "two big cats"]
PROMPTS = [" Question: what is it? Answer:", "", " colour?"]


def plain_row_loss(tower, soft, prompt, answer):
    """One row, unpadded, by transformers' own `labels` on the whole sequence: the summed loss, and the labels."""
    first, second = ([1], []) if tower.prompt.bos == "first" else ([], [1])
    head, tail = first + spelled(tower.prompt.before), second + spelled(prompt)
    label = spelled(" " + answer) + (spelled(tower.prompt.end) if tower.prompt.end else [2])
    embed = tower.model.get_input_embeddings()
    before, after = (embed(torch.tensor([ids], dtype=torch.long)) for ids in (head, tail + label))
    sequence = torch.cat([before, soft[None], after], 1)
    labels = torch.tensor([[-100] * (sequence.shape[1] - len(label)) + label])
    return tower.model(inputs_embeds=sequence, labels=labels).loss * len(label), len(label)


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize(
    "prompt",
    [Prompt(before="see:", after=" {question}"), Prompt(bos="after_soft_prompt", end=""), Prompt(before="x", end=";;")],
    ids=["first", "bos-after", "two-token-end"],
)
def test_ragged_prompts_cost_what_single_rows_do(family, prompt):
    tower = llm(family, prompt)
    soft = soft_prompt(tower)
    target = tower.tokenize(ANSWERS, prompts=PROMPTS)
    sums, weights = tower.row_losses(soft, target)
    rows = [plain_row_loss(tower, *row) for row in zip(soft, PROMPTS, ANSWERS, strict=True)]
    assert weights.tolist() == target.mask.sum(1).tolist() == [count for _, count in rows]
    expected = torch.stack([loss.double() for loss, _ in rows])
    assert torch.allclose(sums, expected, rtol=1e-6)  # transformers' own is in fp32
    alone = [
        tower.row_losses(one[None], tower.tokenize([answer], prompts=[text]))[0]
        for one, answer, text in zip(soft, ANSWERS, PROMPTS, strict=True)
    ]
    assert torch.allclose(sums, torch.cat(alone), rtol=1e-12)
    (found,) = torch.autograd.grad(sums.sum(), soft, retain_graph=True)
    (wanted,) = torch.autograd.grad(torch.cat(alone).sum(), soft)
    assert torch.allclose(found, wanted, atol=1e-12 * wanted.abs().max().item())


def test_no_gap_stands_within_a_row_and_padding_on_its_right():
    target = llm(prompt=Prompt()).tokenize(["a", "bc"], prompts=[" long question?", ""])
    long, short = [*spelled(" long question?"), *spelled(" a\n")], spelled(" bc\n")
    assert target.ids.tolist() == [long, short + [0] * (len(long) - len(short))]
    assert target.seen.sum(1).tolist() == [len(long), len(short)]
    assert target.mask.tolist()[0] == [False] * 15 + [True] * 3
    assert target.mask.tolist()[1] == [True] * 4 + [False] * 14


def test_one_prompt_for_all_is_the_trained_text():
    prompt = Prompt(before="see:", after=" is")
    tower = llm(prompt=prompt)
    soft = soft_prompt(tower)
    sums, _ = tower.row_losses(soft, tower.tokenize(ANSWERS))
    own, _ = tower.row_losses(soft, tower.tokenize(ANSWERS, prompts=[" is"] * 3))
    assert torch.allclose(sums, own, rtol=1e-12)


def test_every_way_to_the_labels_logits_reads_row_prompts(monkeypatch):
    tower = llm()
    soft, target = soft_prompt(tower), tower.tokenize(ANSWERS, prompts=PROMPTS)
    by_head = tower.row_losses(soft, target)
    monkeypatch.setattr(heads, "HEADS", {})
    by_mask = tower.row_losses(soft, target)
    monkeypatch.setattr(heads, "COUNTS_FREELY", set())
    by_position = tower.row_losses(soft, target)
    for other in (by_mask, by_position):
        assert all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(by_head, other, strict=True))


def test_under_dropout_too_the_sequence_is_whole():
    tower = llm("opt")
    soft, target = soft_prompt(tower), tower.tokenize(ANSWERS, prompts=PROMPTS)
    cached = tower.row_losses(soft, target)[0]
    tower._reads_cache = lambda: False
    assert torch.allclose(tower.row_losses(soft, target)[0], cached, rtol=1e-12)


def test_in_a_chat_the_prompt_stands_before_the_assistant_s_turn():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{% for turn in messages %}<|{{ turn.role }}|>{{ turn.content }}</s>{% endfor %}"
    tower = DecoderOnlyLLM(MODELS["llama"](), tokenizer, Prompt(after="{question}", chat=True), address="folder:x")
    target = tower.tokenize(["red"], prompts=["colour?"])
    text = "colour?</s><|assistant|>red</s>"
    assert target.ids[0].tolist() == tokenizer(text, add_special_tokens=False).input_ids
    assert target.mask[0].sum() == 4


@pytest.mark.parametrize("family", encoder_decoders.MODELS)
def test_an_encoder_reads_the_prompt_and_the_decoder_is_asked_for_the_whole(family):
    prompt = Prompt(before="see:", after=" {question}")
    tower = encoder_decoders.llm(family, prompt)
    soft = soft_prompt(tower)
    target = tower.tokenize(ANSWERS, [0.5] * 3, prompts=PROMPTS)
    sums, weights = tower.row_losses(soft, target)
    tower.prompt = Prompt(before="see:")
    rows = [encoder_decoders.plain_row_loss(tower, *row, bos=False) for row in zip(soft, PROMPTS, ANSWERS, strict=True)]
    assert torch.allclose(sums, torch.stack(rows), rtol=1e-6)
    assert weights.tolist() == [len(answer) + 1 for answer in ANSWERS]
    (found,) = torch.autograd.grad(sums.sum(), soft)
    (wanted,) = torch.autograd.grad(sum(rows), soft)
    assert torch.allclose(found, wanted, atol=1e-12 * wanted.abs().max().item())


@pytest.mark.parametrize("kind", [decoders, encoder_decoders])
def test_a_prompt_that_asks_needs_its_questions(kind):
    tower = kind.llm(prompt=Prompt(after="{question}"))
    soft = soft_prompt(tower)
    with pytest.raises(ConfigError, match="this prompt asks a question, and none is given: give one for each picture"):
        tower.generate(soft, Decoding())
    with pytest.raises(ConfigError, match="2 prompts for 3 pictures"):
        tower.tokenize(ANSWERS, prompts=["a", "b"])


def test_what_a_model_has_no_positions_for_is_one_sentence_in_training_too():
    tower = llm()
    target = tower.tokenize(ANSWERS, prompts=["x" * 3000, "", ""])
    with pytest.raises(ConfigError, match=r"come to 30\d\d tokens, but folder:llama has 2048 positions"):
        tower.row_losses(soft_prompt(tower), target)


def test_the_words_of_a_question_are_the_prompt_s():
    prompt = Prompt(before="Look.", after=" Q: {question} A:")
    assert prompt.asks and not Prompt(after="what is it?").asks
    assert prompt.asking("is {this} one?") == " Q: is {this} one? A:"
    lined = prompt.with_examples(["red", "two"], ["colour?", "how many?"])
    assert lined.before == "Look. Q: colour? A: red\nLook. Q: how many? A: two\nLook." and lined.after == prompt.after
    with pytest.raises(ConfigError, match="stands in the prompt's `before`, which is the same in every row"):
        Prompt(before="{question}")
    assert Prompt.from_json(prompt.as_json()) == prompt
