"""Pictures that were encoded once, and what a bridge reads in them.

Cosines are taken in fp32 whatever the precision of the rest, as in training: bf16's steps are large over a small
temperature.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from isthmus.data.text import normalise
from isthmus.errors import ConfigError, DataError
from isthmus.models.bridge import Bridge
from isthmus.models.ranking import match_logits
from isthmus.qformer.memory import Memory
from isthmus.qformer.qformer import ImageEncoding
from isthmus.qformer.tokenizer import QFormerTokenizer
from isthmus.records import Text

Texts = str | Sequence[str]


@dataclass(frozen=True, eq=False)
class Encoded:
    """B encoded pictures, to be passed again wherever pictures can be: encode once, ask many.

    `single` says that one picture was given, not a list; `encoder` is the encoder's fingerprint and how it
    saw them: layer, size and squashing. What a bridge reads in the pictures (query states, keys and values) is kept
    after the first question, so far as all pictures are asked about at once: at most one batch. `len()` counts
    pictures; an index or a slice takes some.
    """

    patches: Float[Tensor, "B P V"]
    single: bool
    encoder: tuple[str | int | None, ...]
    _read: WeakKeyDictionary[Bridge, ImageEncoding] = field(default_factory=WeakKeyDictionary, repr=False)
    _memory: WeakKeyDictionary[Bridge, Memory] = field(default_factory=WeakKeyDictionary, repr=False)

    def __len__(self) -> int:
        return len(self.patches)

    def __getitem__(self, index: int | slice) -> "Encoded":
        if isinstance(index, slice):
            return Encoded(self.patches[index], False, self.encoder)
        return Encoded(self.patches[index][None], True, self.encoder)

    def split(self, size: int) -> Iterator["Encoded"]:
        """Give the pictures in pieces of at most `size`; this very object where they are no more than that."""
        if len(self) <= size:
            yield self
            return
        for first in range(0, len(self), size):
            yield self[first : first + size]

    def read_by(self, bridge: Bridge) -> ImageEncoding:
        """What a bridge reads in the pictures, computed at the first call."""
        known = self._read.get(bridge)
        if known is None:
            known = bridge.qformer.encode_image(self.patches.to(bridge.qformer.queries.device))
            self._read[bridge] = known
        return known

    def memory(self, bridge: Bridge) -> Memory:
        """What questions are answered from: the pictures' keys and values, computed at the first call."""
        read, known = self._read.get(bridge), self._memory.get(bridge)
        if read is not None:
            return read.memory
        if known is None:
            known = bridge.qformer.memory.project(self.patches.to(bridge.qformer.queries.device))
            self._memory[bridge] = known
        return known

    def embeddings(self, bridge: Bridge) -> Float[Tensor, "B Q E"]:
        """ITC's embeddings of the pictures, L2-normalised fp32."""
        states = self.read_by(bridge).states
        with torch.autocast(states.device.type, enabled=False):
            return bridge.image_embeddings(states.float())

    def pair_logits(self, bridge: Bridge, texts: Text, *, batch_size: int) -> Float[Tensor, "B J 2"]:
        """ITM's logits of every picture with each of J texts, fp32; `batch_size` pairs are looked at at once."""
        memory, device = self.read_by(bridge).memory, bridge.qformer.queries.device
        count = len(texts.ids)
        logits = []
        for pairs in torch.split(torch.arange(len(self) * count), batch_size):
            words = texts.select(pairs % count).trimmed().to(device)
            logits.append(match_logits(bridge, memory.select((pairs // count).to(device)), words).float())
        return torch.cat(logits).reshape(len(self), count, 2)

    @staticmethod
    def join(parts: "list[Encoded]", *, single: bool) -> "Encoded":
        """Put pieces together; one piece stays the object that it is."""
        if len(parts) == 1 and parts[0].single == single:
            return parts[0]
        return Encoded(torch.cat([part.patches for part in parts]), single, parts[0].encoder)


@dataclass(frozen=True)
class Matches:
    """Scores of I pictures (rows) with J texts (columns), fp32 on the host.

    `itc` is the cosine of ITC, `itm` the probability of a match by ITM (None where it was left out), `score` what to
    rank by: both together on one scale (`models.ranking`), or ITC's part alone.
    """

    itc: Float[Tensor, "I J"]
    itm: Float[Tensor, "I J"] | None
    score: Float[Tensor, "I J"]


def check_batch_size(size: int) -> None:
    """Raise `ConfigError` for a batch of nothing, and for what is no whole number."""
    if not isinstance(size, Integral) or size < 1:
        raise ConfigError(f"batch_size is {size!r}; give a whole number, 1 or more")


def read_texts(texts: Texts, tokenizer: QFormerTokenizer) -> tuple[Text, int]:
    """Texts in their normal form as tokens, and how many were cut; raises `DataError` for what is empty or no text."""
    normal = [normalise(text) for text in _listed(texts)]
    if not normal:
        raise DataError("there is no text in what was given; give at least one")
    if "" in normal:
        raise DataError(f"text {normal.index('')} is empty; give at least one word")
    whole = tokenizer.inner(normal, verbose=False)["input_ids"]
    return tokenizer(normal), sum(len(row) > tokenizer.max_tokens for row in whole)


def _listed(texts: Any) -> list[str]:
    if isinstance(texts, Mapping | bytes) or not isinstance(texts, Iterable):
        raise DataError(f"{type(texts).__name__} is no text; give one as a string, or a list of strings")
    listed = [texts] if isinstance(texts, str) else list(texts)
    for number, text in enumerate(listed):
        if not isinstance(text, str):
            raise DataError(f"text {number} is {type(text).__name__} and no text; give strings")
    return listed


def text_embeddings(bridge: Bridge, texts: Text, *, batch_size: int) -> Float[Tensor, "J E"]:
    """ITC's embeddings of J texts, L2-normalised fp32, on the bridge's device."""
    check_batch_size(batch_size)
    device, embeddings = bridge.qformer.queries.device, []
    for rows in torch.split(torch.arange(len(texts.ids)), batch_size):
        states = bridge.qformer.encode_text(texts.select(rows).trimmed().to(device))
        with torch.autocast(device.type, enabled=False):
            embeddings.append(bridge.text_embeddings(states.float()))
    return torch.cat(embeddings)
