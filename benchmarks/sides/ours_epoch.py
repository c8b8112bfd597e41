"""Our epoch of stage 1: patches read from the feature store as a run reads them, or the same batches from memory."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.encoder import ColourEncoder
from benchmarks.inputs import CLS, SEP
from benchmarks.side import Side, serve, training_bytes
from benchmarks.sides.ours import make_trainer, read_bridge, read_compute
from benchmarks.sides.ours_stage1 import SWITCHES
from isthmus.data.folder import ImageFolder
from isthmus.data.loader import TrainingRows, make_loader
from isthmus.data.sampler import CounterSampler
from isthmus.data.workers import Workers
from isthmus.features.key import Views, store_key
from isthmus.features.store import FeatureStore, StoredLook
from isthmus.models.stage1 import Stage1
from isthmus.records import Batch, Text


def tokens(captions: Sequence[str]) -> Text:
    """Captions of the words `wn`, word n by word n, between [CLS] and [SEP]."""
    rows = [[CLS, *(int(word[1:]) for word in caption.split()), SEP] for caption in captions]
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    return Text(ids, torch.arange(ids.shape[1]) < lengths[:, None])


class OursEpoch(Side):
    """One epoch, an optimizer step a batch."""

    def load(self, folder: Path, options: dict[str, Any]) -> dict[str, Any]:
        compute, bridge = read_compute(options), read_bridge(folder)
        self.stage = Stage1(bridge, dec=bridge.sizes.vocabulary - 1, options=SWITCHES)
        encoder = ColourEncoder(options["patches"], bridge.sizes.vision_width)
        source = ImageFolder(folder / "pictures")
        store = FeatureStore.open(folder / "store", store_key(encoder, Views(dtype=compute.dtype_name)))
        rows = TrainingRows(source, StoredLook(store, source, seed=0), seed=0)
        sampler = CounterSampler(len(source), options["batch"], seed=0)
        steps = range(sampler.batches_per_epoch)
        loader = make_loader(rows, sampler, steps=steps, tokenize=tokens, workers=Workers(options["workers"]))
        self.batches: Iterable[Batch] = list(loader) if options["memory"] else loader
        self.trainer, self.done = make_trainer(self.stage, bridge, compute), 0
        self.trainer.stage.train()
        return {"batches": len(steps), "store_bytes": store.size}

    def step(self) -> None:
        for batch in self.batches:
            self.trainer.step([batch], self.done)
            self.done += 1

    def outcome(self) -> dict[str, Any]:
        return {"losses": self.trainer.meters.read()}

    def state_bytes(self) -> int:
        return training_bytes(self.stage, self.trainer.raw_optimizer)


if __name__ == "__main__":
    serve(OursEpoch())
