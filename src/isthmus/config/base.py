"""What every part of a configuration has in common."""

from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

_LONGEST_NAME = 255
"""Bytes that a name in a path may have, on all common file systems."""


def _check_path(path: str) -> str:
    """Refuse what no file system can hold, before anything looks for it there."""
    if "\0" in path:
        raise ValueError("the path holds a NUL character; leave it out")
    long = [name for name in path.split("/") if len(name.encode(errors="surrogatepass")) > _LONGEST_NAME]
    if long:
        raise ValueError(f"the name {long[0][:20]}... in the path has more than {_LONGEST_NAME} bytes; shorten it")
    return path


PathText = Annotated[str, AfterValidator(_check_path)]
"""A path as it is written in a configuration."""


class Section(BaseModel):
    """A part of the configuration: unknown keys are refused, values are not coerced, nothing changes later.

    A key that is a word of Python has another name here; written out, it is the key again.
    """

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        use_attribute_docstrings=True,
        serialize_by_alias=True,
    )

    def refuse(self, keys: Iterable[str], why: str) -> None:
        """Raise `ValueError` for the first of these keys that was changed, since it would do nothing.

        At its default a key says nothing: a configuration that was written out in full has all of them.
        """
        for key in keys:
            if getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"`{key}` {why}; leave it out")
