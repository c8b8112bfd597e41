"""Questions about pictures: the answers of a bridge through its language model, and the loss of the true ones.

A picture is looked at with each of its questions in mind, a shuffled one too (DESIGN 5.15): what is shuffled are the
pictures, and a question stays with its answer.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from isthmus.data.collate import Tokenize
from isthmus.data.text import normalise
from isthmus.language.llm import Decoding
from isthmus.models.generate import Questions, answer_by_llm
from isthmus.models.stage2 import Stage2
from isthmus.qformer.memory import Memory
from isthmus.records import Batch, Example, Source
from isthmus.tasks.caption import Caption
from isthmus.tasks.shuffled import other_things

_ROWS = 48


@dataclass(frozen=True)
class Asked:
    """Pictures in batches, whose `index` is their place in the source that has their questions."""

    batches: Iterable[Batch]
    source: Source
    tokenize: Tokenize
    device: torch.device

    def memories(self, stage: Stage2) -> Iterator[tuple[Int[Tensor, " B"], Memory]]:
        """The places of each batch's pictures, and what the bridge remembers of them."""
        for batch in self.batches:
            yield (
                batch.index.cpu(),
                stage.bridge.qformer.memory.project(batch.vision.to(self.device, non_blocking=True)),
            )

    def questions(self, words: Sequence[str]) -> Questions:
        """Questions as the Q-Former and the language model read them."""
        return Questions(words, self.tokenize(words).to(self.device))


@dataclass(frozen=True)
class _Row:
    """A question and its answers, and where in its batch the picture stands that it is asked about."""

    place: int
    question: str
    answers: tuple[str, ...]


@torch.inference_mode()
def answer_all(stage: Stage2, asked: Asked, decoding: Decoding) -> list[Caption]:
    """Answer every question about every picture, in the source's order; all answers to it are its references."""
    answers: list[Caption] = []
    for index, memory in asked.memories(stage):
        examples = [asked.source[place] for place in index.tolist()]
        for rows, owner in _pieces(_by_question(examples), asked.device):
            questions = asked.questions([row.question for row in rows])
            said = answer_by_llm(stage.bridge, stage.llm, memory.select(owner), decoding, questions=questions)
            answers.extend(
                Caption(text, row.answers, examples[row.place].image_id, row.question)
                for text, row in zip(said, rows, strict=True)
            )
    return answers


@torch.inference_mode()
def answers_right_and_shuffled(stage: Stage2, asked: Asked, *, seed: int) -> dict[str, float]:
    """Loss per answer token (nats) over every answer: with the picture that was asked about, and with another thing's.

    Pictures are the same thing when they share `image_id`; equal answers ("yes") join nothing.
    """
    examples = [asked.source[place] for place in range(len(asked.source))]
    asking = other_things(examples, seed=seed, captions=False).argsort()  # whose questions each picture is shuffled to
    totals = {"right": 0.0, "shuffled": 0.0}
    weights = dict(totals)
    for index, memory in asked.memories(stage):
        for name, who in (("right", index), ("shuffled", asking[index])):
            for rows, owner in _pieces(_one_by_one([examples[one] for one in who.tolist()]), asked.device):
                questions = asked.questions([row.question for row in rows])
                target = stage.answers([row.answers[0] for row in rows], questions.words).to(asked.device)
                states = stage.bridge.qformer.fuse(questions.instruction, memory.select(owner))
                term = stage.llm.loss(stage.bridge.project(states), target)
                totals[name], weights[name] = totals[name] + float(term.sum), weights[name] + float(term.weight)
    right, shuffled = (totals[name] / max(1.0, weights[name]) for name in totals)
    return {"right": right, "shuffled": shuffled, "gap": shuffled - right}


def _by_question(examples: Sequence[Example]) -> list[_Row]:
    """A row for each different question of a picture, with all answers to it."""
    rows: dict[tuple[int, str], list[str]] = {}
    for row in _one_by_one(examples):
        rows.setdefault((row.place, row.question), []).extend(row.answers)
    return [_Row(place, question, tuple(answers)) for (place, question), answers in rows.items()]


def _one_by_one(examples: Sequence[Example]) -> list[_Row]:
    """A row for each answer."""
    return [
        _Row(place, normalise(question), (normalise(answer),))
        for place, example in enumerate(examples)
        for question, answer in zip(example.questions, example.captions, strict=True)
    ]


def _pieces(rows: Sequence[_Row], device: torch.device) -> Iterator[tuple[Sequence[_Row], Int[Tensor, " R"]]]:
    """Some rows after the other, with the places of their pictures."""
    for start in range(0, len(rows), _ROWS):
        piece = rows[start : start + _ROWS]
        yield piece, torch.tensor([row.place for row in piece], device=device)
