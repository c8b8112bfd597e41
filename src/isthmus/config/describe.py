"""What a configuration can say: every key with its meaning, from the one place where it is written down.

The schema, `isthmus config show`, and the suggestions for an unknown key all read the sections' own docstrings.
"""

import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo


@dataclass(frozen=True)
class Knob:
    """One key of a resolved configuration: its value, whether it was given or is the default, what it means."""

    key: str
    value: Any
    given: bool
    meaning: str

    def line(self, widths: tuple[int, int]) -> str:
        """The knob in columns of these widths: key, value as JSON, given or default, meaning."""
        source = "given" if self.given else "default"
        return f"{self.key:<{widths[0]}}  {_shown(self.value):<{widths[1]}}  {source:<7}  {self.meaning}"


def knobs(config: BaseModel, prefix: str = "") -> Iterator[Knob]:
    """Every key of a configuration, in the order of its sections; a section that is absent is one key."""
    for name, field in type(config).model_fields.items():
        key, value = prefix + _key(name, field), getattr(config, name)
        if isinstance(value, BaseModel):
            yield from knobs(value, f"{key}.")
        elif isinstance(value, tuple | list) and any(isinstance(item, BaseModel) for item in value):
            for number, item in enumerate(value):
                yield from knobs(item, f"{key}.{number}.")
        else:
            yield Knob(key, value, name in config.model_fields_set, meaning(field))


def table(config: BaseModel) -> str:
    """Every knob in a line of its own, in aligned columns."""
    found = list(knobs(config))
    widths = (max(len(knob.key) for knob in found), max(len(_shown(knob.value)) for knob in found))
    return "\n".join(knob.line((widths[0], min(widths[1], 40))) for knob in found)


def meaning(field: FieldInfo) -> str:
    """A field's docstring in one line."""
    return " ".join((field.description or "").split())


def known_keys(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key that a section knows, those of the sections in it included."""
    for name, field in section.model_fields.items():
        key = prefix + _key(name, field)
        yield key
        for inner in _sections(field.annotation):
            yield from known_keys(inner, f"{key}.")


def nearest(unknown: str, section: type[BaseModel]) -> str | None:
    """The known key that an unknown one was most likely meant to be; None where nothing is like it."""
    known = list(dict.fromkeys(known_keys(section)))
    last = unknown.rpartition(".")[2]
    misplaced = [key for key in known if key.rpartition(".")[2] == last]
    if misplaced:
        return difflib.get_close_matches(unknown, misplaced, n=1, cutoff=0.0)[0]
    return next(iter(difflib.get_close_matches(unknown, known, n=1, cutoff=0.75)), None)


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _sections(inner)


def _key(name: str, field: FieldInfo) -> str:
    return field.alias or name


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
