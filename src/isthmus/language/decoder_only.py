"""Decoder-only language models (Llama, OPT, Qwen, SmolLM ...) behind the contract of `llm`.

The sequence is [BOS] before [soft prompt] [BOS] after [caption] [end mark], labels on caption and end mark only
(BLIP-2, section 3.3 and figure 3, with text allowed before the soft prompt). What stands before the soft prompt
is frozen and the same in every row: its keys and values are computed once, and read by every step.
"""

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from transformers import Cache, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from isthmus.errors import TowerError
from isthmus.frozen import freeze
from isthmus.language.llm import FrozenLLM
from isthmus.language.prompts import Prompt
from isthmus.records import Text


@dataclass(frozen=True)
class Labels:
    """Where logits are needed, and what they are held against.

    `kept` is what `logits_to_keep` takes; `ids`, `rows` and `weights` hold one entry per logit, row after row.
    """

    kept: Tensor
    ids: Int[Tensor, " K"]
    rows: Int[Tensor, " K"]
    weights: Float[Tensor, " K"]


def place_labels(target: Text, first: int, *, compact: bool) -> Labels:
    """Find the columns whose logits predict the caption: label t is predicted from column `first` + t.

    `compact` keeps label positions only, by a mask; counting them waits for the device, so off the CPU all
    T columns are kept and padding weighs 0.
    """
    batch, length = target.ids.shape
    if compact:
        kept = torch.cat([target.mask.new_zeros(batch, first), target.mask], 1)
        rows = target.mask.nonzero()[:, 0]
        ids = target.ids[target.mask]
        return Labels(kept, ids, rows, torch.ones_like(ids, dtype=torch.float32))
    columns = torch.arange(first, first + length, device=target.ids.device)
    rows = torch.arange(batch, device=target.ids.device).repeat_interleave(length)
    return Labels(columns, target.ids.flatten(), rows, target.mask.flatten().float())


class DecoderOnlyLLM(FrozenLLM):
    """A frozen causal language model with its prompt.

    `model` is taken over: frozen, and its own generation defaults (sampling, temperature) dropped for greedy
    search. A caption keeps at most `max_tokens` tokens, and always its end mark. The model's dtype is the dtype
    it was loaded in, under autocast too; the loss is taken in fp32.
    """

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
        if not prompt.end and tokenizer.eos_token_id is None:
            raise TowerError(f"language model {address} has no end of sequence: give the prompt an end mark.")
        bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        first = prompt.bos == "first"
        self._before = (bos if first else []) + self._ids(prompt.before)
        self._after = ([] if first else bos) + self._ids(prompt.after)
        self._end = self._ids(prompt.end) if prompt.end else [tokenizer.eos_token_id]
        self._prefixes: dict[tuple[torch.device, torch.dtype], Cache] = {}
        self._keeps_logits = "logits_to_keep" in inspect.signature(self.model.forward).parameters
        self.width = self.embed(torch.zeros(1, 1, dtype=torch.long, device=self.model.device)).shape[-1]

    def tokenize(self, captions: Sequence[str]) -> Text:
        """Turn captions into labels (B T), padded on the right, on the CPU: prefix, caption, end mark."""
        rows = [self._ids(self.prompt.caption_prefix + caption)[: self.max_tokens] + self._end for caption in captions]
        length = max(map(len, rows), default=0)
        padding = self._padding()
        ids = torch.tensor([row + [padding] * (length - len(row)) for row in rows], dtype=torch.long)
        counts = torch.tensor([len(row) for row in rows], dtype=torch.long)
        return Text(ids.reshape(len(rows), length), torch.arange(length) < counts[:, None])

    def row_losses(
        self, soft_prompt: Float[Tensor, "B Q L"], target: Text
    ) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """Give each row's summed cross-entropy over caption and end mark, and its count of label tokens."""
        batch = soft_prompt.shape[0]
        with self.own_precision():
            head = torch.cat([soft_prompt.to(self.model.dtype), self._embed_all(self._after, batch)], 1)
            sequence = torch.cat([head, self.embed(target.ids[:, :-1])], 1)
            always = target.mask.new_ones(batch, len(self._before) + head.shape[1])
            mask = torch.cat([always, target.mask[:, :-1]], 1)
            labels = place_labels(target, head.shape[1] - 1, compact=soft_prompt.device.type == "cpu")
            logits = self._logits(sequence, mask.long(), labels.kept)
            losses = F.cross_entropy(logits.float(), labels.ids, reduction="none") * labels.weights
        sums = losses.new_zeros(batch).index_add(0, labels.rows, losses)
        return sums, target.mask.sum(1).float()

    @torch.no_grad()
    def generate(self, soft_prompt: Float[Tensor, "B Q L"], *, max_new_tokens: int) -> list[str]:
        """Write greedily until the end mark, the end of sequence or `max_new_tokens`."""
        batch = soft_prompt.shape[0]
        if not batch:
            return []
        parts = [self._embed_all(self._before, batch), soft_prompt.to(self.model.dtype)]
        sequence = torch.cat([*parts, self._embed_all(self._after, batch)], 1)
        mask = torch.ones(sequence.shape[:2], dtype=torch.long, device=sequence.device)
        single = len(self._end) == 1
        settings = GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=sorted({*self._stops, *(self._end if single else [])}) or None,
            pad_token_id=self._padding(),
        )
        stop = {} if single else {"stop_strings": [self.prompt.end], "tokenizer": self.tokenizer}
        with self.own_precision():
            rows = self.model.generate(inputs_embeds=sequence, attention_mask=mask, generation_config=settings, **stop)
        return [self._text(row) for row in rows.tolist()]

    def embed(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T L"]:
        """Embed tokens by the model's own embedding module (Gemma's scales, OPT-350m's is narrower)."""
        with torch.no_grad():
            embeddings: Tensor = self.model.get_input_embeddings()(ids)
            return embeddings

    def vocabulary(self) -> int:
        """How many rows the embedding has; a padded vocabulary may have more than the tokenizer."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids if text else []
        return ids

    def _padding(self) -> int:
        known = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0)
        return next(token for token in known if token is not None)

    def _embed_all(self, ids: list[int], batch: int) -> Float[Tensor, "B T L"]:
        tokens = torch.tensor([ids], dtype=torch.long, device=self.model.device)
        return self.embed(tokens).expand(batch, -1, -1)

    def _text(self, row: list[int]) -> str:
        stop = next((place for place, token in enumerate(row) if token in self._stops), len(row))
        text: str = self.tokenizer.decode(row[:stop], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return (text.split(self.prompt.end)[0] if self.prompt.end else text).strip()

    def _logits(
        self, sequence: Float[Tensor, "B S L"], mask: Int[Tensor, "B W"], kept: Tensor
    ) -> Float[Tensor, "K vocabulary"]:
        past = self._prefix(sequence.shape[0]) if self._before else None
        options: dict[str, Any] = {"logits_to_keep": kept} if self._keeps_logits else {}
        logits: Tensor = self.model(
            inputs_embeds=sequence,
            attention_mask=mask,
            past_key_values=past,
            use_cache=past is not None,
            **options,
        ).logits
        if not self._keeps_logits:
            logits = logits[kept] if kept.dtype == torch.bool else logits[:, kept]
        return logits.flatten(0, -2)

    def _prefix(self, batch: int) -> Cache:
        """A fresh cache of what stands before the soft prompt, one copy per row: the forward writes into it."""
        key = (self.model.device, self.model.dtype)
        if key not in self._prefixes:
            with torch.inference_mode(False), torch.no_grad():
                ids = torch.tensor([self._before], dtype=torch.long, device=self.model.device)
                self._prefixes[key] = self.model(input_ids=ids, use_cache=True).past_key_values
        cache = copy.deepcopy(self._prefixes[key])
        cache.batch_repeat_interleave(batch)
        return cache


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
