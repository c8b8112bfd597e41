"""`isthmus ask`: one picture, some questions → an answer to each."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import typer

from isthmus.build.folders import ASK
from isthmus.cli.inputs import Loading, enough_memory, print_json
from isthmus.data.image import open_image
from isthmus.data.text import normalise
from isthmus.language.llm import Decoding


def run_ask(image: Path, questions: Sequence[str], loading: Loading, decoding: Decoding, *, as_json: bool) -> None:
    """Print each question with its answer; the picture is encoded once."""
    loading.check()
    picture = open_image(image)
    predictor = loading.predictor(ASK)
    with enough_memory("fewer questions", "--device cpu"):
        encoded = predictor.encode(picture)
        answers = predictor.ask([encoded] * len(questions), list(questions), **asdict(decoding))
    if as_json:
        rows = [{"question": question, "answer": answer} for question, answer in zip(questions, answers, strict=True)]
        print_json({"file_name": str(image), "answers": rows})
        return
    for question, answer in zip(questions, answers, strict=True):
        typer.echo(f"{normalise(question)}\t{normalise(answer)}")
