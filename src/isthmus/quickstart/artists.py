"""The nine icon sets of the quickstart: who drew them, under which licence, in which package.

Emoji sets are drawings of the same named things by different design teams, under open licences. They are
fetched and drawn on the user's machine, credited in the report, and never part of this repository.
"""

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Artist:
    """One icon set; `name` is its folder under `pictures/`, `licence` an SPDX identifier.

    `source` is where the artist publishes the drawings, as the package states it.
    """

    name: str
    title: str
    author: str
    licence: str
    version: str
    source: str

    @property
    def package(self) -> str:
        """The npm package, scope included."""
        return f"@iconify-json/{self.name}"

    @property
    def credit(self) -> str:
        """What the licence asks to be said wherever a drawing is shown."""
        return f"{self.title} by {self.author} ({self.licence})"


_CODE = "https://github.com"

ARTISTS = (
    Artist("noto", "Noto Emoji", "Google Inc", "Apache-2.0", "1.2.9", f"{_CODE}/googlefonts/noto-emoji"),
    Artist("noto-v1", "Noto Emoji (v1)", "Google Inc", "Apache-2.0", "1.2.5", f"{_CODE}/googlefonts/noto-emoji"),
    Artist("twemoji", "Twitter Emoji", "Twitter", "CC-BY-4.0", "1.2.5", f"{_CODE}/jdecked/twemoji"),
    Artist(
        "fluent-emoji", "Fluent Emoji", "Microsoft Corporation", "MIT", "1.2.7", f"{_CODE}/microsoft/fluentui-emoji"
    ),
    Artist(
        "fluent-emoji-flat",
        "Fluent Emoji Flat",
        "Microsoft Corporation",
        "MIT",
        "1.2.6",
        f"{_CODE}/microsoft/fluentui-emoji",
    ),
    Artist("openmoji", "OpenMoji", "OpenMoji", "CC-BY-SA-4.0", "1.2.29", f"{_CODE}/hfg-gmuend/openmoji"),
    Artist("emojione", "Emoji One (Colored)", "Emoji One", "CC-BY-4.0", "1.2.3", f"{_CODE}/EmojiTwo/emojitwo"),
    Artist("emojione-v1", "Emoji One (v1)", "Emoji One", "CC-BY-SA-4.0", "1.2.3", f"{_CODE}/joypixels/emojione-legacy"),
    Artist("fxemoji", "Firefox OS Emoji", "Mozilla", "Apache-2.0", "1.2.2", f"{_CODE}/mozilla/fxemoji"),
)


def credits_line(names: Collection[str] | None = None) -> str:
    """Credit the named artists (all of them by default), and say what was done to their drawings."""
    credited = [artist.credit for artist in ARTISTS if names is None or artist.name in names]
    return "Drawings: " + "; ".join(credited) + ". Rasterised on white, otherwise unchanged."
