"""Which things are pictured, and their SVG: reads the JSON files of fetched icon sets."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from isthmus.errors import DataError

CATEGORIES = (
    "Activities",
    "Animals & Nature",
    "Food & Drink",
    "Objects",
    "Smileys & Emotion",
    "Travel & Places",
)
_DROPPED = ("-oclock", "-thirty")
"""Twenty-four clock faces: one thing under twenty-four names. Skin tones are all in a dropped category."""


def thing_names(folder: Path) -> tuple[str, ...]:
    """Read the sorted icon names of the things that are kept, from the set that names them (noto).

    Raises:
        DataError: a category is missing.

    Source: `metadata.json` of the icon set, the categories of Unicode's emoji list.

    """
    categories = read_json(folder / "metadata.json").get("categories", {})
    missing = [category for category in CATEGORIES if category not in categories]
    if missing:
        raise DataError(
            f"{folder / 'metadata.json'} lacks the category {missing[0]}: remove the folder and fetch it again."
        )
    names = {name for category in CATEGORIES for name in categories[category]}
    return tuple(sorted(name for name in names if not name.endswith(_DROPPED)))


def caption(icon: str) -> str:
    """Say an icon's name in words: `snow-capped-mountain` is "snow capped mountain"."""
    return icon.replace("-", " ")


def icon_svgs(folder: Path, names: Iterable[str], size: int) -> dict[str, str]:
    """Read those of the named icons that a set draws, each a whole SVG document of `size` pixels square.

    An alias is not followed: a set's old name for another drawing is not evidence that it draws the thing.

    Raises:
        DataError: `icons.json` is not a set of icons.

    Source: the IconifyJSON format: `left`, `top` (0), `width`, `height` (16) of the set, overridden by icon.

    """
    icons = read_json(folder / "icons.json")
    if "icons" not in icons:
        raise DataError(f"{folder / 'icons.json'} holds no icons: remove the folder and fetch it again.")
    drawn = icons["icons"]
    return {name: _document(drawn[name], icons, size) for name in names if name in drawn}


def _document(icon: dict[str, Any], defaults: dict[str, Any], size: int) -> str:
    """Wrap an icon's body; a box that is not square is centred in the square."""
    box = [
        icon.get(key, defaults.get(key, value))
        for key, value in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
    ]
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{size}" height="{size}" viewBox="{" ".join(map(str, box))}">{icon["body"]}</svg>'
    )


def read_json(path: Path) -> dict[str, Any]:
    """Read one JSON object of a package.

    Raises:
        DataError: the file cannot be read, or holds something else.

    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}): remove its folder and fetch it again.") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is not a JSON object: remove its folder and fetch it again.")
    return content
