"""Content hashes: files by sha256, tensors and captions by blake2b."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def file_sha256(path: Path) -> str:
    """Hash a file's bytes, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensors_fingerprint(
    tensors: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]], *, rounded: torch.dtype | None = None
) -> str:
    """Hash names, dtypes, shapes and bytes of tensors, in the order of their names, as hex.

    `rounded` hashes floating-point values as they are in that dtype, one tensor at a time. A tensor that is shared out
    over ranks is gathered for its turn, so that every rank must call with the same names.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(dict(tensors).items()):
        tensor = (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()
        tensor = tensor.to(rounded) if rounded and tensor.is_floating_point() else tensor
        flat = tensor.cpu().contiguous()
        digest.update(f"{name}|{flat.dtype}|{tuple(flat.shape)}|".encode())
        digest.update(flat.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def module_fingerprint(module: nn.Module) -> str:
    """Hash a module's whole state, buffers included: the proof that a tower is unchanged."""
    return tensors_fingerprint(module.state_dict())


def weights_fingerprint(module: nn.Module) -> str:
    """Hash which weights a module holds, whether it was loaded in fp32 or in bf16: all floats count as bf16.

    A bridge knows its towers by it, so that one trained in bf16 can be used in fp32.
    """
    return tensors_fingerprint(module.state_dict(), rounded=torch.bfloat16)


def text_identity(text: str) -> int:
    """Hash a string to a signed 64-bit integer, for identity in tensors; names that no UTF-8 can hold have one too."""
    content = text.encode(errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big", signed=True)
