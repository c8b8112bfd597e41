"""A language model of OPT-125m's size with random weights, and a tokenizer of one token a word, as a folder."""

from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import OPTConfig, OPTForCausalLM, PreTrainedTokenizerFast

from benchmarks.flops import Language

PAD, END = 1, 2
_MARKS = {"</s>": END, "<pad>": PAD, "<unk>": 3}


@dataclass(frozen=True)
class LanguageScale:
    """The sizes of an OPT."""

    width: int = 768
    feed_forward: int = 3072
    layers: int = 12
    heads: int = 12
    vocabulary: int = 50_272

    @property
    def counted(self) -> Language:
        """The same in the letters of the counts."""
        return Language(self.width, self.feed_forward, self.layers, self.vocabulary)


LANGUAGE = {
    "full": LanguageScale(),
    "tiny": LanguageScale(width=64, feed_forward=128, layers=2, heads=2, vocabulary=1000),
}


def opt_config(scale: LanguageScale) -> OPTConfig:
    """Without dropout: a frozen model has none here, and both sides must compute the same."""
    return OPTConfig(
        vocab_size=scale.vocabulary,
        hidden_size=scale.width,
        word_embed_proj_dim=scale.width,
        ffn_dim=scale.feed_forward,
        num_hidden_layers=scale.layers,
        num_attention_heads=scale.heads,
        max_position_embeddings=2048,
        dropout=0.0,
        attention_dropout=0.0,
        pad_token_id=PAD,
        bos_token_id=END,
        eos_token_id=END,
    )


def word_tokenizer(scale: LanguageScale) -> PreTrainedTokenizerFast:
    """Token n is the word `wn`, but for three marks."""
    vocabulary = {f"w{number}": number for number in range(scale.vocabulary) if number not in _MARKS.values()}
    tokenizer = Tokenizer(WordLevel({**vocabulary, **_MARKS}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def write_language_model(folder: Path, scale: LanguageScale, *, seed: int = 2) -> Path:
    """Write the folder `llm` and return it."""
    torch.manual_seed(seed)
    place = folder / "llm"
    OPTForCausalLM(opt_config(scale)).save_pretrained(place)
    word_tokenizer(scale).save_pretrained(place)
    return place
