"""isthmus's own folder → a folder of plain transformers: the whole model with its processor, or the Q-Former alone.

    stage 1                  Blip2ForImageTextRetrieval
    stage 2                  Blip2ForConditionalGeneration
    stage 2, instructed      InstructBlipForConditionalGeneration
    any, the Q-Former alone  Blip2QFormerModel

Plain transformers knows one image tower in these classes, BLIP-2's own (EVA ViT-g).
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
    Blip2Processor,
    Blip2QFormerConfig,
    Blip2QFormerModel,
    Blip2VisionModel,
    BlipImageProcessor,
    GenerationConfig,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
)

from isthmus.build.pretrained import LoadedBridge, Pretrained
from isthmus.checkpoints.keymap import CONDITIONAL, INSTRUCT, QFORMER, RETRIEVAL, KeyTable
from isthmus.checkpoints.rest import write_rest
from isthmus.checkpoints.sealed import replacement
from isthmus.checkpoints.transformers import to_transformers
from isthmus.errors import CheckpointError, ConfigError
from isthmus.records import BridgeFile, BridgeSizes
from isthmus.vision.encoder import Preprocessing
from isthmus.vision.transformers_encoder import PIL_FILTERS

IMAGE_TOKEN = "<image>"
MODELS: dict[str, Any] = {
    CONDITIONAL.name: Blip2ForConditionalGeneration,
    INSTRUCT.name: InstructBlipForConditionalGeneration,
    RETRIEVAL.name: Blip2ForImageTextRetrieval,
}
"""The classes of transformers that hold a bridge with its image tower, by the name of their layout."""


@dataclass(frozen=True)
class Exported:
    """What was written: of which class, and what of the bridge that class has no place for, by our names."""

    folder: Path
    table: KeyTable
    lost: tuple[str, ...]


def check_exportable(pretrained: Pretrained, stage: int) -> KeyTable:
    """The layout that a bridge leaves in; raises `ConfigError` where plain transformers cannot hold its image tower."""
    eye = getattr(pretrained.encoder, "model", None)
    if not isinstance(eye, Blip2VisionModel) or pretrained.encoder.hidden_layer is not None:
        raise ConfigError(
            "plain transformers can hold only EVA ViT-g as the image tower of a BLIP-2, before its last norm, and "
            f"{pretrained.encoder.address} is another; export the Q-Former alone: --to qformer"
        )
    size = pretrained.encoder.preprocessing.size
    if size != eye.config.image_size:
        raise ConfigError(
            f"{pretrained.encoder.address} sees pictures of {size} pixels (encoder.image_size) and its weights are for "
            f"{eye.config.image_size}, which these classes cannot say; export the Q-Former alone: --to qformer"
        )
    if stage == 1:
        return RETRIEVAL
    return INSTRUCT if pretrained.bridges[stage].bridge.sizes.text else CONDITIONAL


def export_qformer(loaded: LoadedBridge, folder: Path) -> Exported:
    """Write the Q-Former as `Blip2QFormerModel`, with what it has no place for in a file of our own beside it."""
    check_new(folder)
    file = _file(loaded)
    tensors, lost = to_transformers(file, QFORMER)
    model = _filled(Blip2QFormerModel, _qformer_config(file.sizes), tensors)
    with replacement(folder) as scratch:
        model.save_pretrained(scratch)
        write_rest(file.sizes, {name: file.tensors[name] for name in lost}, scratch)
        if loaded.tokenizer is not None:
            loaded.tokenizer.save(scratch)
    return Exported(folder, QFORMER, tuple(lost))


def export_model(pretrained: Pretrained, stage: int, folder: Path) -> Exported:
    """Write the bridge of a stage between its towers as one model of transformers, with its processor.

    A language model without a free row for the image token gets one, which is never written.
    Raises `CheckpointError` where the folder exists, `ConfigError` as `check_exportable` does.
    """
    table, loaded = check_exportable(pretrained, stage), pretrained.bridges[stage]
    check_new(folder)
    file = _file(loaded)
    tensors, lost = to_transformers(file, table)
    eye: Any = pretrained.encoder.model
    tensors |= {f"vision_model.{key}": tensor for key, tensor in eye.state_dict().items()}
    pictures = _image_processor(pretrained.encoder.preprocessing)
    if table is RETRIEVAL:
        config = _retrieval_config(eye.config, file.sizes)
        model = _filled(MODELS[table.name], config, tensors)
        processor: Any = Blip2Processor(pictures, _words(loaded))
    else:
        llm: Any = pretrained.llm
        tokenizer = copy.deepcopy(llm.tokenizer)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(llm.generation_marks()["pad_token_id"])
        if not llm.model.config.is_encoder_decoder:
            tokenizer.padding_side = "left"
        processor = _processor(table, pictures, tokenizer, loaded)
        image_token = int(tokenizer.convert_tokens_to_ids(IMAGE_TOKEN))
        free = _with_room(llm.model, image_token)
        tensors |= {f"language_model.{key}": tensor for key, tensor in llm.model.state_dict().items()}
        model = _filled(MODELS[table.name], _whole_config(table, eye.config, llm.model.config, file.sizes), tensors)
        model.config.image_token_index = image_token
        model.generation_config = GenerationConfig(**llm.generation_marks(), suppress_tokens=free)
    with replacement(folder) as scratch:
        model.save_pretrained(scratch)
        processor.save_pretrained(scratch)
    return Exported(folder, table, tuple(lost))


def check_new(folder: Path) -> None:
    """Raise `CheckpointError` where there is something already: an export takes no folder's place."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder} exists and is not empty; choose another place")


def _file(loaded: LoadedBridge) -> BridgeFile:
    tensors = {name: tensor.detach().cpu() for name, tensor in loaded.bridge.state_dict().items()}
    return BridgeFile(loaded.bridge.sizes, tensors, loaded.provenance)


def _filled(kind: Any, config: Any, tensors: Mapping[str, Tensor]) -> Any:
    """A model of transformers that holds these tensors and no other: nothing is drawn, nothing copied."""
    with torch.device("meta"):
        model = kind(config)
    model.load_state_dict(dict(tensors), strict=True, assign=True)
    model.tie_weights(missing_keys=set(), recompute_mapping=False)  # only what is equal: Flan-T5's head is its own
    return model


def _qformer_config(sizes: BridgeSizes, kind: Any = Blip2QFormerConfig) -> Any:
    text = {"use_qformer_text_input": sizes.text} if kind is Blip2QFormerConfig else {}
    return kind(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.width,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        intermediate_size=sizes.feed_forward_width,
        max_position_embeddings=sizes.positions,
        layer_norm_eps=sizes.norm_eps,
        cross_attention_frequency=sizes.cross_frequency,
        encoder_hidden_size=sizes.vision_width,
        **text,
    )


def _retrieval_config(vision: Any, sizes: BridgeSizes) -> Blip2Config:
    return Blip2Config(
        vision_config=vision,
        qformer_config=_qformer_config(sizes),
        num_query_tokens=sizes.queries,
        image_text_hidden_size=sizes.shared_width,
    )


def _whole_config(table: KeyTable, vision: Any, language: Any, sizes: BridgeSizes) -> Any:
    if table is CONDITIONAL:
        return Blip2Config(
            vision_config=vision,
            qformer_config=_qformer_config(sizes),
            text_config=language,
            num_query_tokens=sizes.queries,
        )
    eye = {key: value for key, value in vision.to_dict().items() if key != "model_type"}
    return InstructBlipConfig(
        vision_config=InstructBlipVisionConfig(**eye),
        qformer_config=_qformer_config(sizes, InstructBlipQFormerConfig),
        text_config=language,
        num_query_tokens=sizes.queries,
    )


def _image_processor(wanted: Preprocessing) -> BlipImageProcessor:
    if not wanted.squash:
        raise ConfigError("BLIP-2's processor squashes pictures to a square, and this encoder cuts them")
    return BlipImageProcessor(
        size={"height": wanted.size, "width": wanted.size},
        image_mean=list(wanted.mean),
        image_std=list(wanted.std),
        resample=next(number for number, name in PIL_FILTERS.items() if name == wanted.interpolation),
    )


def _processor(table: KeyTable, pictures: BlipImageProcessor, tokenizer: Any, loaded: LoadedBridge) -> Any:
    """The processor of a class, which puts a picture's tokens before BOS; it adds their mark to the tokenizer."""
    count = loaded.bridge.sizes.queries
    if table is CONDITIONAL:
        return Blip2Processor(pictures, tokenizer, num_query_tokens=count)
    return InstructBlipProcessor(pictures, tokenizer, _words(loaded), num_query_tokens=count)


def _words(loaded: LoadedBridge) -> Any:
    """The Q-Former's tokenizer, which forgets where it was last cut: their processors would take it for a wish."""
    tokenizer = copy.deepcopy(loaded.need_tokenizer().inner)
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.init_kwargs.pop("max_length", None)  # as it was read from a folder that was saved after a cut
    return tokenizer


@torch.no_grad()
def _with_room(model: Any, image_token: int) -> list[int]:
    """Make room for the image token's row, whose value no model reads; returns the rows that no text may come from."""
    rows = int(model.get_input_embeddings().weight.shape[0])
    if image_token < rows:
        return [image_token]
    model.resize_token_embeddings(image_token + 1, mean_resizing=False)
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        if module is not None:
            module.weight[rows:] = 0
    return list(range(rows, image_token + 1))
