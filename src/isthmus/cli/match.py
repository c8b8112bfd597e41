"""`isthmus match`: one picture, several texts → which fits best."""

from collections.abc import Sequence
from pathlib import Path

import typer

from isthmus.build.folders import MATCH
from isthmus.cli.inputs import Loading, enough_memory, print_json
from isthmus.data.image import open_image


def run_match(image: Path, texts: Sequence[str], loading: Loading, *, as_json: bool) -> None:
    """Print the texts, the best first: cosine by ITC, probability of a match by ITM, and the score of both."""
    loading.check()
    picture = open_image(image)
    predictor = loading.predictor(MATCH)
    with enough_memory("fewer texts", "--device cpu"):
        matches = predictor.match([picture], list(texts))
    assert matches.itm is not None
    columns = (texts, matches.score[0].tolist(), matches.itc[0].tolist(), matches.itm[0].tolist())
    rows = sorted(zip(*columns, strict=True), key=lambda row: -row[1])
    if as_json:
        names = ("text", "score", "cosine", "match_probability")
        print_json({"file_name": str(image), "texts": [dict(zip(names, row, strict=True)) for row in rows]})
        return
    typer.echo(f"{'score':>9}  {'cosine':>7}  {'match':>6}  text")
    for text, score, cosine, probability in rows:
        typer.echo(f"{score:9.3f}  {cosine:7.3f}  {probability:6.3f}  {text}")
