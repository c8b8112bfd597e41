"""Language models from a folder or the hub; weights must be there for every part."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from isthmus.errors import ConfigError, TowerError

_UNREADABLE = (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError)
_BLIP2, _BLIP2_KEYS = ("blip-2", "instructblip"), {r"^language_model\.": ""}
_MISPLACED = (*_UNREADABLE, TypeError, AttributeError)  # what transformers makes of a device_map of a wrong type


@contextmanager
def without_bars() -> Iterator[None]:
    """Hold transformers' progress bars back, downloads aside: a run has its own lines."""
    before = logging.set_tqdm_hook(lambda bar, given, options: bar(*given, **{**options, "disable": True}))
    try:
        yield
    finally:
        logging.set_tqdm_hook(before)


def is_encoder_decoder(name: str | Path, *, revision: str | None = None) -> bool:
    """Which kind a language model is, by its configuration; raises TowerError where there is none."""
    try:
        return bool(_described(name, revision)[0].is_encoder_decoder)
    except _UNREADABLE as error:
        raise _not_loaded(name) from error


def model_class(*, encoder_decoder: bool) -> Any:
    """The class of transformers that loads a language model of a kind."""
    return AutoModelForSeq2SeqLM if encoder_decoder else AutoModelForCausalLM


def load_language_model(
    name: str | Path,
    *,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    attn_implementation: str | None = None,
    activation: str | None = None,
    device_map: Any = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model, of the kind that its configuration says, and its tokenizer by folder or hub id.

    Of a whole BLIP-2 it is the language half. Code from the hub is never run.

    `activation` replaces that of a T5's feed-forwards, for a bridge that was trained so (LAVIS: exact GELU).
    `attn_implementation` None is transformers' choice; on a CPU "eager" trains faster (DESIGN 3).
    `device_map` places the model as it is loaded, in transformers' words.
    Raises TowerError where the model is not found, or has no weights for a part; ConfigError where it cannot be placed.
    """
    expected = _UNREADABLE if device_map is None else _MISPLACED
    kind = model_class(encoder_decoder=is_encoder_decoder(name, revision=revision))
    try:
        config, keys = _described(name, revision)
        _activate(config, activation, name)
        with without_bars():
            tokenizer = AutoTokenizer.from_pretrained(str(name), revision=revision)
            model, report = kind.from_pretrained(
                str(name),
                config=config,
                key_mapping=keys,
                revision=revision,
                dtype=dtype,
                attn_implementation=attn_implementation,
                device_map=device_map,
                output_loading_info=True,
            )
    except expected as error:
        raise (_not_loaded(name) if device_map is None else _not_placed(name, device_map, error)) from error
    check_whole(report, f"language model {str(name)!r}")
    return model, tokenizer


@dataclass(frozen=True)
class Described:
    """What is known of a language model without its weights."""

    name: str
    config: Any
    tokenizer: PreTrainedTokenizerBase

    @property
    def encoder_decoder(self) -> bool:
        """Which kind it is."""
        return bool(self.config.is_encoder_decoder)


def describe_language_model(name: str, revision: str | None) -> Described:
    """Read a model's configuration and tokenizer; raises TowerError where one is not found."""
    try:
        config, _ = _described(name, revision)
        return Described(name, config, AutoTokenizer.from_pretrained(name, revision=revision))
    except _UNREADABLE as error:
        raise _not_loaded(name) from error


def empty_language_model(
    described: Described,
    *,
    dtype: torch.dtype = torch.float32,
    attn_implementation: str | None = None,
    activation: str | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Make a model of its configuration, as `load_language_model` would load it, without its weights, for its sizes.

    Only where tensors have no storage (`shadow`): the weights would be random.
    """
    _activate(described.config, activation, described.name)
    kind = model_class(encoder_decoder=described.encoder_decoder)
    model: PreTrainedModel = kind.from_config(described.config, dtype=dtype, attn_implementation=attn_implementation)
    return model, described.tokenizer


def _described(name: str | Path, revision: str | None) -> tuple[Any, dict[str, str] | None]:
    """A language model's configuration, and how its keys are found in the weights: those of a BLIP-2 lie deeper."""
    config = AutoConfig.from_pretrained(str(name), revision=revision)
    return (config.text_config, _BLIP2_KEYS) if config.model_type in _BLIP2 else (config, None)


def _activate(config: Any, activation: str | None, name: str | Path) -> None:
    if activation is None:
        return
    if not hasattr(config, "dense_act_fn"):
        raise ConfigError(
            f"`llm.activation` is a switch of T5 models, and {name} is of type {config.model_type}; leave it out"
        )
    config.dense_act_fn = activation


def check_whole(report: dict[str, Any], what: str) -> None:
    """Refuse a model of which a part had no weights: transformers would draw them at random."""
    if report["missing_keys"]:
        raise TowerError(f"{what} has no weights for {sorted(report['missing_keys'])[0]!r}.")


def _not_loaded(name: str | Path) -> TowerError:
    return TowerError(
        f"language model {str(name)!r} cannot be loaded: give a folder that holds a causal or encoder-decoder language"
        " model and its tokenizer, or the id of one on a hub that can be reached or is cached."
    )


def _not_placed(name: str | Path, device_map: Any, error: Exception) -> ConfigError:
    """Its configuration could be read, so that the place is the likelier fault; the reason tells."""
    reason = str(error).strip().partition("\n")[0].rstrip(".")
    return ConfigError(
        f"language model {str(name)!r} cannot be loaded with device_map={device_map!r} ({reason}); give 'auto', a "
        "device such as 'cpu' or 'cuda:0' or a dict of them, as in transformers, or leave it out"
    )
