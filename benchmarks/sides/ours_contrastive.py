"""Our stage-1 step from the feature store, on one contrastive batch: whole, or in micro-batches and two passes."""

from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.numbered import NumberedPictures, key_of
from benchmarks.side import Side, serve, training_bytes
from benchmarks.sides.ours import make_trainer, read_bridge, read_compute
from benchmarks.sides.ours_epoch import tokens
from isthmus.data.loader import TrainingRows, make_loader
from isthmus.data.sampler import CounterSampler
from isthmus.features.key import Sizes
from isthmus.features.store import FeatureStore, StoredLook
from isthmus.models.stage1 import Stage1

_STEPS = 1000


class OursContrastive(Side):
    """One optimizer step on all pictures of the store."""

    def load(self, folder: Path, options: dict[str, Any]) -> dict[str, Any]:
        compute, bridge, batch = read_compute(options), read_bridge(folder), options["batch"]
        self.stage = Stage1(bridge, dec=bridge.sizes.vocabulary - 1)
        source, sizes = NumberedPictures(batch), Sizes(options["patches"], bridge.sizes.vision_width)
        store = FeatureStore.open(folder / "store", key_of(sizes, compute.dtype_name))
        look = StoredLook(store, source, seed=0)
        micro = options["micro"] if options["two"] else batch
        self.count, self.done = batch // micro, 0
        sampler, steps = CounterSampler(batch, micro, seed=0), range(_STEPS * self.count)
        self.batches = iter(make_loader(TrainingRows(source, look, seed=0), sampler, steps=steps, tokenize=tokens))
        reread = look.again if options["two"] else None
        self.trainer = make_trainer(self.stage, bridge, compute, accumulation=self.count, reread=reread)
        self.trainer.stage.train()
        return {"store_bytes": store.size, "trained": sum(p.numel() for p in bridge.parameters())}

    def step(self) -> None:
        self.trainer.step(islice(self.batches, self.count), self.done)
        self.done += 1

    def outcome(self) -> dict[str, Any]:
        return {"losses": self.trainer.meters.read()}

    def state_bytes(self) -> int:
        return training_bytes(self.stage, self.trainer.raw_optimizer)


if __name__ == "__main__":
    serve(OursContrastive())
