"""Sources → batches through torch's DataLoader, bit-equal for any number of workers.

Every choice made for a row is keyed by (seed, epoch, index), the row that stands in for a broken picture by
(seed, its place in the run, attempt). The keys reach the workers with the row, so one loader runs over all epochs
of a run and starts at any step. No global generator is touched.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from isthmus.data.broken import Bad, BrokenPictures
from isthmus.data.collate import Row, Tokenize, collate
from isthmus.data.lengths import caption_draws, chosen_caption
from isthmus.data.sampler import CounterSampler, Visit, sequential_batches
from isthmus.data.text import normalise
from isthmus.data.workers import ALONE, Workers, begin, prepared
from isthmus.errors import DataError, UserError
from isthmus.fingerprint import text_identity
from isthmus.randomness import uniform
from isthmus.records import Batch, Example, Source

_CROP = text_identity("crop of a picture")
_REFILL = text_identity("a row in place of a broken picture")
_ATTEMPTS = 100


@runtime_checkable
class Look(Protocol):
    """How a row sees its picture: stored patches (P V), or pixels (3 height width) from the file.

    It must be picklable and draw only from (its own seed, epoch, index).
    """

    def __call__(self, example: Example, index: int, epoch: int) -> Float[Tensor, "..."]:
        """Give the picture of row `index` of the source in an epoch; raises UserError for a bad one."""


def crop_draws(*key: int) -> tuple[float, ...]:
    """Draw the eight numbers in (0, 1) of one keyed random crop, for `Preprocessing.crop`."""
    return tuple(uniform(_CROP, *key, torch.arange(8)).tolist())


class Rows(Dataset[Row | UserError]):
    """Rows of a source, each with its picture as `look` gives it."""

    def __init__(self, source: Source, look: Look) -> None:
        self._source = source
        self._look = look

    def __len__(self) -> int:
        return len(self._source)

    def name(self, row: int) -> str:
        """What a row goes by in messages."""
        return f"row {row} ({self._source[row].image})"

    def _load(self, caption: int, row: int, epoch: int) -> Row | UserError:
        begin(row)
        example = self._source[row]
        try:
            vision = self._look(example, row, epoch)
        except UserError as error:
            return error
        question = normalise(example.questions[caption]) if example.questions else None
        words = normalise(example.captions[caption])
        return Row(vision, words, example.image_id, row, question=question, epoch=epoch)


class TrainingRows(Rows):
    """Rows for training: the picture as `look` gives it, and one of its captions by a keyed draw, with its question.

    With `refill`, another row stands in for one whose picture cannot be read, drawn among the rows of the same one of
    `spans`; without, the row is its DataError.
    """

    def __init__(
        self, source: Source, look: Look, *, seed: int, refill: bool = False, spans: Sequence[range] = ()
    ) -> None:
        super().__init__(source, look)
        self._seed = seed
        self._attempts = _ATTEMPTS if refill else 1
        self._spans = spans or (range(len(source)),)

    def __getitem__(self, visit: Visit) -> Row | UserError:
        bad: list[Bad] = []
        for attempt in range(self._attempts):
            index = self._another(visit, attempt) if attempt else visit.row
            row = self._visited(index, visit.epoch)
            if isinstance(row, Row):
                return replace(row, bad=tuple(bad), counted=visit.counted)
            if not isinstance(row, DataError):
                return row
            bad.append(Bad.of(self._source[index].image, row))
        return row

    def _visited(self, index: int, epoch: int) -> Row | UserError:
        draw = float(caption_draws(self._seed, epoch, index))
        return self._load(chosen_caption(self._source[index], draw), index, epoch)

    def _another(self, visit: Visit, attempt: int) -> int:
        span = next(span for span in self._spans if visit.row in span)
        return span[int(float(uniform(self._seed, _REFILL, visit.place, attempt)) * len(span))]


class EvaluationRows(Rows):
    """Rows for evaluation: the first caption and question; `look` should give the centre view (epoch 0 always)."""

    def __getitem__(self, visit: Visit) -> Row | UserError:
        return self._load(0, visit.row, visit.epoch)


class _StepKeys:
    """The keys of each step's rows, made as they are asked for."""

    def __init__(self, sampler: CounterSampler, steps: range) -> None:
        self._sampler = sampler
        self._steps = steps

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[list[Visit]]:
        return self._sampler.steps(self._steps.start, self._steps.stop)


@dataclass(frozen=True)
class _Loaded:
    """What a worker sends: a batch, how many pictures were met on the way to it, and the broken ones among them."""

    batch: Batch
    met: int
    bad: tuple[Bad, ...]


class _Collate:
    """Collate in the worker; a row's UserError travels as a value, since torch would rewrite its message."""

    def __init__(self, tokenize: Tokenize) -> None:
        self._tokenize = tokenize

    def __call__(self, rows: Iterable[Row | UserError]) -> _Loaded | UserError:
        good: list[Row] = []
        for row in rows:
            if isinstance(row, UserError):
                return row
            good.append(row)
        counted = [row for row in good if row.counted is not False]
        bad = tuple(one for row in counted for one in row.bad)
        return _Loaded(collate(good, tokenize=self._tokenize), len(counted) + len(bad), bad)


class Loader:
    """Batches for a fixed list of keyed batches; iterating again gives the same batches again.

    Raises, while iterating, the UserError of the first row that cannot be had, whichever worker met it, and the
    WorkerError of one that ended or hangs; `broken`, if given, is told of all pictures met, and may end the iteration.
    Workers end with the iteration, with `close`, or with this process.
    """

    def __init__(
        self,
        rows: Rows,
        batches: Sequence[list[Visit]] | _StepKeys,
        *,
        tokenize: Tokenize,
        workers: Workers,
        broken: BrokenPictures | None = None,
    ) -> None:
        self._rows = rows
        self._batches = batches
        self._collate = _Collate(tokenize)
        self._workers = workers
        self._broken = broken
        self._running: list[Generator[_Loaded | UserError, None, None]] = []

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        stream = prepared(self._rows, self._batches, collate=self._collate, workers=self._workers, name=self._rows.name)
        self._running.append(stream)
        try:
            for loaded in stream:
                if isinstance(loaded, UserError):
                    raise loaded
                if self._broken is not None:
                    self._broken.met(loaded.met, loaded.bad)
                yield loaded.batch
        finally:
            stream.close()
            self._running.remove(stream)

    def close(self) -> None:
        """End the workers of every iteration that has not come to its end, which it thereby does."""
        for stream in self._running:
            stream.close()


def make_loader(
    rows: TrainingRows,
    sampler: CounterSampler,
    *,
    steps: range,
    tokenize: Tokenize,
    workers: Workers = ALONE,
    broken: BrokenPictures | None = None,
) -> Loader:
    """Load this rank's batches for the global steps `steps`, across epochs; resume is a later start."""
    return Loader(rows, _StepKeys(sampler, steps), tokenize=tokenize, workers=workers, broken=broken)


def evaluation_loader(
    rows: EvaluationRows,
    batch: int,
    *,
    tokenize: Tokenize,
    share: tuple[int, int] = (0, 1),
    workers: Workers = ALONE,
) -> Loader:
    """Load every row once, in the source's order; `share` is (rank, world size); the last batch is kept."""
    indices = sequential_batches(len(rows), batch, share=share)
    keys = [[Visit(0, index) for index in batch_indices] for batch_indices in indices]
    return Loader(rows, keys, tokenize=tokenize, workers=workers)
