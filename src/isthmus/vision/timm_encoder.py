"""Image encoders of timm: vision transformers and convolution networks, from a weight file or the hub."""

import inspect
import pickle
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.data import resolve_data_config
from torch import Tensor, nn

from isthmus.errors import TowerError
from isthmus.frozen import freeze
from isthmus.vision.encoder import Encoder, Preprocessing, map_to_patches

Match = Literal["name", "order"]


class TimmEncoder(Encoder):
    """A timm model without its classifier.

    A transformer gives all its tokens, the class token included, after its last norm; a convolution network
    gives its last feature map, read row by row. `hidden_layer` takes the output of an earlier block (or stage),
    counted from 0 or from the end: -2 leaves the last block out, as BLIP-2 does.

    `weights` is a file (.safetensors, or a .pth of tensors, which is read with weights_only); `match` says how
    its tensors find their places: by "name", or in "order" for a file whose author chose other names. Both are
    strict. `pretrained` takes timm's own weights from the hub instead.

    `architecture` is timm's name of the network, which weights on the hub bring along.

    Raises TowerError for an unknown name, and for weights that are missing or do not fit.
    """

    def __init__(
        self,
        name: str,
        *,
        address: str,
        weights: Path | None = None,
        pretrained: bool = False,
        hidden_layer: int | None = None,
        match: Match = "name",
    ) -> None:
        super().__init__()
        if (weights is None) != pretrained:
            raise TowerError(f"image encoder {name!r} needs a weight file or pretrained=True, and not both.")
        model = _create(name, pretrained=pretrained)
        if weights is not None:
            fit_weights(model, read_weights(weights), match=match)
        self._hold(name, model, address, hidden_layer)

    @classmethod
    def empty(cls, name: str, *, address: str, hidden_layer: int | None = None) -> "TimmEncoder":
        """Make the network without its weights, for its sizes; only where tensors have no storage (`shadow`)."""
        encoder = cls.__new__(cls)
        super(TimmEncoder, encoder).__init__()
        encoder._hold(name, _create(name, pretrained=False), address, hidden_layer)
        return encoder

    def _hold(self, name: str, model: Any, address: str, hidden_layer: int | None) -> None:
        self.preprocessing = _preprocessing(name, model)
        model.reset_classifier(0)
        self.model: Any = freeze(model)
        self.address = address
        self.architecture: str = model.pretrained_cfg["architecture"]
        self.hidden_layer = hidden_layer
        self.convolutional = "return_prefix_tokens" not in inspect.signature(_layers_of(name, model)).parameters
        if self.convolutional:
            self.model.to(memory_format=torch.channels_last)
        self.width = self.probe()

    def encode(self, pixels: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B P V"]:
        """Encode pictures; a convolution network runs channels-last, 1.5 times as fast on a CPU."""
        if self.convolutional:
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        features = self._features(pixels)
        if features.ndim != 4:
            return features
        last = self.hidden_layer is None and getattr(self.model, "output_fmt", "NCHW") == "NHWC"
        return features.flatten(1, 2) if last else map_to_patches(features)

    def _features(self, pixels: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B ..."]:
        if self.hidden_layer is None:
            features: Tensor = self.model.forward_features(pixels)
            return features
        tokens: dict[str, Any] = {} if self.convolutional else {"output_fmt": "NLC", "return_prefix_tokens": True}
        try:
            (layer,) = self.model.forward_intermediates(
                pixels, indices=[self.hidden_layer], stop_early=True, intermediates_only=True, **tokens
            )
        except (AssertionError, IndexError, ValueError) as error:
            raise TowerError(f"image encoder {self.address} has no layer {self.hidden_layer}.") from error
        return torch.cat([layer[1], layer[0]], 1) if isinstance(layer, tuple) else layer


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a file of tensors by name, unpickling nothing else; a TowerError says what is wrong with it."""
    if not path.is_file():
        raise TowerError(f"weight file {path} does not exist.")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise TowerError(f"weight file {path} is no readable safetensors file ({error}).") from error
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise TowerError(f"weight file {path} is not a file of plain tensors.") from error
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise TowerError(f"weight file {path} does not hold tensors by name.")
    return tensors


def fit_weights(model: nn.Module, tensors: dict[str, Tensor], *, match: Match) -> None:
    """Load tensors into a model, in place: every tensor has its place, and every place its tensor.

    "name": the names are equal; the classifier, which is not used, may be missing or of another size.
    "order": the names are ignored; count and shapes are the same in the same order.
    Raises TowerError naming the first mismatch.
    """
    places = model.state_dict()
    if match == "order":
        _refuse_other_order(places, tensors)
        tensors = dict(zip(places, tensors.values(), strict=True))
    else:
        heads = _classifiers(model)
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(heads)}
        tensors |= {name: tensor for name, tensor in places.items() if name.startswith(heads)}
        _refuse_other_names(places, tensors)
    model.load_state_dict(tensors)


def _classifiers(model: Any) -> tuple[str, ...]:
    names = model.pretrained_cfg.get("classifier") or ()
    return tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))


def _refuse_other_order(places: dict[str, Tensor], tensors: dict[str, Tensor]) -> None:
    if len(places) != len(tensors):
        raise TowerError(f"the weight file holds {len(tensors)} tensors where the encoder has {len(places)}.")
    for position, (place, name) in enumerate(zip(places, tensors, strict=True)):
        if places[place].shape != tensors[name].shape:
            found, wanted = tuple(tensors[name].shape), tuple(places[place].shape)
            raise TowerError(
                f"tensor {position} of the weight file, {name!r} {found},"
                f" does not fit the encoder's {place!r} {wanted}."
            )


def _refuse_other_names(places: dict[str, Tensor], tensors: dict[str, Tensor]) -> None:
    for name in places:
        if name not in tensors:
            raise TowerError(f"the weight file lacks the encoder's tensor {name!r}.")
    for name, tensor in tensors.items():
        if name not in places:
            raise TowerError(f"the weight file holds {name!r}, which the encoder does not have.")
        if tensor.shape != places[name].shape:
            found, wanted = tuple(tensor.shape), tuple(places[name].shape)
            raise TowerError(f"tensor {name!r} of the weight file is {found} where the encoder has {wanted}.")


def _create(name: str, *, pretrained: bool) -> Any:
    try:
        return timm.create_model(name, pretrained=pretrained)
    except (RuntimeError, ValueError, OSError) as error:
        advice = "timm knows no such model, or its hub cannot be reached" if pretrained else "timm knows no such model"
        raise TowerError(f"image encoder {name!r} cannot be made: {advice}.") from error


def _layers_of(name: str, model: Any) -> Any:
    if not hasattr(model, "forward_intermediates"):
        raise TowerError(f"image encoder {name!r} does not give out its layers (no forward_intermediates).")
    return model.forward_intermediates


def _preprocessing(name: str, model: Any) -> Preprocessing:
    wanted = resolve_data_config(model=model)
    _, height, width = wanted["input_size"]
    if height != width:
        raise TowerError(f"image encoder {name!r} takes pictures of {height} x {width}, which are not square.")
    if wanted["crop_mode"] not in ("center", "squash"):
        raise TowerError(f"image encoder {name!r} wants the crop mode {wanted['crop_mode']!r}, which is not known.")
    return Preprocessing(
        size=height,
        mean=tuple(wanted["mean"]),
        std=tuple(wanted["std"]),
        interpolation=wanted["interpolation"],
        crop_share=wanted["crop_pct"],
        squash=wanted["crop_mode"] == "squash",
    )
