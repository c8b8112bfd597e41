"""`isthmus embed`: pictures and texts → vectors in the shared space of ITC, in one safetensors file."""

from collections.abc import Sequence
from pathlib import Path

import typer

from isthmus.build.folders import EMBED
from isthmus.cli.inputs import Loading, broken_json, enough_memory, print_json, tell_broken
from isthmus.data.broken import Bad
from isthmus.data.place import kind_at, text_lines
from isthmus.data.text import normalise
from isthmus.errors import ConfigError, DataError
from isthmus.predictor import Predictor
from isthmus.tasks.embeddings import EmbeddingFile
from isthmus.tasks.folder import Found, find_pictures, in_batches
from isthmus.train.tracking import StoreProgress


def run_embed(
    images: Sequence[Path], texts: Path | None, loading: Loading, output: EmbeddingFile, *, batch_size: int
) -> tuple[dict[str, tuple[int, ...]], list[Bad]]:
    """Embed pictures and the lines of a file; the shapes of what was written, and who could not be read.

    Where no picture could be, nothing is written, texts neither.
    """
    loading.check()
    if not images and texts is None:
        raise ConfigError("nothing is given to embed; name pictures or folders, or --texts FILE")
    found = find_pictures(images) if images else Found(())
    lines = [] if texts is None else _lines(texts)
    predictor = loading.predictor(EMBED)
    with output, enough_memory("a smaller --batch-size", "--device cpu"):
        broken = _embed_pictures(predictor, found, output, batch_size)
        if broken and len(broken) == len(found.pictures):
            return {}, broken
        for first in range(0, len(lines), batch_size):
            part = lines[first : first + batch_size]
            output.add("texts", part, predictor.embed(texts=part, batch_size=batch_size))
        shapes = output.finish({"models": ", ".join(map(str, loading.models or ()))})
    return shapes, broken


def tell_embedded(output: Path, shapes: dict[str, tuple[int, ...]], broken: Sequence[Bad], *, as_json: bool) -> int:
    """Say what was written; the exit code."""
    if as_json:
        print_json({"output": str(output), "shapes": shapes, "broken": broken_json(broken)})
    else:
        for kind, shape in shapes.items():
            typer.echo(f"{kind}  {' x '.join(map(str, shape))}  {output}")
    return tell_broken(broken, all_broken=not shapes)


def _embed_pictures(predictor: Predictor, found: Found, output: EmbeddingFile, batch_size: int) -> list[Bad]:
    broken: list[Bad] = []
    if not found.pictures:
        return broken
    done, total = 0, len(found.pictures)
    with StoreProgress("embeddings") as progress:
        for batch, opened in in_batches(found.pictures, predictor.prepare, batch_size=batch_size, broken=broken):
            rows = predictor.embed(images=opened, batch_size=batch_size)
            output.add("images", [picture.name for picture in batch], rows)
            done += len(batch)
            progress(done + len(broken), total)
    return broken


def _lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty, normalised; raises DataError where there is none, or no text."""
    if kind_at(path) is None:
        raise DataError(f"{path}: there is no such file; give a file with a text a line")
    lines = [normalise(line) for line in text_lines(path)]
    if not any(lines):
        raise DataError(f"{path} holds no text; write one a line")
    return [line for line in lines if line]
