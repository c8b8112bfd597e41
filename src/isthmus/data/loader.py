"""Sources → batches through torch's DataLoader, bit-equal for any number of workers.

Every choice made for a row is keyed by (seed, epoch, index). The epoch reaches the workers inside the row's
key, so one loader runs over all epochs of a run and starts at any step. No global generator is touched.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from isthmus.data.collate import Row, Tokenize, collate
from isthmus.data.sampler import CounterSampler, sequential_batches
from isthmus.data.text import normalise
from isthmus.errors import UserError
from isthmus.fingerprint import text_identity
from isthmus.randomness import uniform
from isthmus.records import Batch, Example, Source

_CAPTION = text_identity("choice of a caption")
_CROP = text_identity("crop of a picture")

Key = tuple[int, int]
"""(epoch, index): what a worker is told about a row."""


@runtime_checkable
class Look(Protocol):
    """How a row sees its picture: stored patches (P V), or pixels (3 height width) from the file.

    It must be picklable and draw only from (its own seed, epoch, index).
    """

    def __call__(self, example: Example, index: int, epoch: int) -> Float[Tensor, "..."]:
        """Give the picture of row `index` of the source in an epoch; raises UserError for a bad one."""


@dataclass(frozen=True)
class Workers:
    """Processes that prepare batches: 0 prepares in this one. `timeout` (seconds) ends a hung worker."""

    count: int = 0
    timeout: float = 300.0


def crop_draws(*key: int) -> tuple[float, ...]:
    """Draw the five numbers in (0, 1) of one keyed random crop, for `Preprocessing.crop`."""
    return tuple(uniform(_CROP, *key, torch.arange(5)).tolist())


class TrainingRows(Dataset[Row | UserError]):
    """Rows for training: the picture as `look` gives it, and one of its captions by a keyed draw."""

    def __init__(self, source: Source, look: Look, *, seed: int) -> None:
        self._source = source
        self._look = look
        self._seed = seed

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, key: Key) -> Row | UserError:
        epoch, index = key
        example = self._source[index]
        draw = float(uniform(self._seed, _CAPTION, epoch, index))
        return _row(example, int(draw * len(example.captions)), self._look, key)


class EvaluationRows(Dataset[Row | UserError]):
    """Rows for evaluation: the first caption; `look` should give the centre view (the epoch is always 0)."""

    def __init__(self, source: Source, look: Look) -> None:
        self._source = source
        self._look = look

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, key: Key) -> Row | UserError:
        return _row(self._source[key[1]], 0, self._look, key)


class _StepKeys:
    """The keys of each step's rows, made as they are asked for."""

    def __init__(self, sampler: CounterSampler, steps: range) -> None:
        self._sampler = sampler
        self._steps = steps

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[list[Key]]:
        for epoch, indices in self._sampler.steps(self._steps.start, self._steps.stop):
            yield [(epoch, index) for index in indices]


class _Collate:
    """Collate in the worker; a row's UserError travels as a value, since torch would rewrite its message."""

    def __init__(self, tokenize: Tokenize) -> None:
        self._tokenize = tokenize

    def __call__(self, rows: Iterable[Row | UserError]) -> Batch | UserError:
        good: list[Row] = []
        for row in rows:
            if isinstance(row, UserError):
                return row
            good.append(row)
        return collate(good, tokenize=self._tokenize)


class Loader:
    """Batches for a fixed list of keyed batches; iterating again gives the same batches again.

    Raises, while iterating, the UserError of the first row that cannot be had, whichever worker met it.
    """

    def __init__(
        self,
        rows: Dataset[Row | UserError],
        batches: Sequence[list[Key]] | _StepKeys,
        *,
        tokenize: Tokenize,
        workers: Workers,
    ) -> None:
        self._batches = batches
        self._loader = DataLoader(
            rows,
            batch_sampler=batches,
            collate_fn=_Collate(tokenize),
            num_workers=workers.count,
            timeout=workers.timeout if workers.count else 0,
            generator=torch.Generator(),
        )

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._loader:
            if isinstance(batch, UserError):
                raise batch
            yield batch


def make_loader(
    rows: TrainingRows,
    sampler: CounterSampler,
    *,
    steps: range,
    tokenize: Tokenize,
    workers: Workers = Workers(),
) -> Loader:
    """Load this rank's batches for the global steps `steps`, across epochs; resume is a later start."""
    return Loader(rows, _StepKeys(sampler, steps), tokenize=tokenize, workers=workers)


def evaluation_loader(
    rows: EvaluationRows,
    batch: int,
    *,
    tokenize: Tokenize,
    share: tuple[int, int] = (0, 1),
    workers: Workers = Workers(),
) -> Loader:
    """Load every row once, in the source's order; `share` is (rank, world size); the last batch is kept."""
    indices = sequential_batches(len(rows), batch, rank=share[0], world_size=share[1])
    keys = [[(0, index) for index in batch_indices] for batch_indices in indices]
    return Loader(rows, keys, tokenize=tokenize, workers=workers)


def _row(example: Example, caption: int, look: Look, key: Key) -> Row | UserError:
    try:
        vision = look(example, key[1], key[0])
    except UserError as error:
        return error
    return Row(vision, normalise(example.captions[caption]), example.image_id, key[1])
