"""Config → sources, feature store and loaders."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from isthmus import distributed
from isthmus.build.precision import Compute
from isthmus.config.data import FeaturesConfig, SourceConfig
from isthmus.config.run import RunConfig
from isthmus.data.broken import BrokenPictures
from isthmus.data.folder import ImageFolder
from isthmus.data.hashes import known_hashes
from isthmus.data.loader import EvaluationRows, Loader, Look, TrainingRows, evaluation_loader, make_loader
from isthmus.data.mixture import Mixture, Part
from isthmus.data.questions import check_questions
from isthmus.data.sampler import CounterSampler
from isthmus.data.screen import verdicts
from isthmus.data.sidecar import SidecarFolder
from isthmus.data.split import split_by_picture
from isthmus.data.table import HUB, Columns, TableSource
from isthmus.data.things import refuse_one_thing
from isthmus.data.workers import Workers
from isthmus.errors import DataError
from isthmus.features.encode import Work
from isthmus.features.extract import Progress, extract
from isthmus.features.key import Views, store_key
from isthmus.features.pixels import PixelLook
from isthmus.features.store import FeatureStore, StoredLook
from isthmus.records import Batch, Batches, PictureBytes, Source, Text
from isthmus.vision.encoder import Encoder

Tokenize = Callable[[Sequence[str]], Text]


@dataclass(frozen=True)
class Sources:
    """What a run trains on, and what it is scored on, if anything."""

    train: Mixture
    evaluation: Mixture | None

    def both(self) -> list[Mixture]:
        """Those there are."""
        return [self.train] if self.evaluation is None else [self.train, self.evaluation]


def open_source(config: SourceConfig, *, check_files: bool = True) -> Source:
    """Read a source's metadata; `check_files` looks for every picture that is a file."""
    if config.kind == "table":
        columns = Columns(config.image_column, config.text_column, config.id_column, config.question_column)
        return TableSource(_table(config), config.split, columns, check_files=check_files)
    folder = _folder(config)
    if config.kind == "sidecar":
        return SidecarFolder(folder)
    return ImageFolder(folder, config.metadata, check_files=check_files)


def open_sources(config: RunConfig) -> Sources:
    """Read the metadata of all of a run's sources, and hold pictures out where the config names a share.

    Raises `DataError` for what is wrong in them. Files are looked for only where a missing one ends the run.
    """
    train = _mixture(config.data.sources, config)
    if config.stage == 1 and config.objectives.identity != "off":
        refuse_one_thing(train, captions=config.objectives.identity == "image_or_caption")
    if config.data.held_out is not None:
        return Sources(*split_by_picture(train, config.data.held_out))
    evaluation = config.data.evaluation
    return Sources(train, None if evaluation is None else _mixture([evaluation], config))


def open_held_out(config: RunConfig) -> Mixture | None:
    """Read the metadata of what a run is scored on, if anything; a source of its own needs no training pictures."""
    if config.data.evaluation is None:
        return open_sources(config).evaluation if config.data.held_out is not None else None
    return _mixture([config.data.evaluation], config)


def _mixture(sources: Sequence[SourceConfig], config: RunConfig) -> Mixture:
    check_files = config.data.broken == "error"
    parts = [Part(_name(source), open_source(source, check_files=check_files), source.weight) for source in sources]
    for part in parts:
        check_questions(part, stage=config.stage, instruct=config.bridge.instruct)
    return Mixture(parts)


def _name(config: SourceConfig) -> str:
    """What tells sources apart: the same folder with other metadata has the same pictures."""
    return _table(config) if config.kind == "table" else str(_folder(config))


def _folder(config: SourceConfig) -> Path:
    return Path(config.folder or "").expanduser()


def _table(config: SourceConfig) -> str:
    table = config.table or ""
    return table if table.startswith(HUB) else str(Path(table).expanduser())


def broken_pictures(config: RunConfig) -> BrokenPictures:
    """What a run does with pictures that cannot be read."""
    data = config.data
    everyone = [*data.sources, *([data.evaluation] if data.evaluation else [])]
    folders = [Path(_table(one)).parent if one.kind == "table" else _folder(one) for one in everyone]
    output = Path(config.output)
    return BrokenPictures(data.broken, rate=data.broken_rate, output=output, folders=folders)


@dataclass(frozen=True)
class Looks:
    """How rows see their pictures: from the store, or from the files where there is none."""

    config: FeaturesConfig
    encoder: Encoder
    store: FeatureStore | None
    broken: BrokenPictures
    workers: Workers = field(default_factory=Workers)

    def usable(self, source: Mixture, *, training: bool) -> Mixture:
        """A source without the pictures that cannot be read, where the config lets these pass.

        With a store, those are not in it. From pixels, held-out pictures are all tried, since each counts; a training
        row gets another picture when it comes to a broken one.
        """
        if not self.broken.tolerated or (training and self.store is None):
            return source
        kept = self._readable(source) if self.store is None else self._stored(source)
        if not any(kept):
            raise DataError(f"{source.parts[0].name}: no picture can be read; {self.broken.file} says why.")
        return source.keep(kept)

    def _stored(self, source: Source) -> list[bool]:
        assert self.store is not None
        return [image is not None and image in self.store for image in known_hashes(pictures(source))]

    def _readable(self, source: Source) -> list[bool]:
        readable = []
        for verdict in verdicts(pictures(source), self.workers):
            readable.append(verdict is None)
            if distributed.rank() == 0:
                self.broken.met(1, [verdict] if verdict else [])
        self.broken.judge()
        return readable

    def __call__(self, source: Source, *, seed: int | None) -> Look:
        """Bind to a source; with a seed for training, without for evaluation."""
        if self.store is not None:
            return StoredLook(self.store, source, seed=seed)
        given, prepare = self.config, self.encoder.preprocessing
        return PixelLook(prepare, seed=seed, scale=(given.scale_min, 1.0), flip=given.flip, colour=given.colour)

    def patches(self, batches: Batches) -> Batches:
        """The same batches with patches in them: stored ones as they are, pixels through the frozen encoder."""
        return _Encoded(batches, self.encoder) if self.store is None else batches


def pictures(source: Source) -> list[Path | PictureBytes]:
    """Every row's picture."""
    return [source[index].image for index in range(len(source))]


@dataclass(frozen=True)
class _Encoded:
    """Batches of pixels that the encoder turns into patches on its own device, one batch at a time."""

    batches: Batches
    encoder: Encoder

    def close(self) -> None:
        """End the processes that load pixels."""
        self.batches.close()

    def __iter__(self) -> Iterator[Batch]:
        device = next(self.encoder.parameters()).device
        for batch in self.batches:
            yield replace(batch, vision=self.encoder(batch.vision.to(device, non_blocking=True)))


def store_views(features: FeaturesConfig, compute: Compute) -> Views:
    """What a store keeps of each picture, as the config says, in the run's precision."""
    scale = (features.scale_min, 1.0)
    return Views(features.views, compute.dtype_name, features.seed, scale, features.flip, features.colour)


def open_looks(
    config: RunConfig, encoder: Encoder, sources: Sequence[Source], compute: Compute, *, progress: Progress
) -> Looks:
    """Encode what the store still lacks of some sources, and open it; or see pixels where the config names none.

    Raises `StoreError` where the store was made with another encoder, other views or another precision.
    """
    features, broken, workers = config.features, broken_pictures(config), _workers(config)
    if features.folder is None:
        return Looks(features, encoder, None, broken, workers)
    folder = Path(features.folder).expanduser()
    views = store_views(features, compute)
    distributed.wait()  # until all have read their sources: the first may move broken pictures away
    if distributed.rank() == 0:
        images = [image for source in sources for image in pictures(source)]
        work = Work(batch=features.batch_size, workers=workers, broken=broken)
        extract(images, encoder, folder=folder, views=views, work=work, progress=progress)
    distributed.wait()
    return Looks(features, encoder, FeatureStore.open(folder, store_key(encoder, views)), broken, workers)


def training_loader(
    source: Mixture, look: Look, config: RunConfig, *, tokenize: Tokenize, broken: BrokenPictures, start: int = 0
) -> tuple[Loader, int]:
    """This rank's micro-batches of a run from optimizer step `start` to its end, and how many an epoch has.

    Close the loader at the end: its workers end with it.
    """
    sampler, tolerant = _sampler(source, config), broken.tolerated
    rows = TrainingRows(source, look, seed=config.seed, refill=tolerant, spans=source.spans)
    steps = range(start * config.train.accumulation, config.train.steps * config.train.accumulation)
    watch = broken if tolerant else None
    loader = make_loader(rows, sampler, steps=steps, tokenize=tokenize, workers=_workers(config), broken=watch)
    return loader, sampler.batches_per_epoch


def drawn_rows(source: Mixture, config: RunConfig) -> list[dict[str, Any]]:
    """What a whole run draws from each of its sources, by the plan: rows, and how many different ones.

    A row whose picture is broken counts as drawn; bad_images.jsonl names it.
    """
    drawn = _sampler(source, config).drawn(config.train.steps * config.train.accumulation)
    return [
        {"source": part.name, "size": len(part.source), "rows_drawn": one.rows, "different_rows": one.examples}
        for part, one in zip(source.parts, drawn, strict=True)
    ]


def _sampler(source: Mixture, config: RunConfig) -> CounterSampler:
    train, share = config.train, (distributed.rank(), distributed.world_size())
    rows, keep = train.batch_size * share[1], train.last_batch == "keep"
    return source.sampler(rows, seed=config.seed, share=share, by_length=train.group_by_length, keep_last=keep)


def _workers(config: RunConfig) -> Workers:
    return Workers(config.data.workers, config.data.timeout)


def held_out_loader(source: Source, look: Look, *, tokenize: Tokenize, batch_size: int) -> Loader:
    """Every row of an evaluation source once, in order."""
    return evaluation_loader(EvaluationRows(source, look), batch_size, tokenize=tokenize)
