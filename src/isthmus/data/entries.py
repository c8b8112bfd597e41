"""What one entry of a metadata file or a table may hold: a file name, an id, captions, questions."""

import os
import posixpath
from typing import Any
from unicodedata import category

from isthmus.data.text import normalise
from isthmus.errors import DataError

QUESTION = "question"
"""What the key or the column of questions is called, unless a config says otherwise."""

_INVISIBLE = ("Zs", "Cf", "Cc")
"""Spaces, marks such as the zero-width space, controls: what no tokenizer makes a word of."""


def kind_of(value: object) -> str:
    """Name a value's kind as JSON calls it, for messages; what no JSON can hold by its type."""
    names = {str: "a string", bool: "a boolean", list: "a list", dict: "an object", type(None): "null"}
    names |= {int: "a number", float: "a number"}
    return names.get(type(value), f"of the type {type(value).__name__}")


def required(entry: dict[str, Any], key: str, where: str) -> Any:
    """Take a key's value; raises DataError where the key is missing."""
    if key not in entry:
        raise DataError(f'{where}: the key "{key}" is missing; add it.')
    return entry[key]


def read_name(given: object, where: str, key: str = "file_name") -> str:
    """Check a picture's path within its folder and give it in its normal form."""
    if not isinstance(given, str):
        raise DataError(f'{where}: "{key}" is {kind_of(given)}; give the path as a string.')
    if not is_path(given):
        raise DataError(f'{where}: "{key}" is empty or no path; give the path within the folder.')
    name = posixpath.normpath(given)
    if posixpath.isabs(name) or name.split("/")[0] == "..":
        raise DataError(f'{where}: "{key}" {given!r} leaves the folder; give a path within the folder.')
    return name


def is_path(given: str) -> bool:
    """False for what no file can be called: nothing, NUL characters, half a surrogate pair."""
    try:
        os.fsencode(given)
    except UnicodeEncodeError:
        return False
    return bool(given.strip()) and "\0" not in given


def read_id(given: object, where: str, key: str = "image_id") -> str:
    """Check what names the thing pictured, and give it as a string."""
    if isinstance(given, bool) or not isinstance(given, str | int):
        raise DataError(f'{where}: "{key}" is {kind_of(given)}; give a string or an integer.')
    if isinstance(given, str) and not given.strip():
        raise DataError(f'{where}: "{key}" is empty; give a name or leave the key out.')
    return str(given)


def read_captions(given: object, where: str, key: str = "text") -> tuple[str, ...]:
    """Check one caption or a list of them, and give them normalised."""
    return _texts(given, where, key, "caption")


def read_questions(given: object, where: str, answers: int, key: str = QUESTION) -> tuple[str, ...]:
    """Check the questions that so many texts answer, and give each text its own, normalised.

    A list has one for each text; a string is the question of all of them.
    """
    questions = _texts(given, where, key, "question")
    if isinstance(given, str):
        return questions * answers
    if len(questions) != answers:
        raise DataError(
            f'{where}: there are {len(questions)} questions under "{key}" for {answers} texts; give each text the '
            "question that it answers."
        )
    return questions


def _texts(given: object, where: str, key: str, what: str) -> tuple[str, ...]:
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list):
        raise DataError(f'{where}: "{key}" is {kind_of(given)}; give a string or a list of strings.')
    if not texts:
        raise DataError(f'{where}: "{key}" is an empty list; give at least one {what}.')
    return tuple(_text(text, where, key, what) for text in texts)


def _text(given: object, where: str, key: str, what: str) -> str:
    if not isinstance(given, str):
        raise DataError(f'{where}: a {what} under "{key}" is {kind_of(given)}; give strings only.')
    text = normalise(given)
    if all(category(letter) in _INVISIBLE for letter in text):
        raise DataError(f"{where}: a {what} is empty or only white space; write it or remove it.")
    if "\0" in text:  # bytes of UTF-16 that were read as UTF-8
        raise DataError(f"{where}: a {what} holds a NUL character; remove it, or save the file as UTF-8.")
    if not text.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise DataError(f"{where}: a {what} holds half a surrogate pair; write the character whole.")
    return text
