"""The options that several commands share, as typer reads them; no torch here."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer


def examples(*lines: str) -> str:
    """What stands below a command's options: lines to type in, as they are (typer's mark for that comes first)."""
    return "\b\n" + "\n".join(["Examples:", *(f"  {line}" for line in lines)])


Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY.SUB=VALUE]...", help="Values that replace the file's.")
]
Config = Annotated[Path, typer.Argument(help="A YAML file; see recipes/.")]
Stage = Annotated[int | None, typer.Option(help="Only this stage of a file that holds both.", min=1, max=2)]

_IMAGES = typer.Argument(metavar="IMAGE_OR_FOLDER", help="Pictures, and folders with all pictures below them.")
Images = Annotated[list[Path], _IMAGES]
AnyImages = Annotated[list[Path] | None, _IMAGES]
Models = Annotated[
    list[Path] | None,
    typer.Option("--model", help="The folder of a training run; give it twice for one of each stage."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Precision = Annotated[str, typer.Option("--dtype", help="auto, float32 or bfloat16.")]
Encoder = Annotated[str | None, typer.Option(help="New address of an image encoder that moved, e.g. folder:PATH.")]
Llm = Annotated[str | None, typer.Option("--llm", help="New address of a language model that moved.")]
BatchSize = Annotated[int, typer.Option(help="Pictures that are encoded at once.", min=1)]
Json = Annotated[bool, typer.Option("--json", help="Write JSON, and nothing else, to stdout.")]
Target = Annotated[
    Literal["transformers", "qformer"] | None,
    typer.Option("--to", help="From isthmus's own folder: the whole model in transformers' layout, or its Q-Former."),
]
NumBeams = Annotated[int, typer.Option(help="Beams to search; 1 is greedy.", min=1)]
Estimate = Annotated[bool, typer.Option("--estimate", help="Say what memory a step will take, and train nothing.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]

Existing = Annotated[
    Literal["skip", "overwrite", "append"],
    typer.Option(help="What to do with a picture that has a caption: skip it, replace it or add a new one."),
]
Writer = Annotated[
    Literal["llm", "qformer"] | None,
    typer.Option("--by", help="Who writes; without it, the language model where there is one."),
]
RankingRule = Annotated[
    Literal["log_odds", "original"] | None,
    typer.Option(
        "--ranking", help="Stage 1: re-rank by this rule, and keep it: ITM's log-odds, or the original's sum."
    ),
]


class MetricName(StrEnum):
    """What captions can be scored by beside exact matches; typer takes a list of choices from an enumeration only."""

    coco = "coco"
    bleu = "bleu"
    cider = "cider"
    meteor = "meteor"


Metrics = Annotated[
    list[MetricName] | None,
    typer.Option(help="Score captions by these too; coco is all three. Needs the extra eval."),
]
