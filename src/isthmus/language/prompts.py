"""The words around a soft prompt: where they stand, and which mark ends a caption."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from isthmus.errors import ConfigError

BOS_PLACES = ("first", "after_soft_prompt")
CAPTION_PREFIX, END = " ", "\n"
QUESTION = "{question}"
"""What stands in `after` in the place of the question, where pictures are asked about."""


@dataclass(frozen=True)
class Prompt:
    """What a language model reads: [BOS] before [soft prompt] [BOS] after [caption_prefix caption end].

    `before` is the same in every row, so its keys and values are computed once. `caption_prefix` is white space,
    as most vocabularies hold words with the space before them. `end` closes every caption, in training and in
    generation; "" takes the tokenizer's own end of sequence. Where the two are None, the kind of language model
    decides: a space and a line break for a decoder-only model, nothing for an encoder-decoder or a chat. `bos` says
    where the tokenizer's first token stands, if it has one: LAVIS tokenises the text alone, so for BLIP-2's models
    it comes after the soft prompt. `bos_token` is the text of the token that stands there, where it is not the
    tokenizer's own. Where `after` holds `{question}`, pictures are asked about, and each row has its own.

    With `chat`, everything up to `after` is a user's turn and the caption is the assistant's; `turns` holds what the
    tokenizer's chat template puts before the user's words, between the two and after the caption, and is filled in
    once, when a language model takes the prompt.
    """

    before: str = ""
    after: str = ""
    caption_prefix: str | None = None
    end: str | None = None
    bos: str = "first"
    chat: bool = False
    turns: tuple[str, str, str] | None = None
    bos_token: str | None = None

    def __post_init__(self) -> None:
        if self.caption_prefix and self.caption_prefix.strip():
            raise ConfigError(
                f"caption_prefix {self.caption_prefix!r} is not white space: put words in `after`, where no loss is."
            )
        if QUESTION in self.before:
            raise ConfigError(
                f"{QUESTION} stands in the prompt's `before`, which is the same in every row: put it into `after`."
            )
        if self.bos not in BOS_PLACES:
            raise ConfigError(f"bos {self.bos!r} is not known: use one of {', '.join(BOS_PLACES)}.")
        given = {
            "caption_prefix": self.caption_prefix,
            "end": self.end,
            "bos": self.bos != "first",
            "bos_token": self.bos_token is not None,
        }
        if self.chat and (own := [name for name, is_given in given.items() if is_given]):
            raise ConfigError(f"the prompt's `{own[0]}` is the chat template's own affair: leave it out beside `chat`.")

    @property
    def asks(self) -> bool:
        """Whether it needs a question for every row."""
        return QUESTION in self.after

    def asking(self, question: str) -> str:
        """The text after the soft prompt with a question in its place."""
        return self.after.replace(QUESTION, question)

    def with_examples(self, examples: Sequence[str], questions: Sequence[str] = ()) -> "Prompt":
        r"""Put example lines first: "A picture of:" becomes "A picture of: NAME\n" per example + "A picture of:".

        They show the model the task; without them the loss of a fresh projection starts at twice as much. Where they
        answer `questions`, one for each, a line is `before`, `after` with the question, and the answer.
        """
        prefix = CAPTION_PREFIX if self.caption_prefix is None else self.caption_prefix
        mark = END if self.end is None else self.end
        if examples and not mark:
            raise ConfigError("example captions need an end mark to tell them apart: set the prompt's `end`.")
        asked = map(self.asking, questions) if questions else [""] * len(examples)
        lines = (f"{self.before}{after}{prefix}{text}{mark}" for after, text in zip(asked, examples, strict=True))
        return replace(self, before="".join([*lines, self.before]))

    def resolved(self, *, caption_prefix: str, end: str) -> "Prompt":
        """Fill in what was left to the kind of language model."""
        prefix = caption_prefix if self.caption_prefix is None else self.caption_prefix
        return replace(self, caption_prefix=prefix, end=end if self.end is None else self.end)

    def as_json(self) -> dict[str, Any]:
        """Every field, as JSON holds it."""
        return {**asdict(self), "turns": None if self.turns is None else list(self.turns)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Prompt":
        """Read what `as_json` gave; an unknown key is refused."""
        if unknown := sorted(set(record) - set(cls.__dataclass_fields__)):
            raise ConfigError(f"a prompt has no field {unknown[0]!r}.")
        turns = record.get("turns")
        return cls(**{**record, "turns": None if turns is None else tuple(turns)})
