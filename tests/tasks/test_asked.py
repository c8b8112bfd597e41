"""Answers to every question, and their loss with the right picture beside another, by hand."""

from pathlib import Path

import pytest
import torch

from bridges import rows_of, tiny_batch, tiny_bridge
from captioned import tokenize
from decoders import llm
from isthmus.errors import DataError
from isthmus.language.llm import Decoding
from isthmus.language.prompts import Prompt
from isthmus.models.stage2 import Stage2
from isthmus.records import Batch, Example
from isthmus.tasks import asked
from isthmus.tasks.asked import Asked, answer_all, answers_right_and_shuffled
from isthmus.tasks.caption import exact, pictured
from isthmus.tasks.figures import caption_figures, in_a_line
from isthmus.tasks.shuffled import other_things

CPU = torch.device("cpu")
SOURCE = [
    Example(Path("0.png"), "boat", ("red", "yes", " dark  red"), ("colour?", "is it wet?", "colour?")),
    Example(Path("1.png"), "boat", ("yes",), ("is it wet?",)),
    Example(Path("2.png"), "car", ("no", "4"), ("is it wet?", "how many?")),
    Example(Path("3.png"), "sun", ("yellow",), ("colour?",)),
]


@pytest.fixture(scope="module")
def stage():
    tower = llm(prompt=Prompt(before="see:", after=" Q: {question} A:")).float()
    return Stage2(tiny_bridge(shared_width=None, lm_head=False, language_width=tower.width).float(), tower).eval()


@pytest.fixture(scope="module")
def rows():
    whole = tiny_batch()
    whole = Batch(whole.vision.float(), whole.captions, whole.text, whole.identity, torch.arange(4))
    return Asked([rows_of(whole, slice(0, 3)), rows_of(whole, slice(3, 4))], SOURCE, tokenize, CPU)


@pytest.fixture(params=[48, 2], ids=["one piece", "pieces"])
def pieces(request, monkeypatch):
    monkeypatch.setattr(asked, "_ROWS", request.param)


def vision(rows):
    return torch.cat([batch.vision for batch in rows.batches])


def test_every_question_is_answered_once_with_all_its_answers_as_references(stage, rows, pieces):
    decoding = Decoding(max_new_tokens=4)
    found = answer_all(stage, rows, decoding)
    assert [(one.question, one.references, one.image_id) for one in found] == [
        ("colour?", ("red", "dark red"), "boat"),
        ("is it wet?", ("yes",), "boat"),
        ("is it wet?", ("yes",), "boat"),
        ("is it wet?", ("no",), "car"),
        ("how many?", ("4",), "car"),
        ("colour?", ("yellow",), "sun"),
    ]
    for one, picture in zip(found, (0, 0, 1, 2, 2, 3), strict=True):
        soft = stage.bridge.instructed_prompt(vision(rows)[picture : picture + 1], tokenize([one.question]))
        assert stage.llm.generate(soft, decoding, prompts=[f" Q: {one.question} A:"]) == [one.said]
    assert pictured(found)[0] == pictured(found)[2] != pictured(found)[3]


def by_hand(stage, pictures, picture_of):
    """Mean loss of a token, one question at a time, the picture of each example as told."""
    total, count = 0.0, 0
    for number, example in enumerate(SOURCE):
        for question, answer in zip(example.questions, example.captions, strict=True):
            row = pictures[picture_of[number]][None]
            soft = stage.bridge.instructed_prompt(row, tokenize([question]))
            target = stage.llm.tokenize([" ".join(answer.split())], prompts=[f" Q: {question} A:"])
            term = stage.llm.loss(soft, target)
            total, count = total + float(term.sum), count + int(term.weight)
    return total / count


@pytest.mark.parametrize("seed", range(3))
def test_a_shuffled_picture_is_looked_at_with_the_row_s_own_question(stage, rows, pieces, seed):
    partner = other_things(SOURCE, seed=seed, captions=False).tolist()
    assert all(SOURCE[row].image_id != SOURCE[other].image_id for row, other in enumerate(partner))
    with torch.no_grad():
        right, shuffled = (by_hand(stage, vision(rows), order) for order in (range(4), partner))
    found = answers_right_and_shuffled(stage, rows, seed=seed)
    assert found == pytest.approx({"right": right, "shuffled": shuffled, "gap": shuffled - right}, rel=1e-4)


def test_equal_answers_are_no_same_thing_and_equal_ids_are():
    yes = [Example(Path("x"), str(number), ("yes",), ("is it?",)) for number in range(4)]
    assert sorted(other_things(yes, seed=0, captions=False).tolist()) == [0, 1, 2, 3]
    same = [Example(Path("x"), "1", (str(number),), ("how many?",)) for number in range(3)]
    with pytest.raises(DataError, match=r"3 of 3 evaluation pictures are the same thing, by image_id, so pictures"):
        other_things(same, seed=0, captions=False)


def test_figures_of_answers_show_the_question(stage, rows):
    found = answer_all(stage, rows, Decoding(max_new_tokens=2))
    figures = caption_figures(found, seed=0)
    assert figures["captions"][0] == (found[0].said, "red", "colour?")
    assert figures["exact_match"] == 100.0 * float(exact(found).double().mean())
    line = in_a_line({"loss": {"right": 1.0, "shuffled": 2.0, "gap": 1.0}, "exact_match": 12.5, "questions": 6})
    assert "12.5 % of answers exact" in line
