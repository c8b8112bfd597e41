"""Texts that answer questions: how each kind of source has them, what is refused, and which pair is drawn."""

import json
from dataclasses import replace
from pathlib import Path

import datasets
import pyarrow
import pytest
import torch
from pyarrow import parquet

from isthmus.data.collate import Row, collate
from isthmus.data.folder import ImageFolder
from isthmus.data.loader import EvaluationRows, TrainingRows, evaluation_loader, make_loader
from isthmus.data.mixture import Mixture, Part
from isthmus.data.questions import check_questions
from isthmus.data.sampler import CounterSampler, Visit
from isthmus.data.table import Columns, TableSource
from isthmus.data.workers import Workers
from isthmus.errors import DataError
from isthmus.records import Example, Text


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def written(folder, text, name):
    for picture in ("a.png", "b.png"):
        (folder / picture).write_bytes(b"picture")
    (folder / name).write_text(text, encoding="utf-8")
    return folder


def lines(folder, *entries):
    return written(folder, "\n".join(map(json.dumps, entries)), "metadata.jsonl")


def pairs(source):
    return [list(zip(source[i].questions, source[i].captions, strict=True)) for i in range(len(source))]


def test_a_line_has_a_question_for_each_text_or_one_for_all(tmp_path):
    first = {"file_name": "a.png", "text": ["red", "a  boat"], "question": ["what\n colour?", "what is it?"]}
    second = {"file_name": "b.png", "text": ["two", "2"], "question": "how many?"}
    source = ImageFolder(lines(tmp_path, first, second))
    assert pairs(source) == [
        [("what colour?", "red"), ("what is it?", "a boat")],
        [("how many?", "two"), ("how many?", "2")],
    ]


def test_rows_of_csv_are_questions_with_their_answers(tmp_path):
    text = "file_name,text,question\na.png,red,colour?\nb.png,yes,wet?\na.png,boat,what?\n"
    assert pairs(ImageFolder(written(tmp_path, text, "metadata.csv"))) == [
        [("colour?", "red"), ("what?", "boat")],
        [("wet?", "yes")],
    ]


def test_without_questions_there_are_none(tmp_path):
    source = ImageFolder(lines(tmp_path, {"file_name": "a.png", "text": "x", "question": None}))
    assert source[0].questions == ()


GOOD = {"file_name": "a.png", "text": "x", "question": "y"}


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ({"question": "y"}, r'line 2: the key "text" is missing; add it'),
        ({"text": "x"}, r"line 2: there is no question, and one at .*jsonl, line 1; give one to all texts or to none"),
        ({"text": "x", "question": ""}, r"line 2: a question is empty or only white space; write it or remove it"),
        ({"text": "x", "question": 3}, r'line 2: "question" is a number; give a string or a list of strings'),
        ({"text": "x", "question": []}, r'line 2: "question" is an empty list; give at least one question'),
        ({"text": ["x", "z"], "question": ["y", None]}, r'line 2: a question under "question" is null; give strings'),
        (
            {"text": ["x", "z"], "question": ["y"]},
            r'line 2: there are 1 questions under "question" for 2 texts; give each text the question that it answers',
        ),
        ({"text": "x", "question": ["y", "z"]}, r'line 2: there are 2 questions under "question" for 1 texts'),
        ({"text": "x", "question": "y\0"}, r"line 2: a question holds a NUL character"),
    ],
)
def test_wrong_questions_are_named_by_their_line(tmp_path, line, match):
    with pytest.raises(DataError, match=r"metadata\.jsonl, " + match):
        ImageFolder(lines(tmp_path, GOOD, {"file_name": "b.png", **line}))


def test_a_question_in_the_second_line_alone_is_refused_too(tmp_path):
    with pytest.raises(DataError, match=r"line 2: there is a question, and none at .*jsonl, line 1"):
        ImageFolder(lines(tmp_path, {"file_name": "a.png", "text": "x"}, {**GOOD, "file_name": "b.png"}))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_column_of_a_table(tmp_path, kind):
    def table(name, **columns):
        path = tmp_path / f"{name}.{kind}"
        if kind == "csv":
            rows = [columns, *(dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))]
            path.write_text("\n".join(",".join(row.values() if row is not columns else row) for row in rows))
        else:
            parquet.write_table(pyarrow.table(columns), path)
        return str(path)

    written(tmp_path, "", "none")
    one = table("one", image=["a.png", "b.png"], text=["red", "two"], question=["colour?", "how many?"])
    assert pairs(TableSource(one)) == [[("colour?", "red")], [("how many?", "two")]]
    other = table("other", image=["a.png"], text=["red"], asked=["colour?"])
    assert pairs(TableSource(other, columns=Columns(question="asked"))) == [[("colour?", "red")]]
    assert TableSource(other)[0].questions == ()
    with pytest.raises(DataError, match=r"there is no column 'question'; the columns there are: image, text, asked"):
        TableSource(other, columns=Columns(question="question"))
    empty = table("empty", image=["a.png", "b.png"], text=["x", "y"], question=["z", " "])
    with pytest.raises(DataError, match=r"empty\.\w+, (line 3|row 1): a question is empty"):
        TableSource(empty)


def test_a_column_of_that_name_may_hold_the_texts(tmp_path):
    written(tmp_path, "image,question\na.png,what is it?\n", "x.csv")
    source = TableSource(str(tmp_path / "x.csv"), columns=Columns(text="question"))
    assert (source[0].captions, source[0].questions) == (("what is it?",), ())


def test_lists_in_a_table(tmp_path):
    columns = {"image": ["a.png"], "text": [["red", "boat"]]}
    written(tmp_path, "", "none")
    parquet.write_table(pyarrow.table({**columns, "question": [["colour?", "what?"]]}), tmp_path / "x.parquet")
    assert pairs(TableSource(str(tmp_path / "x.parquet"))) == [[("colour?", "red"), ("what?", "boat")]]
    parquet.write_table(pyarrow.table({**columns, "question": [["colour?"]]}), tmp_path / "y.parquet")
    with pytest.raises(DataError, match=r'y\.parquet, row 0: there are 1 questions under "question" for 2 texts'):
        TableSource(str(tmp_path / "y.parquet"))


SOURCE = [
    Example(Path(f"{n}.png"), str(n), tuple(f"{n}{letter}" for letter in "abc"), tuple(f"q{n}{c}" for c in "abc"))
    for n in range(8)
]


def tokenize(texts):
    ids = torch.tensor([[ord(text[0]), ord(text[-1])] for text in texts])
    return Text(ids, torch.ones_like(ids, dtype=torch.bool))


def look(example, index, epoch):
    return torch.zeros(1)


@pytest.mark.parametrize("workers", [0, 1])
def test_question_and_answer_are_drawn_together(workers):
    rows = TrainingRows(SOURCE, look, seed=1)
    loader = make_loader(
        rows, CounterSampler(8, 4, seed=1), steps=range(12), tokenize=tokenize, workers=Workers(workers)
    )
    seen = set()
    for batch in loader:
        assert [f"q{answer}" for answer in batch.captions] == list(batch.questions)
        assert torch.equal(batch.instruction.ids, tokenize(batch.questions).ids)
        assert torch.equal(batch.text.ids, tokenize(batch.captions).ids)
        seen |= {answer[-1] for answer in batch.captions}
    assert seen == set("abc")


def test_the_draw_is_the_one_of_captions_without_questions():
    plain = [Example(example.image, example.image_id, example.captions) for example in SOURCE]
    for epoch in range(5):
        asked, captioned = (TrainingRows(source, look, seed=3)[Visit(epoch, 2)] for source in (SOURCE, plain))
        assert asked.caption == captioned.caption and captioned.question is None


def test_evaluation_begins_with_the_first_question():
    (batch,) = evaluation_loader(EvaluationRows(SOURCE, look), 8, tokenize=tokenize)
    assert batch.questions == tuple(f"q{n}a" for n in range(8))
    moved = batch.to("meta")
    assert moved.questions == batch.questions and moved.instruction.ids.device.type == "meta"


def test_a_batch_without_questions_has_none_and_a_mixed_one_is_a_fault():
    row = Row(torch.zeros(1), "x", "1", 1)
    batch = collate([row, row], tokenize=tokenize)
    assert batch.questions is None and batch.instruction is None and batch.to("meta").counted is None
    assert replace(batch, counted=torch.tensor([True, False])).to("meta").counted.device.type == "meta"
    with pytest.raises(AssertionError):
        collate([row, Row(torch.zeros(1), "x", "1", 1, question="y")], tokenize=tokenize)


def test_parts_of_a_mixture_keep_their_questions():
    mixture = Mixture([Part("one", SOURCE[:4]), Part("two", SOURCE[4:])]).keep([True, False] * 4)
    assert [mixture[index].questions for index in range(4)] == [SOURCE[index].questions for index in (0, 2, 4, 6)]


@pytest.mark.parametrize(
    ("asked", "stage", "instruct", "match"),
    [
        (False, 2, True, "pictures: there are no questions in it, and bridge.instruct trains on questions; give every"),
        (True, 2, False, "pictures: its texts answer questions, and would be trained as captions; set bridge.instruct"),
        (True, 1, False, "pictures: its texts answer questions, and stage 1 learns captions; give it a source without"),
    ],
)
def test_what_a_run_does_not_want_is_one_sentence(asked, stage, instruct, match):
    examples = SOURCE if asked else [Example(Path("a.png"), "a", ("x",))]
    with pytest.raises(DataError, match=match):
        check_questions(Part("pictures", examples), stage=stage, instruct=instruct)


def test_what_fits_passes():
    check_questions(Part("a", SOURCE), stage=2, instruct=True)
    for stage in (1, 2):
        check_questions(Part("a", [Example(Path("a.png"), "a", ("x",))]), stage=stage, instruct=False)
