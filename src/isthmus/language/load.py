"""Causal language models from a folder, the hub or a GGUF file."""

import copy
import shutil
import struct
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.quantization_config import GgufConfig

from isthmus.errors import TowerError
from isthmus.fingerprint import file_sha256


def load_causal_lm(
    name: str | Path,
    *,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    attn_implementation: str | None = None,
    device_map: Any = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load model and tokenizer by folder or hub id; code from the hub is never run.

    `attn_implementation` None is transformers' choice; on a CPU "eager" trains faster (DESIGN 3).
    `device_map` places the model as it is loaded, in transformers' words.
    Raises TowerError where the model is not found, or has no weights for a part.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(name), revision=revision)
        model, report = AutoModelForCausalLM.from_pretrained(
            str(name),
            revision=revision,
            dtype=dtype,
            attn_implementation=attn_implementation,
            device_map=device_map,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise TowerError(
            f"language model {str(name)!r} cannot be loaded: give a folder that holds a causal language model and"
            " its tokenizer, or the id of one on a hub that can be reached or is cached."
        ) from error
    if report["missing_keys"]:
        raise TowerError(f"language model {str(name)!r} has no weights for {sorted(report['missing_keys'])[0]!r}.")
    return model, tokenizer


def gguf_to_folder(gguf_file: Path, cache_folder: Path, *, dtype: torch.dtype = torch.float32) -> Path:
    """Unpack a GGUF file into a plain model folder, once, and return that folder.

    The folder is named by the file's sha256 and the dtype, and appears whole or not at all. A model loaded from
    GGUF cannot be saved, so its tensors are copied into a fresh model of the same configuration.
    Raises TowerError where the file is missing or cannot be read.
    """
    if not gguf_file.is_file():
        raise TowerError(f"GGUF file {gguf_file} does not exist.")
    precision = str(dtype).removeprefix("torch.")
    folder = cache_folder / f"{gguf_file.stem}-{file_sha256(gguf_file)[:16]}-{precision}"
    if folder.is_dir():
        return folder
    cache_folder.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=cache_folder))
    try:
        _unpack(gguf_file, scratch, dtype)
        scratch.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _unpack(gguf_file: Path, folder: Path, dtype: torch.dtype) -> None:
    place: dict[str, Any] = {"pretrained_model_name_or_path": str(gguf_file.parent), "gguf_file": gguf_file.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(**place)
        packed = AutoModelForCausalLM.from_pretrained(
            **place, dtype=dtype, quantization_config=GgufConfig(dequantize=True)
        )
    except (OSError, ValueError, LookupError, ImportError, struct.error) as error:
        raise TowerError(f"GGUF file {gguf_file} cannot be read as a causal language model.") from error
    config = copy.deepcopy(packed.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.dtype = dtype
    plain = type(packed)(config).to(dtype)
    plain.load_state_dict(packed.state_dict())
    plain.generation_config = packed.generation_config
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
