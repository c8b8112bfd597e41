"""The report as one HTML page that asks nothing of any server: `report.json` and the pictures are all it is made of."""

import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from isthmus.files import write_atomically
from isthmus.quickstart.artists import ARTISTS, WEIGHTS
from isthmus.quickstart.charts import line_chart
from isthmus.quickstart.choices import FUNCTION_WORDS, NEAREST
from isthmus.quickstart.curves import TERM_NAMES, loss_charts
from isthmus.quickstart.tables import COLUMNS, DIRECTIONS, caption_rows, chance_of_finding, retrieval_groups
from isthmus.quickstart.thumbnails import spotlight, thumbnail

PAGE = "report.html"
_HERE = Path(__file__).parent
_TILE, _WIDE = 192, 320  # pixels that are kept: about two for each that is shown


def write_page(report: Mapping[str, Any], folder: Path) -> Path:
    """Make `report.html` in a quickstart's folder of its report and its pictures.

    Raises DataError where a picture is missing.
    """
    page = render_page(report, folder)
    write_atomically(folder / PAGE, lambda path: path.write_text(page, encoding="utf-8"))
    return folder / PAGE


def render_page(report: Mapping[str, Any], folder: Path) -> str:
    """The page of a report, whose pictures lie in `folder/pictures`; raises DataError where one is missing."""
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pictures = folder / "pictures"
    environment.filters |= {
        "tile": lambda name: thumbnail(pictures / name, _TILE),
        "large": lambda name: thumbnail(pictures / name, _WIDE),
        "spotlight": lambda attention, name, side: spotlight(pictures / name, attention, side, _WIDE),
        "overlap": overlap,
        "ordinal": ordinal,
        "duration": duration,
        "count": lambda number: f"{number:,}",
        "millions": lambda number: f"{number / 1e6:.1f} million",
        "artist": _artist_of,
    }
    return environment.get_template("report.html.j2").render(
        report=report,
        style=Markup((_HERE / "report.css").read_text(encoding="utf-8")),
        headline=_headline(report),
        charts=[(term, line_chart(chart)) for term, chart in loss_charts(report)],
        terms=TERM_NAMES,
        groups=retrieval_groups(report["retrieval"]),
        captions=caption_rows(report),
        directions=DIRECTIONS,
        columns=COLUMNS,
        nearest=NEAREST,
        function_words=sorted(FUNCTION_WORDS),
        artists=ARTISTS,
        weights=WEIGHTS,
        commands=commands(report, folder),
    )


def commands(report: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """How to go on, as commands that work where this page was made; the picture in them is of the report."""
    looked, drawings = report["shown"]["looks"][0], report["shown"]["drawings"]
    place, picture = (shlex.quote(str(path)) for path in (folder, folder / "pictures" / looked["picture"]))
    names = [looked["name"], *(strip["name"] for strip in drawings if strip["name"] != looked["name"])][:3]
    return {
        "Caption a picture of yours": "isthmus caption PICTURE --model " + place,
        "Which name fits this drawing?": f"isthmus match {picture} {shlex.join(names)} --model {place}",
        "From Python": (
            "from isthmus import Predictor\n\n"
            f"predictor = Predictor.from_pretrained({str(folder)!r})\n"
            f"predictor.caption({str(folder / 'pictures' / looked['picture'])!r})"
        ),
        "Train for longer": "isthmus quickstart --budget 40m --output " + place,
        "Train on your own pictures": "isthmus train recipes/own-folder.yaml data.train.folder=FOLDER",
    }


def overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """How much of two maps that each sum to 1 is the same: 1 for equal ones, 0 for such as share no patch."""
    return sum(min(pair) for pair in zip(one, other, strict=True))


def ordinal(number: int) -> str:
    """1 is 1st, 12 is 12th, 23 is 23rd."""
    if number % 100 in (11, 12, 13):
        return f"{number}th"
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th') }"


def duration(seconds: float) -> str:
    """Seconds as a person says them: 42 s, 7 min 5 s, 1 h 3 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _headline(report: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of the first set that stand on top."""
    name = report["shown"]["set"]
    found, said = report["retrieval"][name], report["language"][name]
    chance = partial(chance_of_finding, candidates=found["candidates"])
    return {
        "set": name,
        "candidates": found["candidates"],
        "first": found["text_to_image"]["R@1"],
        "five": found["text_to_image"]["R@5"],
        "chance_first": chance(1),
        "chance_five": chance(5),
        "exact": said["exact_match"],
        "loss": said["loss"],
        "seconds": sum(report["seconds"].values()),
    }


def _artist_of(picture: str) -> str:
    """The title of whoever drew a picture, by its folder."""
    folder = picture.partition("/")[0]
    return next((artist.title for artist in ARTISTS if artist.name == folder), folder)
