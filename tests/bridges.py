"""A tiny bridge in fp64 with every parameter redrawn, and batches for it."""

from dataclasses import replace

import torch
from torch.nn import functional as F

from isthmus.models.bridge import Bridge
from isthmus.qformer.layer import Dropouts
from isthmus.records import Batch, BridgeSizes, Identity, Text

SIZES = {
    "vision_width": 6,
    "width": 8,
    "layers": 3,
    "heads": 2,
    "feed_forward_width": 12,
    "queries": 2,
    "vocabulary": 19,
    "positions": 16,
    "shared_width": 5,
}
CLS, SEP, DEC = 2, 3, 18


def redraw(module, seed=0):
    """Draw every parameter anew, LayerNorms and biases included: zeros and ones hide errors."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)


def tiny_bridge(dropout=0.0, **sizes):
    bridge = Bridge(BridgeSizes(**{**SIZES, **sizes}), Dropouts(dropout, dropout, dropout)).double()
    redraw(bridge)
    if bridge.heads is not None and bridge.heads.temperature is not None:
        bridge.heads.temperature.data.fill_(0.2)
    return bridge


def tiny_batch(lengths=(5, 3, 4, 6), *, images=None, captions=None, seed=1, patches=4):
    """Rows of patches and text [CLS] ... [SEP]; `images` and `captions` say which rows are the same thing."""
    rows, width, generator = len(lengths), max(lengths), torch.Generator().manual_seed(seed)
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    ids = torch.randint(4, DEC, (rows, width), generator=generator) * mask
    ids[:, 0] = CLS
    ids[torch.arange(rows), torch.tensor(lengths) - 1] = SEP
    images, captions = images or range(rows), captions or range(rows)
    return Batch(
        vision=torch.randn(rows, patches, SIZES["vision_width"], generator=generator, dtype=torch.float64),
        captions=tuple(f"caption {number}" for number in captions),
        text=Text(ids, mask),
        identity=Identity(torch.tensor(list(images)), torch.tensor(list(captions))),
        index=torch.arange(rows) + 10,
        epoch=torch.zeros(rows, dtype=torch.long),
    )


def rows_of(batch, rows):
    """Some rows of a batch, their text cut to the longest of them, as another rank would hold them."""
    width = int(batch.text.mask[rows].sum(1).max())
    return Batch(
        vision=batch.vision[rows],
        captions=batch.captions[rows],
        text=Text(batch.text.ids[rows, :width], batch.text.mask[rows, :width]),
        identity=Identity(batch.identity.image[rows], batch.identity.caption[rows]),
        index=batch.index[rows],
        epoch=None if batch.epoch is None else batch.epoch[rows],
    )


def filled(batch, rows, size):
    """Rows of a batch and copies of one of them, up to `size`, that do not count; copies of row 0 if there are none."""
    take = torch.tensor([*rows, *[next(iter(rows), 0)] * (size - len(rows))])
    part = Batch(
        vision=batch.vision[take],
        captions=tuple(batch.captions[row] for row in take.tolist()),
        text=batch.text.select(take).trimmed(),
        identity=Identity(batch.identity.image[take], batch.identity.caption[take]),
        index=batch.index[take],
        epoch=batch.epoch[take],
    )
    return replace(part, counted=torch.arange(size) < len(rows))


def one_batch(batches):
    """The rows of several batches in one."""
    width = max(batch.text.ids.shape[1] for batch in batches)
    texts = [F.pad(torch.stack([b.text.ids, b.text.mask.long()]), (0, width - b.text.ids.shape[1])) for b in batches]
    ids, mask = torch.cat(texts, dim=1)
    counted = [batch.counted for batch in batches]
    return Batch(
        vision=torch.cat([batch.vision for batch in batches]),
        captions=tuple(caption for batch in batches for caption in batch.captions),
        text=Text(ids, mask.bool()),
        identity=Identity(*(torch.cat([getattr(b.identity, name) for b in batches]) for name in ("image", "caption"))),
        index=torch.cat([batch.index for batch in batches]),
        epoch=torch.cat([batch.epoch for batch in batches]),
        counted=None if counted.count(None) == len(counted) else torch.cat(counted),
    )
