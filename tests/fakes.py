"""Tiny random towers, made on the spot: what the tests use instead of downloads.

Every factory writes a folder as `save_pretrained` does, is seeded, and returns the folder it was given.
"""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE, WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer, ByteLevel
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertModel,
    BitImageProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    T5Config,
    T5ForConditionalGeneration,
)

_COMMON = (
    "a an the of in on and red blue green yellow small big old new cat dog fish bird horse cow tree house"
    " car bus boat ship sun moon star cloud snow mountain river apple bread cake cup ball book clock"
)
WORDS = tuple(_COMMON.split())
BERT_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def byte_tokenizer(*, bos: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer: ids 0 pad, 1 <s>, 2 </s>, then one id per byte; <s> first if `bos`."""
    alphabet = sorted(ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<pad>", "<s>", "</s>", *alphabet])}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    if bos:
        tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        **({"bos_token": "<s>"} if bos else {}),
    )


def bert_tokenizer() -> PreTrainedTokenizerFast:
    """A lower-casing WordPiece tokenizer of `WORDS`, the letters and BERT's five specials (ids 0 to 4)."""
    letters = [chr(code) for code in range(ord("b"), ord("z") + 1)]
    pieces = [f"##{letter}" for letter in ["a", *letters]]
    vocabulary = {token: index for index, token in enumerate([*BERT_SPECIALS, *WORDS, *letters, *pieces])}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **dict(zip(names, BERT_SPECIALS, strict=True)))


def tiny_llama_folder(path: Path, *, seed: int = 0) -> Path:
    """A Llama of 2 layers, L = 16, tied embeddings, with the byte tokenizer (BOS first)."""
    tokenizer = byte_tokenizer()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        initializer_range=0.2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def tiny_chat_folder(path: Path, *, seed: int = 0) -> Path:
    """The Llama of `tiny_llama_folder` as an instruct model: turns between <|user|> or <|assistant|> and </s>."""
    tiny_llama_folder(path, seed=seed)
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{% for turn in messages %}<|{{ turn.role }}|>{{ turn.content }}</s>{% endfor %}"
    tokenizer.save_pretrained(path)
    return path


def tiny_t5_folder(path: Path, *, seed: int = 0) -> Path:
    """A T5 of 2 + 2 layers, L = 16, tied embeddings, with the byte tokenizer (no BOS)."""
    tokenizer = byte_tokenizer(bos=False)
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=16,
        d_kv=4,
        d_ff=32,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.5,
        feed_forward_proj="gated-gelu",
        pad_token_id=0,
        eos_token_id=2,
        decoder_start_token_id=0,
    )
    T5ForConditionalGeneration(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def tiny_clip_folder(path: Path, *, seed: int = 0) -> Path:
    """A whole CLIP (both halves): 32 px in patches of 8, so P = 17 with the class token, V = 16, 3 layers."""
    torch.manual_seed(seed)
    half = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "initializer_range": 0.2,
    }
    config = CLIPConfig(
        vision_config={**half, "image_size": 32, "patch_size": 8, "attention_dropout": 0.5},
        text_config={
            **half,
            "vocab_size": 64,
            "max_position_embeddings": 16,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        projection_dim=8,
    )
    CLIPModel(config).save_pretrained(path)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(path)
    return path


_HALF = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
_EYE = {**_HALF, "image_size": 32, "patch_size": 8, "initializer_range": 0.2}


def tiny_siglip_folder(path: Path, *, seed: int = 0) -> Path:
    """A whole SigLIP (both halves; SigLIP2 of fixed size is the same): 32 px in patches of 8, P = 16, V = 16."""
    torch.manual_seed(seed)
    text = {**_HALF, "vocab_size": 64, "max_position_embeddings": 16, "bos_token_id": 1, "eos_token_id": 2}
    SiglipModel(SiglipConfig(vision_config=_EYE, text_config=text)).save_pretrained(path)
    SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(path)
    return path


def tiny_dinov2_folder(path: Path, *, seed: int = 0) -> Path:
    """A DINOv2: pictures cut to 32 px in patches of 8, P = 17 with the class token, V = 16."""
    torch.manual_seed(seed)
    Dinov2Model(Dinov2Config(**_EYE)).save_pretrained(path)
    BitImageProcessor(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}).save_pretrained(path)
    return path


def tiny_bert_folder(path: Path, *, seed: int = 0) -> Path:
    """A BERT of 2 layers, D = 16, 4 heads, with the WordPiece tokenizer of `WORDS`."""
    tokenizer = bert_tokenizer()
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path
