"""A tiny encoder that counts its calls, for the tests of the feature store."""

import torch

from isthmus.data.image import open_image
from isthmus.features.encode import Work
from isthmus.vision.encoder import Encoder, Preprocessing

P, V = 4, 3
TWO_ROWS = Work(batch=2, shard_bytes=2 * P * V * 4)


class FakeEncoder(Encoder):
    """Means over quadrants; counts its calls and the pictures it saw, and fails at a given call."""

    def __init__(self, fail_at=None, error=RuntimeError, gain=1.0):
        super().__init__()
        self.width = V
        self.address = "fake:quadrants"
        self.preprocessing = Preprocessing(8, (0.5,) * 3, (0.5,) * 3)
        self.gain = torch.nn.Parameter(torch.tensor(gain))
        self.calls = self.seen = 0
        self.fail_at = fail_at
        self.error = error

    def encode(self, pixels):
        self.calls += 1
        if self.calls == self.fail_at:
            raise self.error()
        self.seen += len(pixels)
        return torch.nn.functional.adaptive_avg_pool2d(pixels, 2).flatten(2).transpose(1, 2) * self.gain


def patches_of(path, encoder, draws=None, **options):
    picture = open_image(path)
    prepare = encoder.preprocessing
    pixels = prepare.centre(picture) if draws is None else prepare.crop(picture, draws, **options)
    return encoder(pixels[None])[0]
