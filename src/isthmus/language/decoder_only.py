"""Decoder-only language models (Llama, OPT, Qwen, SmolLM ...) behind the contract of `llm`.

The sequence is [BOS] before [soft prompt] [BOS] after [caption] [end mark], labels on caption and end mark only
(BLIP-2, section 3.3 and figure 3, with text allowed before the soft prompt). What stands before the soft prompt
is frozen and the same in every row: its keys and values are computed once, and read by every step.
"""

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from transformers import Cache, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from isthmus.errors import ConfigError, TowerError
from isthmus.frozen import freeze
from isthmus.language.decoding import generation_config, logits_processors
from isthmus.language.labels import place_labels
from isthmus.language.llm import Decoding, FrozenLLM
from isthmus.language.prompts import Prompt
from isthmus.records import Text


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
        self._bos_after = [] if first else bos
        self._after = self._bos_after + self._ids(prompt.after)
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
            head = torch.cat([soft_prompt.to(self.model.dtype), self._embed_ids(self._after).expand(batch, -1, -1)], 1)
            sequence = torch.cat([head, self.embed(target.ids[:, :-1])], 1)
            always = target.mask.new_ones(batch, len(self._before) + head.shape[1])
            mask = torch.cat([always, target.mask[:, :-1]], 1)
            labels = place_labels(target, head.shape[1] - 1, compact=soft_prompt.device.type == "cpu")
            logits = self._logits(sequence, mask.long(), labels.kept)
            losses = F.cross_entropy(logits.float(), labels.ids, reduction="none") * labels.weights
        sums = losses.new_zeros(batch).index_add(0, labels.rows, losses)
        return sums, target.mask.sum(1).float()

    @torch.no_grad()
    def generate(
        self, soft_prompt: Float[Tensor, "B Q L"], decoding: Decoding, *, prompts: Sequence[str] | None = None
    ) -> list[str]:
        """Write until the end mark or the end of sequence; what stands before the soft prompt is read from its cache.

        Shorter prompts are padded before their soft prompt, out of sight and without a position, so that every row
        reads what it would read alone.
        """
        batch = soft_prompt.shape[0]
        if not batch:
            return []
        after = self._afters(prompts, batch)
        sequence, mask = self._prompted(soft_prompt, after)
        self._check_length(len(self._before) + soft_prompt.shape[1] + max(map(len, after)) + decoding.max_new_tokens)
        single = len(self._end) == 1
        if decoding.min_new_tokens and not single:
            raise ConfigError(f"min_new_tokens needs an end mark of one token, and {self.prompt.end!r} has more.")
        stops = {*self._stops, *(self._end if single else [])}
        with self.own_precision():
            rows = self.model.generate(
                inputs_embeds=sequence,
                attention_mask=mask,
                past_key_values=self._prefix(batch * decoding.num_beams) if self._before else None,
                generation_config=generation_config(decoding, stops=stops, padding=self._padding()),
                logits_processor=logits_processors(decoding),
                **({} if single else {"stop_strings": [self.prompt.end], "tokenizer": self.tokenizer}),
            )
        return [self._text(row) for row in rows.tolist()]

    def embed(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T L"]:
        """Embed tokens by the model's own embedding module (Gemma's scales, OPT-350m's is narrower)."""
        with torch.no_grad():
            embeddings: Tensor = self.model.get_input_embeddings()(ids)
            return embeddings

    def vocabulary(self) -> int:
        """How many rows the embedding has; a padded vocabulary may have more than the tokenizer."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    def _afters(self, prompts: Sequence[str] | None, batch: int) -> list[list[int]]:
        """The tokens after each row's soft prompt."""
        if prompts is None:
            return [self._after] * batch
        if len(prompts) != batch:
            raise ConfigError(f"there are {len(prompts)} prompts for {batch} pictures: give one for each.")
        return [self._bos_after + self._ids(prompt) for prompt in prompts]

    def _prompted(
        self, soft_prompt: Float[Tensor, "B Q L"], after: list[list[int]]
    ) -> tuple[Float[Tensor, "B S L"], Int[Tensor, "B S"]]:
        """Everything up to the caption, and where it is no padding."""
        longest = max(map(len, after))
        gaps = [longest - len(ids) for ids in after]
        parts = ([*self._before, *[self._padding()] * gap] for gap in gaps)
        rows = [
            torch.cat([self._embed_ids(head), soft, self._embed_ids(tail)])
            for head, soft, tail in zip(parts, soft_prompt.to(self.model.dtype), after, strict=True)
        ]
        mask = torch.ones(len(rows), rows[0].shape[0], dtype=torch.long, device=soft_prompt.device)
        for row, gap in zip(mask, gaps, strict=True):
            row[len(self._before) : len(self._before) + gap] = 0
        return torch.stack(rows), mask

    def _check_length(self, tokens: int) -> None:
        """Refuse what a model has no positions for; one without a limit says none."""
        limit = getattr(self.model.config, "max_position_embeddings", None)
        if limit is not None and tokens > limit:
            raise ConfigError(
                f"prompt, soft prompt and text come to {tokens} tokens, but {self.address} has {limit} positions: "
                "shorten the prompt or write fewer tokens."
            )

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids if text else []
        return ids

    def _padding(self) -> int:
        known = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0)
        return next(token for token in known if token is not None)

    def _embed_ids(self, ids: list[int]) -> Float[Tensor, "T L"]:
        return self.embed(torch.tensor([ids], dtype=torch.long, device=self.model.device))[0]

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
