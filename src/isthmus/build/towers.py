"""Addresses → frozen towers. Adding an encoder family or a kind of LLM is one new file and one line here.

An address says where weights come from: `hub:NAME` or `hub:NAME@REVISION`, `folder:PATH`, `file:PATH`, or
`package:MODULE/PATH` for a file or folder that an installed Python package ships.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from isthmus import distributed
from isthmus.build.precision import Compute
from isthmus.config.model import EncoderConfig, LanguageConfig
from isthmus.errors import ConfigError, TowerError
from isthmus.language.decoder_only import DecoderOnlyLLM
from isthmus.language.encoder_decoder import EncoderDecoderLLM
from isthmus.language.gguf import describe_gguf, gguf_to_folder
from isthmus.language.llm import FrozenLLM
from isthmus.language.load import (
    describe_language_model,
    empty_language_model,
    is_encoder_decoder,
    load_language_model,
)
from isthmus.language.prompts import Prompt
from isthmus.language.tower import TransformersLLM
from isthmus.vision.encoder import Encoder
from isthmus.vision.timm_encoder import TimmEncoder
from isthmus.vision.transformers_encoder import TransformersEncoder


@dataclass(frozen=True)
class TowerPlace:
    """Where an address leads: a path on this machine, or a name on the Hub with a revision."""

    path: Path | None
    hub_name: str | None = None
    revision: str | None = None

    @property
    def name(self) -> str:
        """What transformers calls the model: a path or a Hub id."""
        return str(self.path) if self.path is not None else str(self.hub_name)


def resolve(address: str) -> TowerPlace:
    """Find an address; raises `ConfigError` for one of no known form, `TowerError` where nothing is there."""
    kind, colon, rest = address.partition(":")
    if not colon or not rest or kind not in ("hub", "folder", "file", "package"):
        raise ConfigError(
            f"{address!r} is no address; write hub:NAME@REVISION, folder:PATH, file:PATH or package:MODULE/PATH"
        )
    if kind == "hub":
        name, _, revision = rest.partition("@")
        return TowerPlace(None, name, revision or None)
    path = _in_package(rest, address) if kind == "package" else Path(rest).expanduser()
    if not path.exists() or (kind == "folder" and not path.is_dir()) or (kind == "file" and not path.is_file()):
        raise TowerError(f"{address}: there is no such {'folder' if kind == 'folder' else 'file'} at {path}")
    return TowerPlace(path)


def _in_package(rest: str, address: str) -> Path:
    module, _, inside = rest.partition("/")
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):  # a parent that is not there, or no name at all
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise TowerError(f"{address}: the package {module} is not installed; install it with pip (quickstart extra)")
    return Path(next(iter(spec.submodule_search_locations))) / inside


def build_encoder(config: EncoderConfig, compute: Compute, *, empty: bool = False) -> Encoder:
    """Build the frozen image encoder on the run's device, in its precision; `empty`: without weights, for its sizes."""
    place = None if config.weights is None else resolve(config.weights)
    if config.kind == "timm":
        encoder = _timm(config, place, empty=empty)
    elif place is None:
        raise ConfigError(
            "`encoder.weights` is missing: a transformers encoder needs an address, hub:NAME or folder:PATH"
        )
    else:
        encoder = (TransformersEncoder.empty if empty else TransformersEncoder)(
            place.name,
            address=str(config.weights),
            revision=place.revision,
            hidden_layer=config.hidden_layer,
            image_size=config.image_size,
        )
    if config.squash is not None:
        encoder.take_squashed(config.squash)
    return encoder.to(device=None if empty else compute.device, dtype=compute.dtype)


def _timm(config: EncoderConfig, place: TowerPlace | None, *, empty: bool) -> Encoder:
    path = None if place is None else place.path
    on_hub = place is not None and path is None
    name = f"hf-hub:{str(config.weights).removeprefix('hub:')}" if on_hub else config.name
    if name is None:
        raise ConfigError("`encoder.name` is missing: a timm encoder needs timm's model name")
    address = "timm:" + " ".join(part for part in (config.name, config.weights) if part)
    if empty:
        return TimmEncoder.empty(name, address=address, hidden_layer=config.hidden_layer)
    encoder = TimmEncoder(
        name,
        address=address,
        weights=None if path is None else _weight_file(path),
        pretrained=path is None,
        hidden_layer=config.hidden_layer,
        match=config.match,
    )
    if on_hub and config.name is not None and config.name.partition(".")[0] != encoder.architecture:
        raise ConfigError(
            f"`encoder.name` is {config.name}, but {config.weights} is a {encoder.architecture}; leave the name out"
        )
    return encoder


def _weight_file(path: Path) -> Path:
    """A file itself, or the one safetensors file of a folder."""
    if path.is_file():
        return path
    files = sorted(path.glob("*.safetensors"))
    if len(files) != 1:
        raise TowerError(f"{path} holds {len(files)} .safetensors files where one is needed; name it with file:PATH")
    return files[0]


def build_llm(
    config: LanguageConfig, prompt: Prompt, compute: Compute, *, device_map: Any = None, empty: bool = False
) -> FrozenLLM:
    """Build the frozen language model, of the kind that its own configuration says.

    A GGUF file is unpacked once into the cache. `device_map` is transformers' own and places the model in place of
    `compute.device`; `empty`: without weights, for its sizes. With `config.sharded` several ranks load it one after the
    other on a host, and each keeps a share; alone, all of it is kept.
    Raises `ConfigError` for a key that this kind does not have.
    """
    if not config.sharded or empty or distributed.world_size() == 1:
        llm = _language_model(config, prompt, compute, device_map=device_map, empty=empty)
        return llm.to(compute.device) if device_map is None and not empty else llm
    with distributed.in_turn():
        llm = _language_model(config, prompt, compute)
        llm.share(compute.device)
    llm.gather_once()
    return llm


def _language_model(
    config: LanguageConfig, prompt: Prompt, compute: Compute, *, device_map: Any = None, empty: bool = False
) -> TransformersLLM:
    """The language model where transformers puts it: on the CPU, unless `device_map` says otherwise."""
    place = resolve(config.weights)
    packed = place.path if place.path is not None and place.path.suffix == ".gguf" else None
    options: dict[str, Any] = {
        "dtype": compute.dtype,
        "attn_implementation": "eager" if compute.device.type == "cpu" else None,
        "activation": config.activation,
    }
    if empty:
        described = describe_language_model(place.name, place.revision) if packed is None else describe_gguf(packed)
        encoder_decoder = _kind(config, encoder_decoder=described.encoder_decoder)
        model, tokenizer = empty_language_model(described, **options)
    else:
        cache = Path(config.cache).expanduser()
        name = place.name if packed is None else str(gguf_to_folder(packed, cache, dtype=torch.bfloat16))
        encoder_decoder = _kind(config, encoder_decoder=is_encoder_decoder(name, revision=place.revision))
        model, tokenizer = load_language_model(name, revision=place.revision, device_map=device_map, **options)
    settings: dict[str, Any] = {"address": config.weights, "max_tokens": config.max_tokens}
    llm: TransformersLLM
    if encoder_decoder:
        llm = EncoderDecoderLLM(model, tokenizer, prompt, **settings, prefix_lm=config.prefix_lm is not False)
    else:
        llm = DecoderOnlyLLM(model, tokenizer, prompt, **settings)
    llm.dropout = config.dropout
    if config.checkpointing:
        llm.recompute()
    return llm


def _kind(config: LanguageConfig, *, encoder_decoder: bool) -> bool:
    """A model's kind, after refusing a key that it does not have."""
    if config.prefix_lm is not None and not encoder_decoder:
        raise ConfigError(
            f"`llm.prefix_lm` is a switch of encoder-decoder models, and {config.weights} is decoder-only; leave it out"
        )
    return encoder_decoder
