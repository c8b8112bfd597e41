"""Sources → batches through torch's DataLoader, bit-equal for any number of workers.

Every choice made for a row is keyed by (seed, epoch, index), the row that stands in for a broken picture by
(seed, its place in the run, attempt). The keys reach the workers with the row, so one loader runs over all epochs
of a run and starts at any step. No global generator is touched.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from isthmus.data.broken import Bad, BrokenPictures
from isthmus.data.collate import Row, Tokenize, collate
from isthmus.data.lengths import caption_draws, chosen_caption
from isthmus.data.sampler import CounterSampler, Visit, sequential_batches
from isthmus.data.text import normalise
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


@dataclass(frozen=True)
class Workers:
    """Processes that prepare batches: 0 prepares in this one. `timeout` (seconds) ends a hung worker."""

    count: int = 0
    timeout: float = 300.0


def crop_draws(*key: int) -> tuple[float, ...]:
    """Draw the eight numbers in (0, 1) of one keyed random crop, for `Preprocessing.crop`."""
    return tuple(uniform(_CROP, *key, torch.arange(8)).tolist())


class TrainingRows(Dataset[Row | UserError]):
    """Rows for training: the picture as `look` gives it, and one of its captions by a keyed draw, with its question.

    With `refill`, another row stands in for one whose picture cannot be read, drawn among the rows of the same one of
    `spans`; without, the row is its DataError.
    """

    def __init__(
        self, source: Source, look: Look, *, seed: int, refill: bool = False, spans: Sequence[range] = ()
    ) -> None:
        self._source = source
        self._look = look
        self._seed = seed
        self._attempts = _ATTEMPTS if refill else 1
        self._spans = spans or (range(len(source)),)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, visit: Visit) -> Row | UserError:
        bad: list[Bad] = []
        for attempt in range(self._attempts):
            index = self._another(visit, attempt) if attempt else visit.row
            row = self._row(index, visit.epoch)
            if not isinstance(row, DataError):
                return replace(row, bad=tuple(bad)) if bad and isinstance(row, Row) else row
            bad.append(Bad.of(self._source[index].image, row))
        return row

    def _row(self, index: int, epoch: int) -> Row | UserError:
        example = self._source[index]
        caption = chosen_caption(example, float(caption_draws(self._seed, epoch, index)))
        return _row(example, caption, self._look, Visit(epoch, index))

    def _another(self, visit: Visit, attempt: int) -> int:
        span = next(span for span in self._spans if visit.row in span)
        return span[int(float(uniform(self._seed, _REFILL, visit.place, attempt)) * len(span))]


class EvaluationRows(Dataset[Row | UserError]):
    """Rows for evaluation: the first caption and question; `look` should give the centre view (epoch 0 always)."""

    def __init__(self, source: Source, look: Look) -> None:
        self._source = source
        self._look = look

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, visit: Visit) -> Row | UserError:
        return _row(self._source[visit.row], 0, self._look, visit)


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
    """What a worker sends: a batch, and the broken pictures met on the way to it."""

    batch: Batch
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
        bad = tuple(one for row in good for one in row.bad)
        return _Loaded(collate(good, tokenize=self._tokenize), bad)


class Loader:
    """Batches for a fixed list of keyed batches; iterating again gives the same batches again.

    Raises, while iterating, the UserError of the first row that cannot be had, whichever worker met it; `broken`, if
    given, is told of all pictures met, and may end the iteration.
    """

    def __init__(
        self,
        rows: Dataset[Row | UserError],
        batches: Sequence[list[Visit]] | _StepKeys,
        *,
        tokenize: Tokenize,
        workers: Workers,
        broken: BrokenPictures | None = None,
    ) -> None:
        self._batches = batches
        self._broken = broken
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
        for loaded in self._loader:
            if isinstance(loaded, UserError):
                raise loaded
            if self._broken is not None:
                self._broken.met(len(loaded.batch) + len(loaded.bad), loaded.bad)
            yield loaded.batch


def make_loader(
    rows: TrainingRows,
    sampler: CounterSampler,
    *,
    steps: range,
    tokenize: Tokenize,
    workers: Workers = Workers(),
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
    workers: Workers = Workers(),
) -> Loader:
    """Load every row once, in the source's order; `share` is (rank, world size); the last batch is kept."""
    indices = sequential_batches(len(rows), batch, rank=share[0], world_size=share[1])
    keys = [[Visit(0, index) for index in batch_indices] for batch_indices in indices]
    return Loader(rows, keys, tokenize=tokenize, workers=workers)


def _row(example: Example, caption: int, look: Look, visit: Visit) -> Row | UserError:
    try:
        vision = look(example, visit.row, visit.epoch)
    except UserError as error:
        return error
    question = normalise(example.questions[caption]) if example.questions else None
    words = normalise(example.captions[caption])
    return Row(vision, words, example.image_id, visit.row, question=question, epoch=visit.epoch)
