"""What every language model of transformers has in common: its tokenizer, its embeddings and where it stops."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from isthmus.errors import ConfigError
from isthmus.frozen import freeze
from isthmus.language.llm import FrozenLLM, Target
from isthmus.language.prompts import Prompt
from isthmus.language.recomputing import recompute_layers
from isthmus.language.sharing import share_layers
from isthmus.records import Text


class TransformersLLM(FrozenLLM):
    """A frozen language model with its tokenizer and its prompt.

    `model` is taken over: frozen, and its own generation defaults (sampling, temperature) dropped. A caption keeps at
    most `max_tokens` tokens, and always its end mark. The model's dtype is the dtype it was loaded in, under autocast
    too; the loss is taken in fp32 at least. A subclass sets `_end`, the tokens that close a caption. `recomputes` says
    that its layers' inner activations are computed again in the backward, and not kept for it.
    """

    recomputes: bool = False

    _end: list[int]

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompt: Prompt,
        *,
        address: str,
        max_tokens: int = 32,
    ) -> None:
        super().__init__()
        self.model: Any = freeze(model)
        self.tokenizer: Any = tokenizer
        self.prompt = prompt
        self.address = address
        self.max_tokens = max_tokens
        self._stops = _stop_ids(self.model, self.tokenizer)
        self.model.generation_config = GenerationConfig()
        self.width = self.embed(torch.zeros(1, 1, dtype=torch.long, device=self.model.device)).shape[-1]

    def tokenize(
        self, captions: Sequence[str], draws: Sequence[float] | None = None, *, prompts: Sequence[str] | None = None
    ) -> Target:
        """Turn captions into labels (B T), padded on the right, on the CPU: prefix, caption, end mark."""
        text = self._padded(self._label_rows(captions))
        return Target(text.ids, text.mask)

    def embed(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T L"]:
        """Embed tokens by the model's own embedding module (Gemma's scales, OPT-350m's is narrower)."""
        with torch.no_grad():
            embeddings: Tensor = self.model.get_input_embeddings()(ids)
            return embeddings

    def recompute(self) -> None:
        """Keep only what goes from layer to layer for the backward; raises `ConfigError` where layers are not known."""
        if not recompute_layers(self.model):
            raise ConfigError(
                f"transformers marks no layers of {self.address} that could be recomputed: leave out llm.checkpointing."
            )
        self.recomputes = True

    def share(self, device: torch.device) -> None:
        """Leave this rank its share of every layer, and the rest whole, on a device (`sharing.py`).

        Every rank calls it, and `gather_once` when all have. Raises `ConfigError` where layers are not known.
        """
        if not share_layers(self.model, device):
            raise ConfigError(
                f"transformers marks no layers of {self.address} that could be shared out: leave out llm.sharded."
            )
        self.to(device)

    def gather_once(self) -> None:
        """Read one token, on every rank: torch makes the tensors that layers are gathered into at the first reading.

        Were that an evaluation's, in inference mode, no training step could keep them for its backward.
        """
        ids = torch.zeros(1, 1, dtype=torch.long, device=self.model.device)
        further = {"decoder_input_ids": ids} if self.model.config.is_encoder_decoder else {}
        with torch.no_grad():
            self.model(input_ids=ids, **further)

    def vocabulary(self) -> int:
        """How many rows the embedding has; a padded vocabulary may have more than the tokenizer."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    def generation_marks(self) -> dict[str, Any]:
        """What starts, pads and ends a text, in the words of transformers' `GenerationConfig`.

        An end mark of several tokens is no single one of them, and is left out.
        """
        return {
            "bos_token_id": next(iter(self._bos()), None),
            "pad_token_id": self._padding(),
            "eos_token_id": sorted({*self._stops, *(self._end if len(self._end) == 1 else [])}),
            "decoder_start_token_id": getattr(self.model.config, "decoder_start_token_id", None),
        }

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Write in the model's own precision and without its dropout, in the midst of training too."""
        training = self.model.training
        self.model.eval()
        try:
            with self.own_precision():
                yield
        finally:
            self.model.train(training)

    def _label_rows(self, captions: Sequence[str]) -> list[list[int]]:
        return [self._caption_ids(caption) + self._end for caption in captions]

    def _caption_ids(self, caption: str) -> list[int]:
        return self._ids(f"{self.prompt.caption_prefix}{caption}")[: self.max_tokens]

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids if text else []
        return ids

    def _bos(self) -> list[int]:
        """The prompt's BOS or else the tokenizer's, if there is one.

        Raises `ConfigError` for a token that the vocabulary lacks.
        """
        named = self.prompt.bos_token
        if named is None:
            return [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]
        vocabulary = self.tokenizer.get_vocab()
        if named not in vocabulary:
            raise ConfigError(
                f"the vocabulary of {self.address} has no token {named!r}, which the prompt's `bos_token` names: give "
                "one that it has, or leave it out."
            )
        return [vocabulary[named]]

    def _padding(self) -> int:
        known = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0)
        return next(token for token in known if token is not None)

    def _padded(self, rows: list[list[int]]) -> Text:
        length = max(map(len, rows), default=0)
        padding = self._padding()
        ids = torch.tensor([row + [padding] * (length - len(row)) for row in rows], dtype=torch.long)
        counts = torch.tensor([len(row) for row in rows], dtype=torch.long)
        return Text(ids.reshape(len(rows), length), torch.arange(length) < counts[:, None])

    def _embed_ids(self, ids: list[int]) -> Float[Tensor, "T L"]:
        return self.embed(torch.tensor([ids], dtype=torch.long, device=self.model.device))[0]

    def _afters(self, prompts: Sequence[str] | None, batch: int) -> list[str]:
        """The text after each row's soft prompt."""
        if prompts is None and self.prompt.asks:
            raise ConfigError("this prompt asks a question, and none is given: give one for each picture.")
        if prompts is None:
            return [self.prompt.after] * batch
        if len(prompts) != batch:
            raise ConfigError(f"there are {len(prompts)} prompts for {batch} pictures: give one for each.")
        return list(prompts)

    def _check_length(self, tokens: int) -> None:
        """Refuse what a model has no positions for; one without a limit says none."""
        limit = getattr(self.model.config, "max_position_embeddings", None)
        if limit is not None and tokens > limit:
            raise ConfigError(
                f"prompt, soft prompt and text come to {tokens} tokens, but {self.address} has {limit} positions: "
                "shorten the prompt or write fewer tokens."
            )

    def _text(self, row: list[int], end: str) -> str:
        """The text of written tokens, up to the first stop and the end mark."""
        stop = next((place for place, token in enumerate(row) if token in self._stops), len(row))
        text: str = self.tokenizer.decode(row[:stop], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return (text.split(end)[0] if end else text).strip()


def _stop_ids(model: Any, tokenizer: Any) -> set[int]:
    """Every token that ends a sequence, as tokenizer, configuration and generation defaults know them."""
    known = (
        tokenizer.eos_token_id,
        getattr(model.config, "eos_token_id", None),
        getattr(model.generation_config, "eos_token_id", None),
    )
    stops: set[int] = set()
    for entry in known:
        stops.update(entry if isinstance(entry, list) else [] if entry is None else [entry])
    return stops
