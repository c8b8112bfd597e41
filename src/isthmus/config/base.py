"""What every part of a configuration has in common."""

from pydantic import BaseModel, ConfigDict


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
