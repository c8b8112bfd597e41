"""Encoder-decoder language models (T5, Flan-T5 ...) behind the contract of `llm`.

The encoder reads [BOS] before [soft prompt] [BOS] after [the caption's first part] [end of sequence], the decoder is
asked for the rest and the end of sequence (BLIP-2, section 3.3 and figure 3: prefix language modelling). The paper's
code lacks the split; its authors' rule is a point uniform from the first token to the middle of the caption. Where
rows have prompts of their own after the soft prompt, as questions are, the encoder reads those, and the decoder is
asked for the whole.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from isthmus.errors import ConfigError, TowerError
from isthmus.language.decoding import generation_config, logits_processors
from isthmus.language.heads import label_losses
from isthmus.language.labels import place_labels
from isthmus.language.llm import Decoding, Target
from isthmus.language.prompts import Prompt
from isthmus.language.tower import TransformersLLM
from isthmus.language.writing import row_by_row
from isthmus.records import Text


class EncoderDecoderLLM(TransformersLLM):
    """A frozen encoder-decoder language model with its prompt; every caption ends with its end of sequence.

    `prefix_lm` splits captions in training. Raises `TowerError` for a model that cannot be taught from embeddings,
    `ConfigError` for a prompt with an end mark or a chat.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompt: Prompt,
        *,
        address: str,
        max_tokens: int = 32,
        prefix_lm: bool = True,
    ) -> None:
        if prompt.chat or prompt.end:
            given = "chat" if prompt.chat else "end"
            raise ConfigError(
                f"{address} is an encoder-decoder, which closes captions by its own end of sequence and knows no "
                f"turns: leave out the prompt's `{given}`."
            )
        start = getattr(model.config, "decoder_start_token_id", None)
        if start is None or not hasattr(model, "prepare_decoder_input_ids_from_labels"):
            raise TowerError(f"{address} does not say how its decoder starts: it cannot be used.")
        if tokenizer.eos_token_id is None:
            raise TowerError(f"the tokenizer of {address} has no end of sequence: it cannot be used.")
        filled = prompt.resolved(caption_prefix="", end="")
        super().__init__(model, tokenizer, filled, address=address, max_tokens=max_tokens)
        self.splits_captions = prefix_lm
        self._start = int(start)
        self._end = [tokenizer.eos_token_id]
        first = filled.bos == "first"
        self._before = (self._bos() if first else []) + self._ids(filled.before)
        self._bos_after = [] if first else self._bos()

    def tokenize(
        self, captions: Sequence[str], draws: Sequence[float] | None = None, *, prompts: Sequence[str] | None = None
    ) -> Target:
        """Turn captions into labels, and a row's own prompt or, with `draws`, its first tokens into what is given.

        Of T tokens the encoder reads a number drawn evenly from 1 to T / 2; of a single one, none.
        """
        if prompts is not None:
            whole = super().tokenize(captions)
            return replace(whole, given=self._tails(self._afters(prompts, len(captions))))
        if draws is None or not self.splits_captions:
            return super().tokenize(captions)
        rows = [self._caption_ids(caption) for caption in captions]
        splits = [_split(len(row), draw) for row, draw in zip(rows, draws, strict=True)]
        labels = self._padded([row[split:] + self._end for row, split in zip(rows, splits, strict=True)])
        given = [row[:split] for row, split in zip(rows, splits, strict=True)]
        return Target(labels.ids, labels.mask, self._tails([self.prompt.after] * len(rows), given))

    def row_losses(
        self, soft_prompt: Float[Tensor, "B Q L"], target: Target
    ) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """Give each row's summed cross-entropy over its labels and end of sequence, and its count of them."""
        with self.own_precision():
            tails = target.given or self._tails([self.prompt.after] * len(soft_prompt)).to(soft_prompt.device)
            sequence, mask = self._encoder_input(soft_prompt, tails)
            self._check_length(sequence.shape[1])
            inputs = {
                "inputs_embeds": sequence,
                "attention_mask": mask.long(),
                "decoder_input_ids": self.model.prepare_decoder_input_ids_from_labels(target.ids),
                "use_cache": False,
            }
            labels = place_labels(target, first=0)
            return labels.row_sums(label_losses(self.model, labels, inputs)), target.mask.sum(1).float()

    @torch.no_grad()
    def generate(
        self, soft_prompt: Float[Tensor, "B Q L"], decoding: Decoding, *, prompts: Sequence[str] | None = None
    ) -> list[str]:
        """Write until the end of sequence; shorter prompts are padded on the right, out of the encoder's sight."""
        if not len(soft_prompt):
            return []
        tails = self._tails(self._afters(prompts, len(soft_prompt)))
        with self._writing():
            sequence, mask = self._encoder_input(soft_prompt, tails.to(soft_prompt.device))
            self._check_length(max(sequence.shape[1], decoding.max_new_tokens))
            settings = generation_config(decoding, stops=self._stops, padding=self._padding())
            settings.decoder_start_token_id = self._start
            rows = self.model.generate(
                inputs_embeds=sequence,
                attention_mask=mask.long(),
                generation_config=settings,
                logits_processor=logits_processors(decoding, skip=1),
                **row_by_row(decoding),
            )
        return [self._text(row[1:], "") for row in rows.tolist()]

    def _after_ids(self, after: str) -> list[int]:
        return self._bos_after + self._ids(after)

    def _tails(self, afters: Sequence[str], given: Sequence[list[int]] | None = None) -> Text:
        """What the encoder reads after the soft prompt, without a gap: the prompt's text, what is given, the end."""
        rows = given or [[]] * len(afters)
        return self._padded([self._after_ids(text) + row + self._end for text, row in zip(afters, rows, strict=True)])

    def _encoder_input(
        self, soft_prompt: Float[Tensor, "B Q L"], tails: Text
    ) -> tuple[Float[Tensor, "B S L"], Bool[Tensor, "B S"]]:
        """Embeddings of all that the encoder reads, and where it is no padding."""
        batch = len(soft_prompt)
        before = self._embed_ids(self._before).expand(batch, -1, -1)
        sequence = torch.cat([before, soft_prompt.to(self.model.dtype), self.embed(tails.ids)], 1)
        always = tails.mask.new_ones(batch, sequence.shape[1] - tails.mask.shape[1])
        return sequence, torch.cat([always, tails.mask], 1)


def _split(length: int, draw: float) -> int:
    """How many of a caption's tokens are given: 1 to length / 2, evenly by a draw in (0, 1); 0 where there is no 1."""
    middle = length // 2
    return 1 + math.floor(draw * middle) if middle else 0
