"""GGUF files, unpacked once into plain model folders."""

import copy
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoTokenizer,
    modeling_gguf_pytorch_utils,
)
from transformers.utils.quantization_config import GgufConfig

from isthmus.errors import TowerError
from isthmus.fingerprint import file_sha256
from isthmus.language.load import Described, check_whole, model_class, without_bars

_SIZES = "unpacked.json"


def gguf_to_folder(gguf_file: Path, cache_folder: Path, *, dtype: torch.dtype = torch.float32) -> Path:
    """Unpack a GGUF file into a plain model folder, once, and return that folder.

    The folder is named by the file's sha256 and the dtype, and appears whole or not at all; one that lost something
    since is made again. A model loaded from GGUF cannot be saved, so its tensors are copied into a fresh model of the
    same configuration. Raises TowerError where the file is missing or transformers cannot read it.
    """
    if not gguf_file.is_file():
        raise TowerError(f"GGUF file {gguf_file} does not exist.")
    precision = str(dtype).removeprefix("torch.")
    folder = cache_folder / f"{gguf_file.stem}-{file_sha256(gguf_file)[:16]}-{precision}"
    if _is_whole(folder):
        return folder
    cache_folder.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=cache_folder))
    try:
        _unpack(gguf_file, scratch, dtype)
        sizes = {path.name: path.stat().st_size for path in scratch.iterdir()}
        (scratch / _SIZES).write_text(json.dumps(sizes), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        scratch.rename(folder)
    except OSError:
        if not _is_whole(folder):  # another process may have been faster
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def describe_gguf(gguf_file: Path) -> Described:
    """Read a GGUF file's configuration and tokenizer, and none of its weights; raises TowerError where it cannot."""
    place = _place(gguf_file)
    with _one_sentence(gguf_file):
        config, tokenizer = AutoConfig.from_pretrained(**place), AutoTokenizer.from_pretrained(**place)
    return Described(str(gguf_file), _mended(config), tokenizer)


def _is_whole(folder: Path) -> bool:
    """Whether every file that was unpacked is there in its size."""
    try:
        sizes = json.loads((folder / _SIZES).read_text(encoding="utf-8"))
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def _unpack(gguf_file: Path, folder: Path, dtype: torch.dtype) -> None:
    place = _place(gguf_file)
    with _one_sentence(gguf_file), without_bars(), _without_gguf_bar():
        kind = model_class(encoder_decoder=AutoConfig.from_pretrained(**place).is_encoder_decoder)
        tokenizer = AutoTokenizer.from_pretrained(**place)
        packed, report = kind.from_pretrained(
            **place, dtype=dtype, quantization_config=GgufConfig(dequantize=True), output_loading_info=True
        )
    check_whole(report, f"GGUF file {gguf_file}")
    config = _mended(copy.deepcopy(packed.config))
    config.dtype = dtype
    plain = type(packed)(config).to(dtype)
    plain.load_state_dict(packed.state_dict())
    plain.generation_config = packed.generation_config
    with without_bars():
        plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _place(gguf_file: Path) -> dict[str, Any]:
    return {"pretrained_model_name_or_path": str(gguf_file.parent), "gguf_file": gguf_file.name}


@contextmanager
def _one_sentence(gguf_file: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a file that is broken or of an unknown kind fails in any way, deep in the reader
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise TowerError(
            f"GGUF file {gguf_file} cannot be read as a language model ({reason}): give one of an architecture that "
            "transformers knows, or the model's own folder."
        ) from error


def _mended(config: Any) -> Any:
    """The configuration of the plain model: not quantised, and with the activation that the format does not name."""
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    if getattr(config, "is_gated_act", False) and config.feed_forward_proj == "relu":
        # transformers takes ReLU; every gated T5 has GELU
        config.feed_forward_proj, config.dense_act_fn = "gated-gelu", "gelu_new"
    return config


@contextmanager
def _without_gguf_bar() -> Iterator[None]:
    """Hold back the one bar that transformers' own switch does not reach."""
    bar = modeling_gguf_pytorch_utils.tqdm
    modeling_gguf_pytorch_utils.tqdm = lambda tensors, **_: tensors
    try:
        yield
    finally:
        modeling_gguf_pytorch_utils.tqdm = bar
