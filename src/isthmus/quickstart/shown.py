"""What the report shows of a held-out set: rows of retrieval, captions, and where the queries look."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from isthmus.build.load import LoadedRun
from isthmus.quickstart.choices import captions_shown, drawings_asked, keyed_order, names_asked
from isthmus.quickstart.looks import queries_look
from isthmus.tasks.caption import Caption

_STRIPS, _CAPTIONS, _LOOKS = 8, 6, 4


def found_and_looked(loaded: LoadedRun) -> dict[str, Any]:
    """Names and drawings with what a stage-1 bridge finds for them, and where its queries look."""
    bridge, evaluation = loaded.stage.bridge, loaded.evaluation
    pictures = _pictures(loaded)
    rows = {row: pictures[row] for row in keyed_order(len(pictures), "where the queries look")[:_LOOKS]}
    patches = torch.stack([evaluation.look(evaluation.source[row], row, 0) for row in rows])
    with evaluation.compute.autocast():
        embedded = evaluation.embed(bridge)
        looks = queries_look(bridge, patches.to(evaluation.compute.device), embedded, rows)
    return {
        "names": [asdict(strip) for strip in names_asked(embedded, pictures, count=_STRIPS)],
        "drawings": [asdict(strip) for strip in drawings_asked(embedded, pictures, count=_STRIPS)],
        "looks": [asdict(look) for look in looks],
    }


def captions_of(loaded: LoadedRun, figures: Mapping[str, Any]) -> dict[str, Any]:
    """How many captions are right, near and wrong, and some of each; `figures` are those of this set."""
    source = loaded.evaluation.source
    examples = [source[index] for index in range(len(source))]
    captions = [
        Caption(said, example.captions, example.image_id)
        for (said, _), example in zip(figures["captions"], examples, strict=True)
    ]
    counts, shown = captions_shown(captions, _pictures(loaded), count=_CAPTIONS)
    return {"counts": counts, "shown": {grade: [asdict(said) for said in rows] for grade, rows in shown.items()}}


def _pictures(loaded: LoadedRun) -> list[str]:
    """Each row's picture, relative to the folder of its set."""
    held_out, source = loaded.config.data.evaluation, loaded.evaluation.source
    assert held_out is not None and held_out.folder is not None
    folder = Path(held_out.folder).expanduser()
    return [Path(str(source[index].image)).relative_to(folder).as_posix() for index in range(len(source))]
