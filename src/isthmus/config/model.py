"""The towers and the bridge."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from isthmus.config.base import PathText, Section

Probability = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
QUESTION = "{question}"
"""What stands in a prompt in the place of the question."""


class EncoderConfig(Section):
    """The frozen image encoder."""

    kind: Literal["timm", "transformers"]
    """Which library builds it."""
    name: str | None = None
    """timm's model name (timm only); beside `hub:` weights, which name their own, it may be empty."""
    weights: str | None = None
    """Address of the weights: `hub:NAME@REVISION`, `folder:PATH`, `file:PATH` or `package:MODULE/PATH`;
    empty: timm's own pretrained weights from the Hub."""
    match: Literal["name", "order"] = "name"
    """How a weights file meets timm's tensors: by name, or one to one in order (both strict)."""
    hidden_layer: int | None = None
    """Which hidden layer gives the patches; empty: the last."""
    image_size: Count | None = None
    """transformers only: side of the pictures in pixels, where it is not the encoder's own; its position embeddings are
    interpolated, as BLIP-2 does from 224 to 364."""
    squash: bool | None = None
    """Squash whole pictures to the square, as LAVIS does for every encoder (true), or cut their middle out (false);
    empty: as the encoder's own processor says."""
    licence: str | None = None
    """Licence of the weights, as their author states it (SPDX); the bridge's card names it."""

    @model_validator(mode="after")
    def _keys_do_something(self) -> "EncoderConfig":
        if self.kind == "transformers":
            self.refuse(("name", "match"), "says nothing about an encoder of kind transformers")
        else:
            self.refuse(("image_size",), "says nothing about an encoder of kind timm: its name says its size")
        if self.weights is None:
            self.refuse(("match",), "is about a file of weights, and `weights` names none")
        return self


class PromptConfig(Section):
    """What the language model reads around the soft prompt."""

    before: str = ""
    """Text before the soft prompt, the same in every row."""
    after: str = ""
    """Text after the soft prompt; with `bridge.instruct` it holds `{question}`, in whose place each question stands."""
    caption_prefix: str | None = None
    """White space put before each caption; empty: a space, or none in a chat and for an encoder-decoder model."""
    end: str | None = None
    """The end mark: closes each caption and stops generation; empty: a line break, or in a chat the end of the turn,
    and for an encoder-decoder model its end of sequence. `""` is the tokenizer's end of sequence."""
    bos: Literal["first", "after_soft_prompt"] = "first"
    """Where the tokenizer's BOS stands, if it has one; BLIP-2's own have it after the soft prompt."""
    bos_token: str | None = None
    """The text of the token that stands for BOS; empty: the tokenizer's own, if it has one. LAVIS reads Vicuna with
    `</s>`."""
    chat: bool = False
    """Put the tokenizer's chat template around it: the prompt is the user's turn, the caption the assistant's."""
    examples: int = Field(default=0, ge=0)
    """How many example lines of training captions stand before the soft prompt (text only)."""


class LanguageConfig(Section):
    """The frozen language model of stage 2."""

    weights: str
    """Address: `hub:NAME@REVISION`, `folder:PATH`, `file:MODEL.gguf` or `package:MODULE/PATH.gguf`; a decoder-only or
    an encoder-decoder model."""
    cache: str = "~/.cache/isthmus"
    """Where a GGUF file is kept after it is turned once into a plain model."""
    licence: str | None = None
    """Licence of the weights, as their author states it (SPDX); the bridge's card names it."""
    max_tokens: Count = 32
    """Longest caption, in the language model's tokens."""
    prefix_lm: bool | None = None
    """Encoder-decoder models only: give the encoder the first part of each training caption and ask for the rest, as
    BLIP-2 does; empty: yes."""
    activation: str | None = None
    """T5 models only: the activation of their feed-forwards in place of their own; bridges of LAVIS were trained with
    Flan-T5 at `gelu` where its config says `gelu_new`."""
    dropout: bool = False
    """Leave the language model's own dropout on while the bridge trains, if it has any (OPT, T5); its weights stay
    frozen; the original: true."""
    checkpointing: bool = False
    """Keep only what goes from layer to layer for the backward and compute each layer again there: less memory, more
    time. A prompt before the soft prompt is then computed in every step."""
    sharded: bool = False
    """Several processes only: each holds a share of every layer and gathers a layer's weights when it is computed, for
    a language model that is too large for one device. The numbers stay the same."""
    prompt: PromptConfig = PromptConfig()
    """The text around the soft prompt."""


class DropoutConfig(Section):
    """Dropout probabilities in training."""

    embedding: Probability = 0.1
    """After the embeddings' LayerNorm."""
    attention: Probability = 0.1
    """On attention probabilities."""
    hidden: Probability = 0.1
    """After every output projection."""


class ScratchConfig(Section):
    """Sizes of a Q-Former from scratch; one that starts from a BERT takes them from it."""

    tokenizer: str
    """Address of the folder with a BERT tokenizer."""
    width: Count = 768
    """Q-Former width D."""
    layers: Count = 12
    """How many layers."""
    heads: Count = 12
    """Attention heads H."""
    feed_forward_width: Count = 3072
    """Width inside the feed-forwards."""


class BridgeConfig(Section):
    """The trained part."""

    bert: str | None = None
    """Address of the BERT that the Q-Former starts from."""
    scratch: ScratchConfig | None = None
    """Sizes for a start from scratch, instead of `bert`."""
    fold_token_type: bool = True
    """Fold BERT's token-type row 0 into the positions (with `bert`); the original drops it."""
    dec: Literal["cls", "random"] = "cls"
    """What `[DEC]` starts from (with `bert`); the original: random."""
    queries: Count = 32
    """How many learned queries Q."""
    cross_frequency: Count = 2
    """Cross-attention stands in every so-many-th layer, the first included."""
    shared_width: Count = 256
    """Width E of ITC's shared embedding."""
    max_tokens: int = Field(default=32, ge=3)
    """Longest text, in the Q-Former's tokens."""
    patch_norm_eps: float = Field(default=1e-5, gt=0)
    """eps of the LayerNorm on the patches."""
    dropout: DropoutConfig = DropoutConfig()
    """Dropout of the Q-Former."""
    projection: Literal["random", "least_squares"] = "random"
    """How the projection into the language model starts (stage 2)."""
    instruct: bool = False
    """Stage 2 only: train on questions and answers; the Q-Former reads the question beside the picture, and the
    language model reads it too (InstructBLIP)."""

    @model_validator(mode="after")
    def _keys_do_something(self) -> "BridgeConfig":
        if self.bert is None:
            self.refuse(("fold_token_type", "dec"), "says how a bridge starts from `bert`, which is not given")
        return self


class InitConfig(Section):
    """A bridge that is there already, to go on from."""

    folder: PathText = Field(alias="from")
    """The folder of its run, or the model folder itself; its sizes, tokenizer and image encoder stay."""
    lm_head: str | None = None
    """Stage 1, where that bridge has no LM head (weights of transformers have none): the address of a BERT whose MLM
    head it takes, or `random`."""
    temperature: float | None = Field(default=None, gt=0)
    """Stage 1, where that bridge has no temperature of ITC, as weights of transformers have none: its start (0.07)."""
