"""Decoder-only language models (Llama, OPT, Qwen, SmolLM ...) behind the contract of `llm`.

The sequence is [BOS] before [soft prompt] [BOS] after [caption] [end mark], labels on caption and end mark only
(BLIP-2, section 3.3 and figure 3, with text allowed before the soft prompt). In a chat, the template's own marks
stand around before and after, and close the caption. Where rows have prompts of their own after the soft prompt, as
questions are, no gap stands within a row, and all padding on its right.

What stands before the soft prompt is frozen and the same in every row: its keys and values are computed once, and read
by every step. Under dropout they differ by row and step, and the whole sequence is computed; so it is where layers are
recomputed in the backward, since each would write into the cache a second time.
"""

import copy
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import Cache, PreTrainedModel, PreTrainedTokenizerBase, StopStringCriteria

from isthmus.errors import ConfigError, TowerError
from isthmus.language.chat import end_of_turn, with_turns
from isthmus.language.decoding import generation_config, logits_processors
from isthmus.language.heads import label_losses
from isthmus.language.labels import place_labels
from isthmus.language.llm import Decoding, Target
from isthmus.language.prompts import CAPTION_PREFIX, END, Prompt
from isthmus.language.tower import TransformersLLM
from isthmus.language.writing import row_by_row


class DecoderOnlyLLM(TransformersLLM):
    """A frozen causal language model with its prompt, plain or in a chat's turns."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompt: Prompt,
        *,
        address: str,
        max_tokens: int = 32,
    ) -> None:
        filled = prompt.resolved(caption_prefix="" if prompt.chat else CAPTION_PREFIX, end="" if prompt.chat else END)
        if prompt.chat:
            filled = with_turns(filled, tokenizer, address)
        super().__init__(model, tokenizer, filled, address=address, max_tokens=max_tokens)
        if not filled.end and not filled.chat and tokenizer.eos_token_id is None:
            raise TowerError(f"language model {address} has no end of sequence: give the prompt an end mark.")
        opening, self._reply, _ = filled.turns or ("", "", "")
        first, bos = filled.bos == "first", [] if filled.chat else self._bos()
        self._before = (bos if first else []) + self._ids(opening + filled.before)
        self._bos_after = [] if first else bos
        self._after = self._after_ids(filled.after)
        self._end_text, self._end = self._closing()
        self._prefixes: dict[tuple[torch.device, torch.dtype], Cache] = {}

    def tokenize(
        self, captions: Sequence[str], draws: Sequence[float] | None = None, *, prompts: Sequence[str] | None = None
    ) -> Target:
        """Turn captions into labels, after a row's own prompt where there is one; padded on the right, on the CPU."""
        if prompts is None:
            return super().tokenize(captions)
        after = [self._after_ids(text) for text in self._afters(prompts, len(captions))]
        text = self._padded([a + b for a, b in zip(after, self._label_rows(captions), strict=True)])
        starts = torch.tensor([len(ids) for ids in after], dtype=torch.long)[:, None]
        return Target(text.ids, text.mask & (torch.arange(text.ids.shape[1]) >= starts), seen=text.mask)

    def row_losses(
        self, soft_prompt: Float[Tensor, "B Q L"], target: Target
    ) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """Give each row's summed cross-entropy over caption and end mark, and its count of label tokens."""
        batch = soft_prompt.shape[0]
        seen = target.mask if target.seen is None else target.seen
        with self.own_precision():
            head = soft_prompt.to(self.model.dtype)
            if target.seen is None:
                head = torch.cat([head, self._embed_ids(self._after).expand(batch, -1, -1)], 1)
            always = target.mask.new_ones(batch, len(self._before) + head.shape[1])
            if not self._reads_cache():
                head = torch.cat([self._embed_ids(self._before).expand(batch, -1, -1), head], 1)
            sequence = torch.cat([head, self.embed(target.ids[:, :-1])], 1)
            mask = torch.cat([always, seen[:, :-1]], 1)
            self._check_length(mask.shape[1])
            past = self._prefix(batch) if self._reads_cache() else None
            inputs = {"inputs_embeds": sequence, "attention_mask": mask.long(), "past_key_values": past}
            labels = place_labels(target, head.shape[1] - 1)
            losses = label_losses(self.model, labels, {**inputs, "use_cache": past is not None})
            return labels.row_sums(losses), target.mask.sum(1).float()

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
        after = [self._after_ids(text) for text in self._afters(prompts, batch)]
        sequence, mask = self._prompted(soft_prompt, after)
        self._check_length(len(self._before) + soft_prompt.shape[1] + max(map(len, after)) + decoding.max_new_tokens)
        single = len(self._end) == 1
        if decoding.min_new_tokens and not single:
            raise ConfigError(f"min_new_tokens needs an end mark of one token, and {self._end_text!r} has more.")
        stops = {*self._stops, *(self._end if single else [])}
        with self._writing():
            rows = self.model.generate(
                inputs_embeds=sequence,
                attention_mask=mask,
                past_key_values=self._prefix(batch * decoding.num_beams) if self._reads_cache() else None,
                generation_config=generation_config(decoding, stops=stops, padding=self._padding()),
                logits_processor=logits_processors(decoding),
                stopping_criteria=[] if single else [StopStringCriteria(self.tokenizer, [self._end_text])],
                **row_by_row(decoding),
            )
        return [self._text(row, self._end_text) for row in rows.tolist()]

    def _closing(self) -> tuple[str, list[int]]:
        """The end mark as text, and the tokens of it that a caption is closed by."""
        if self.prompt.turns is not None:
            return end_of_turn(self.prompt.turns[2], self.tokenizer)
        if self.prompt.end:
            return self.prompt.end, self._ids(self.prompt.end)
        return "", [self.tokenizer.eos_token_id]

    def _after_ids(self, after: str) -> list[int]:
        return self._bos_after + self._ids(after + self._reply)

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

    def _reads_cache(self) -> bool:
        """Whether there is text before the soft prompt that is the same in every row: dropout draws anew in each."""
        again = self.recomputes and torch.is_grad_enabled()
        return bool(self._before) and not self.model.training and not again

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
