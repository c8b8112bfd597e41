"""Embeddings of any number of pictures and texts in one safetensors file, written as they come.

Rows wait in scratch files beside their place and are put together at the end, so that memory holds one batch and no
half file ever stands under the name. The header says which row is whose: `images` and `texts` in the metadata are
JSON lists of names, in the order of the rows of the tensors of these names.
"""

import json
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from jaxtyping import Float
from torch import Tensor

from isthmus.errors import ConfigError, UserError
from isthmus.files import check_place, write_atomically


@dataclass
class _Rows:
    """The rows of one tensor: their names, their common shape, and the file that they wait in."""

    file: BinaryIO
    names: list[str] = field(default_factory=list)
    shape: tuple[int, ...] = ()


@contextmanager
def _scratch(folder: Path) -> Iterator[BinaryIO]:
    """A file without a name that is gone when it is closed."""
    with tempfile.TemporaryFile(dir=folder) as file:
        yield file


class EmbeddingFile:
    """Looks at the place at once; raises UserError where it cannot be written, ConfigError where a file stands."""

    def __init__(self, path: Path, *, overwrite: bool) -> None:
        if path.is_dir():
            raise ConfigError(f"{path} is a folder; name a file such as embeddings.safetensors")
        if path.exists() and not overwrite:
            raise ConfigError(f"{path} is there already; choose another output, or give --overwrite")
        check_place(path)
        self.path = path
        self._rows: dict[str, _Rows] = {}
        self._scratch = ExitStack()

    def __enter__(self) -> "EmbeddingFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._scratch.close()

    def add(self, kind: str, names: Sequence[str], rows: Float[Tensor, "B ..."]) -> None:
        """Keep some rows of the tensor `kind`; raises UserError where the disk is full."""
        try:
            if kind not in self._rows:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                file = self._scratch.enter_context(_scratch(self.path.parent))
                self._rows[kind] = _Rows(file)
            kept = self._rows[kind]
            kept.file.write(rows.float().cpu().contiguous().numpy().tobytes())
        except OSError as problem:
            raise self._refused(problem) from problem
        kept.names.extend(names)
        kept.shape = tuple(rows.shape[1:])

    def finish(self, metadata: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
        """Give the file its name; the shapes of its tensors. Raises UserError where the disk is full."""
        try:
            write_atomically(self.path, lambda scratch: self._write(scratch, metadata))
        except OSError as problem:
            raise self._refused(problem) from problem
        return {kind: (len(kept.names), *kept.shape) for kind, kept in self._rows.items()}

    def _write(self, path: Path, metadata: Mapping[str, str]) -> None:
        """Write the safetensors format: the header's length in 8 bytes, the header as JSON, the numbers."""
        names = {kind: json.dumps(kept.names) for kind, kept in self._rows.items()}
        header: dict[str, Any] = {"__metadata__": {**metadata, **names}}
        end = 0
        for kind, kept in self._rows.items():
            start, end = end, end + kept.file.seek(0, os.SEEK_END)
            header[kind] = {"dtype": "F32", "shape": [len(kept.names), *kept.shape], "data_offsets": [start, end]}
        content = json.dumps(header).encode()
        content += b" " * (-len(content) % 8)
        with path.open("wb") as file:
            file.write(struct.pack("<Q", len(content)) + content)
            for kept in self._rows.values():
                kept.file.seek(0)
                shutil.copyfileobj(kept.file, file)

    def _refused(self, problem: OSError) -> UserError:
        return UserError(f"{self.path} cannot be written ({problem.strerror}); free space, or choose another output")
