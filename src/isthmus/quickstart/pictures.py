"""The quickstart's pictures from nothing: fetch, read, draw, split."""

from collections.abc import Callable
from pathlib import Path

from isthmus.quickstart.artists import ARTISTS
from isthmus.quickstart.draw import SIZE, draw_pictures
from isthmus.quickstart.fetch import fetch_artist
from isthmus.quickstart.names import icon_svgs, thing_names
from isthmus.quickstart.split import load_split, write_metadata


def prepare_pictures(
    folder: Path,
    *,
    processes: int = 2,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, tuple[str, ...]]:
    """Make `folder/pictures` with its metadata files, and return the icons that each artist draws.

    Packages are kept in `folder/packages`. What is fetched or drawn already is left alone, so an interrupted
    call is finished by the next. `progress` is told ("fetch" or "draw", done, total).

    Raises:
        UserError: npm or resvg-py is missing, or a package cannot be fetched.
        DataError: a package is not what it should be.

    """
    tell = progress or (lambda _step, _done, _total: None)
    packages: dict[str, Path] = {}
    for artist in ARTISTS:
        packages[artist.name] = fetch_artist(artist, folder / "packages")
        tell("fetch", len(packages), len(ARTISTS))
    names = thing_names(packages[load_split().naming_artist])
    drawings: dict[Path, str] = {}
    table: dict[str, tuple[str, ...]] = {}
    for artist_name, package in packages.items():
        documents = icon_svgs(package, names, SIZE)
        table[artist_name] = tuple(documents)
        drawings |= {
            folder / "pictures" / artist_name / f"{icon}.png": document for icon, document in documents.items()
        }
    draw_pictures(drawings, processes=processes, progress=lambda done, total: tell("draw", done, total))
    write_metadata(table, folder / "pictures")
    return table
