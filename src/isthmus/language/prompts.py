"""The words around a soft prompt: where they stand, and which mark ends a caption."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from isthmus.errors import ConfigError

BOS_PLACES = ("first", "after_soft_prompt")


@dataclass(frozen=True)
class Prompt:
    """What a language model reads: [BOS] before [soft prompt] [BOS] after [caption_prefix caption end].

    `before` is the same in every row, so its keys and values are computed once. `caption_prefix` is white space,
    as most vocabularies hold words with the space before them. `end` closes every caption, in training and in
    generation; "" takes the tokenizer's own end of sequence. `bos` says where the tokenizer's first token
    stands, if it has one: LAVIS tokenises the text alone, so for BLIP-2's models it comes after the soft prompt.
    """

    before: str = ""
    after: str = ""
    caption_prefix: str = " "
    end: str = "\n"
    bos: str = "first"

    def __post_init__(self) -> None:
        if self.caption_prefix.strip():
            raise ConfigError(
                f"caption_prefix {self.caption_prefix!r} is not white space: put words in `after`, where no loss is."
            )
        if self.bos not in BOS_PLACES:
            raise ConfigError(f"bos {self.bos!r} is not known: use one of {', '.join(BOS_PLACES)}.")

    def with_examples(self, examples: Sequence[str]) -> "Prompt":
        r"""Put example lines first: "A picture of:" becomes "A picture of: NAME\n" per example + "A picture of:".

        They show the model the task; without them the loss of a fresh projection starts at twice as much.
        """
        if examples and not self.end:
            raise ConfigError("example captions need an end mark to tell them apart: set the prompt's `end`.")
        lines = (f"{self.before}{self.caption_prefix}{example}{self.end}" for example in examples)
        return replace(self, before="".join([*lines, self.before]))

    def as_json(self) -> dict[str, Any]:
        """Every field, as JSON holds it."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Prompt":
        """Read what `as_json` gave; an unknown key is refused."""
        if unknown := sorted(set(record) - set(cls.__dataclass_fields__)):
            raise ConfigError(f"a prompt has no field {unknown[0]!r}.")
        return cls(**record)
