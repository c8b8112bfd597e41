"""What a feature store is made for: the key that must match, and the records of its files."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from isthmus.errors import StoreError
from isthmus.fingerprint import module_fingerprint
from isthmus.vision.encoder import Encoder

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Views:
    """What is kept of each picture: `count` views in `dtype`, of which view 0 is the centre.

    Views 1 and up are crops keyed by (seed, view, picture), with an area share in `scale`, mirrored half of
    the time with `flip`, their colours changed by up to `colour`.
    """

    count: int = 1
    dtype: str = "float32"
    seed: int = 0
    scale: tuple[float, float] = (0.5, 1.0)
    flip: bool = False
    colour: float = 0.0

    def __post_init__(self) -> None:
        if self.count < 1:
            raise StoreError(f"A feature store keeps at least one view of a picture, not {self.count}.")
        if self.dtype not in DTYPES:
            raise StoreError(f"A feature store cannot hold {self.dtype!r}; choose one of {', '.join(DTYPES)}.")

    @property
    def torch_dtype(self) -> torch.dtype:
        """`dtype` as torch's own."""
        return DTYPES[self.dtype]


@dataclass(frozen=True)
class StoreKey:
    """All that the numbers in a store depend on, but the pictures."""

    encoder: str
    hidden_layer: int | None
    weights: str
    preprocessing: Mapping[str, Any]
    views: Views

    def fields(self) -> dict[str, Any]:
        """Every field by name, as JSON gives it back; what draws the crops counts only where there are any."""
        flat: dict[str, Any] = {
            "dtype": self.views.dtype,
            "encoder": self.encoder,
            "hidden layer": self.hidden_layer,
            "weights fingerprint": self.weights,
            "preprocessing": dict(self.preprocessing),
            "number of views": self.views.count,
        }
        if self.views.count > 1:
            flat |= {"view seed": self.views.seed, "scale": self.views.scale, "flip": self.views.flip}
            flat["colour"] = self.views.colour
        return dict(json.loads(json.dumps(flat)))


def store_key(encoder: Encoder, views: Views) -> StoreKey:
    """Make the key of a store for this encoder; hashes all its weights."""
    weights = module_fingerprint(encoder)
    return StoreKey(encoder.address, encoder.hidden_layer, weights, encoder.preprocessing.as_json(), views)


def refuse_mismatch(stored: Mapping[str, Any], wanted: StoreKey, where: str) -> None:
    """Raise StoreError naming the first field in which a stored key differs from the wanted one."""
    for name, value in wanted.fields().items():
        if stored.get(name) != value:
            raise StoreError(
                f"{where}: the stored {name} is {stored.get(name)!r} but {value!r} is wanted; "
                "use another folder or delete this one."
            )


@dataclass(frozen=True)
class Sizes:
    """The two axes that the encoder decides: P patches of width V."""

    patches: int
    width: int

    def row_bytes(self, views: Views) -> int:
        """Bytes that one picture takes in a store."""
        return views.count * self.patches * self.width * views.torch_dtype.itemsize


@dataclass(frozen=True)
class Shard:
    """One file of a store: the pictures in it, in the order of their rows, by the sha256 of their bytes."""

    file: str
    sha256: str
    size: int
    images: tuple[str, ...]


FORMAT = 1


@dataclass(frozen=True)
class Manifest:
    """What a store says of itself; a finished shard's sidecar is a manifest of that one shard."""

    key: Mapping[str, Any]
    sizes: Sizes
    shards: tuple[Shard, ...] = ()

    def locations(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """Yield each picture's hash with its (shard, row)."""
        for number, shard in enumerate(self.shards):
            yield from ((image, (number, row)) for row, image in enumerate(shard.images))

    def to_json(self) -> str:
        """Write as JSON, with the format's version."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1)

    @staticmethod
    def from_json(text: str, where: str) -> "Manifest":
        """Read what `to_json` wrote; raises StoreError, beginning with `where`, for anything else."""
        try:
            read = json.loads(text)
            version = read["format"]
            if version == FORMAT:
                shards = (Shard(**{**shard, "images": tuple(shard["images"])}) for shard in read["shards"])
                return Manifest(dict(read["key"]), Sizes(**read["sizes"]), tuple(shards))
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{where}: the file is damaged ({error}); delete the store and extract again.") from error
        raise StoreError(
            f"{where}: the store has format {version!r} and this version reads {FORMAT}; "
            "extract again into another folder."
        )
