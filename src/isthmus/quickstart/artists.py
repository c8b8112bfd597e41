"""The nine icon sets of the quickstart: who drew them, under which licence, in which package.

Emoji sets are drawings of the same named things by different design teams, under open licences. They are
fetched and drawn on the user's machine, credited in the report, and never part of this repository.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Artist:
    """One icon set; `name` is its folder under `pictures/`, `licence` an SPDX identifier."""

    name: str
    title: str
    author: str
    licence: str
    version: str

    @property
    def package(self) -> str:
        """The npm package, scope included."""
        return f"@iconify-json/{self.name}"

    @property
    def credit(self) -> str:
        """What the licence asks to be said wherever a drawing is shown."""
        return f"{self.title} by {self.author} ({self.licence})"


ARTISTS = (
    Artist("noto", "Noto Emoji", "Google Inc", "Apache-2.0", "1.2.9"),
    Artist("noto-v1", "Noto Emoji (v1)", "Google Inc", "Apache-2.0", "1.2.5"),
    Artist("twemoji", "Twitter Emoji", "Twitter", "CC-BY-4.0", "1.2.5"),
    Artist("fluent-emoji", "Fluent Emoji", "Microsoft Corporation", "MIT", "1.2.7"),
    Artist("fluent-emoji-flat", "Fluent Emoji Flat", "Microsoft Corporation", "MIT", "1.2.6"),
    Artist("openmoji", "OpenMoji", "OpenMoji", "CC-BY-SA-4.0", "1.2.29"),
    Artist("emojione", "Emoji One (Colored)", "Emoji One", "CC-BY-4.0", "1.2.3"),
    Artist("emojione-v1", "Emoji One (v1)", "Emoji One", "CC-BY-SA-4.0", "1.2.3"),
    Artist("fxemoji", "Firefox OS Emoji", "Mozilla", "Apache-2.0", "1.2.2"),
)


def artist_named(name: str) -> Artist:
    """Find an artist by its short name.

    Raises:
        KeyError: no artist has that name.

    """
    return {artist.name: artist for artist in ARTISTS}[name]
