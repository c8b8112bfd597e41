"""Config → sources, feature store and loaders."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from isthmus import distributed
from isthmus.build.precision import Compute
from isthmus.config.data import FeaturesConfig, SourceConfig
from isthmus.config.run import RunConfig
from isthmus.data.folder import ImageFolder
from isthmus.data.loader import (
    EvaluationRows,
    Loader,
    Look,
    TrainingRows,
    Workers,
    evaluation_loader,
    make_loader,
)
from isthmus.data.sampler import CounterSampler
from isthmus.features.encode import Work
from isthmus.features.extract import Progress, extract
from isthmus.features.key import Views, store_key
from isthmus.features.pixels import PixelLook
from isthmus.features.store import FeatureStore, StoredLook
from isthmus.records import Batch, Source, Text
from isthmus.vision.encoder import Encoder

Tokenize = Callable[[Sequence[str]], Text]


def open_source(config: SourceConfig) -> Source:
    """Read a source's metadata."""
    return ImageFolder(Path(config.folder).expanduser(), config.metadata)


@dataclass(frozen=True)
class Looks:
    """How rows see their pictures: from the store, or from the files where there is none."""

    config: FeaturesConfig
    encoder: Encoder
    store: FeatureStore | None

    def __call__(self, source: Source, *, seed: int | None) -> Look:
        """Bind to a source; with a seed for training, without for evaluation."""
        if self.store is not None:
            return StoredLook(self.store, source, seed=seed)
        scale = (self.config.scale_min, 1.0)
        return PixelLook(self.encoder.preprocessing, seed=seed, scale=scale, flip=self.config.flip)

    def patches(self, batches: Iterable[Batch]) -> Iterable[Batch]:
        """The same batches with patches in them: stored ones as they are, pixels through the frozen encoder."""
        return _Encoded(batches, self.encoder) if self.store is None else batches


@dataclass(frozen=True)
class _Encoded:
    """Batches of pixels that the encoder turns into patches on its own device, one batch at a time."""

    batches: Iterable[Batch]
    encoder: Encoder

    def __iter__(self) -> Iterator[Batch]:
        device = next(self.encoder.parameters()).device
        for batch in self.batches:
            yield replace(batch, vision=self.encoder(batch.vision.to(device, non_blocking=True)))


def store_views(features: FeaturesConfig, compute: Compute) -> Views:
    """What a store keeps of each picture, as the config says, in the run's precision."""
    return Views(features.views, compute.dtype_name, features.seed, (features.scale_min, 1.0), features.flip)


def open_looks(
    config: RunConfig, encoder: Encoder, sources: Sequence[Source], compute: Compute, *, progress: Progress
) -> Looks:
    """Encode what the store still lacks of some sources, and open it; or see pixels where the config names none.

    Raises `StoreError` where the store was made with another encoder, other views or another precision.
    """
    features = config.features
    if features.folder is None:
        return Looks(features, encoder, None)
    folder = Path(features.folder).expanduser()
    views = store_views(features, compute)
    if distributed.rank() == 0:
        images = [source[index].image for source in sources for index in range(len(source))]
        work = Work(batch=features.batch_size, workers=Workers(config.data.workers))
        extract(images, encoder, folder=folder, views=views, work=work, progress=progress)
    distributed.wait()
    return Looks(features, encoder, FeatureStore.open(folder, store_key(encoder, views)))


def training_loader(source: Source, look: Look, config: RunConfig, *, tokenize: Tokenize) -> tuple[Loader, int]:
    """This rank's micro-batches of a whole run, and how many there are in an epoch."""
    world_size, train = distributed.world_size(), config.train
    sampler = CounterSampler(
        len(source),
        train.batch_size * world_size,
        seed=config.seed,
        rank=distributed.rank(),
        world_size=world_size,
    )
    rows = TrainingRows(source, look, seed=config.seed)
    steps, workers = range(train.steps * train.accumulation), Workers(config.data.workers)
    return make_loader(rows, sampler, steps=steps, tokenize=tokenize, workers=workers), sampler.batches_per_epoch


def held_out_loader(source: Source, look: Look, *, tokenize: Tokenize, batch_size: int, workers: int = 0) -> Loader:
    """Every row of an evaluation source once, in order."""
    rows = EvaluationRows(source, look)
    return evaluation_loader(rows, batch_size, tokenize=tokenize, workers=Workers(workers))
