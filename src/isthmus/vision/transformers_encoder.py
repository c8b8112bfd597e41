"""Image encoders of transformers: any AutoModel, or the vision half of a model that has one."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    Blip2VisionConfig,
    Blip2VisionModel,
    InstructBlipVisionConfig,
)

from isthmus.errors import TowerError
from isthmus.frozen import freeze
from isthmus.vision.encoder import Encoder, Preprocessing, map_to_patches

PIL_FILTERS = {2: "bilinear", 3: "bicubic"}
_BLIP2_KEYS = {r"^(blip\.)?vision_model\.": ""}
_BLIP2_KINDS = (Blip2VisionConfig.model_type, InstructBlipVisionConfig.model_type)  # one model under two names
_VISION_HALVES = ("vision_model", "vision_tower", "visual")


class TransformersEncoder(Encoder):
    """A transformers vision model by folder or hub id; code from the hub is never run.

    Gives `last_hidden_state`, or `hidden_states[hidden_layer]`: 0 is the embedding, -1 the last block before
    any closing norm, -2 leaves the last block out, as BLIP-2 does with CLIP. A model with a text half (CLIP, SigLIP)
    gives its vision half. BLIP-2's own tower gives its state before `post_layernorm`, which is the patch LayerNorm
    that the bridge learns. A feature map is read row by row. With an `image_size` that is not its own, position
    embeddings are interpolated.

    Raises TowerError where the model is not found, has no weights for a part, or wants unknown preprocessing.
    """

    def __init__(
        self,
        name: str | Path,
        *,
        address: str,
        revision: str | None = None,
        hidden_layer: int | None = None,
        image_size: int | None = None,
    ) -> None:
        super().__init__()
        self.address = address
        self.hidden_layer = hidden_layer
        self._hold(*_load(str(name), revision), image_size)

    @classmethod
    def empty(
        cls,
        name: str | Path,
        *,
        address: str,
        revision: str | None = None,
        hidden_layer: int | None = None,
        image_size: int | None = None,
    ) -> "TransformersEncoder":
        """Make the network without its weights, for its sizes; only where tensors have no storage (`shadow`)."""
        encoder = cls.__new__(cls)
        super(TransformersEncoder, encoder).__init__()
        encoder.address, encoder.hidden_layer = address, hidden_layer
        encoder._hold(*_describe(str(name), revision), image_size)
        return encoder

    def _hold(self, model: nn.Module, processor: dict[str, Any], image_size: int | None) -> None:
        self.preprocessing = _preprocessing(self.address, processor)
        self.model = freeze(model)
        self._options: dict[str, bool] = {}
        if image_size not in (None, self.preprocessing.size):
            self._resize(image_size)
            self.image_size = image_size
        self.width = self.probe()

    def encode(self, pixels: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B P V"]:
        """Encode pictures."""
        deep = self.hidden_layer is not None
        output = self.model(pixel_values=pixels, output_hidden_states=deep, **self._options)
        if self.hidden_layer is None:
            states: Tensor = output.last_hidden_state
        else:
            try:
                states = output.hidden_states[self.hidden_layer]
            except IndexError as error:
                raise TowerError(f"image encoder {self.address} has no layer {self.hidden_layer}.") from error
        return map_to_patches(states) if states.ndim == 4 else states

    def _resize(self, side: int) -> None:
        """Take pictures of another size, with the encoder's position embeddings interpolated (DINO's are by itself)."""
        patch = getattr(self.model.config, "patch_size", 1)
        if isinstance(patch, int) and side % patch:
            raise TowerError(
                f"image encoder {self.address} cuts pictures into patches of {patch} pixels, and `encoder.image_size` "
                f"{side} is no multiple of it."
            )
        own, self.preprocessing = self.preprocessing.size, replace(self.preprocessing, size=side)
        if "interpolate_pos_encoding" in inspect.signature(self.model.forward).parameters:
            self._options = {"interpolate_pos_encoding": True}
        try:
            self.probe()
        except (ValueError, RuntimeError) as error:
            raise TowerError(
                f"image encoder {self.address} takes no pictures of {side} pixels: leave `encoder.image_size` out, its "
                f"own are {own} pixels wide."
            ) from error


def _load(name: str, revision: str | None) -> tuple[nn.Module, dict[str, Any]]:
    with _one_sentence(name):
        config, processor = _read(name, revision)
        model, report = _vision_model(name, config, revision)
    missing = sorted(report["missing_keys"])
    if missing and all(key.startswith("pooler.") for key in missing):
        model.pooler = None  # a classifier's folder has none, and patches need none
    elif missing:
        raise TowerError(f"image encoder {name!r} has no weights for {missing[0]!r}.")
    return model, processor


def _describe(name: str, revision: str | None) -> tuple[nn.Module, dict[str, Any]]:
    with _one_sentence(name):
        config, processor = _read(name, revision)
        return _empty_model(name, config), processor


@contextmanager
def _one_sentence(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise TowerError(
            f"image encoder {name!r} cannot be loaded: give a folder that holds a vision model and its"
            " preprocessor_config.json, or the id of one on a hub that can be reached or is cached."
        ) from error


def _read(name: str, revision: str | None) -> tuple[Any, dict[str, Any]]:
    """A model's configuration and that of its preprocessing."""
    config = AutoConfig.from_pretrained(name, revision=revision)
    half = getattr(config, "vision_config", None)
    _refuse_variable_patches(name, config if half is None else half)
    return config, AutoImageProcessor.from_pretrained(name, revision=revision).to_dict()


def _empty_model(name: str, config: Any) -> Any:
    """The half that sees, as `_vision_model` loads it, of the configuration alone."""
    half = getattr(config, "vision_config", config)
    if half.model_type in _BLIP2_KINDS:
        model = Blip2VisionModel(_blip2_eye(half))
        model.post_layernorm = nn.Identity()
        return model
    if type(half) in AutoModel._model_mapping:
        return AutoModel.from_config(half, dtype=torch.float32)
    return _vision_half(name, AutoModel.from_config(config, dtype=torch.float32))


def _blip2_eye(half: Any) -> Any:
    return Blip2VisionConfig.from_dict({**half.to_dict(), "model_type": Blip2VisionConfig.model_type})


def _vision_model(name: str, config: Any, revision: str | None) -> tuple[Any, dict[str, Any]]:
    """Load no more than the half that sees, where transformers can load it by itself."""
    half = getattr(config, "vision_config", config)
    options: dict[str, Any] = {"revision": revision, "dtype": torch.float32, "output_loading_info": True}
    if half.model_type in _BLIP2_KINDS:
        eye, keys = _blip2_eye(half), _BLIP2_KEYS
        model, report = Blip2VisionModel.from_pretrained(name, config=eye, key_mapping=keys, **options)
        model.post_layernorm = nn.Identity()
        return model, report
    if type(half) in AutoModel._model_mapping:
        loaded: tuple[Any, dict[str, Any]] = AutoModel.from_pretrained(name, config=half, **options)
        return loaded
    model, report = AutoModel.from_pretrained(name, config=config, **options)
    return _vision_half(name, model), report


def _refuse_variable_patches(name: str, config: Any) -> None:
    if config.model_type.startswith("siglip2"):
        raise TowerError(
            f"image encoder {name!r} is a NaFlex SigLIP2, whose number of patches differs from picture to picture: "
            "take one of a fixed size (its name ends in a number of pixels)."
        )


def _vision_half(name: str, model: nn.Module) -> nn.Module:
    for attribute in _VISION_HALVES:
        if isinstance(half := getattr(model, attribute, None), nn.Module):
            return half
    raise TowerError(f"model {name!r} has a vision_config but no vision half under a known name.")


def _preprocessing(address: str, processor: dict[str, Any]) -> Preprocessing:
    size, crop = processor.get("size") or {}, processor.get("crop_size") or {}
    cuts = bool(processor.get("do_center_crop")) and bool(crop)
    if "shortest_edge" in size:
        short = size["shortest_edge"]
        height, width = (crop["height"], crop["width"]) if cuts else (short, short)
        share = height / short if cuts else processor.get("crop_pct") or 1.0
    elif "height" in size and not cuts:
        height, width, share = size["height"], size["width"], 1.0
    else:
        raise TowerError(f"image encoder {address} wants pictures of size {size}, cut to {crop}: not supported.")
    if absent := [key for key in ("image_mean", "image_std", "resample") if processor.get(key) is None]:
        raise TowerError(f"image encoder {address} does not say its {absent[0]} in preprocessor_config.json.")
    if height != width:
        raise TowerError(f"image encoder {address} takes pictures of {height} x {width}, which are not square.")
    return Preprocessing(
        size=height,
        mean=tuple(processor["image_mean"]),
        std=tuple(processor["image_std"]),
        interpolation=PIL_FILTERS.get(int(processor["resample"]), str(processor["resample"])),
        crop_share=share,
        squash="height" in size,
    )
