"""The contract: preprocessing as a pure function of picture and draws."""

import json

import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from isthmus.errors import TowerError
from isthmus.vision.encoder import Preprocessing

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
PLAIN_COLOURS = (0.5, 0.5, 0.5)


def picture(width=40, height=20):
    """Red grows to the right, green downwards: a view tells where it was cut."""
    red = (torch.arange(width) * 255 // width).expand(height, width)
    green = (torch.arange(height)[:, None] * 255 // height).expand(height, width)
    return v2.functional.to_pil_image(torch.stack([red, green, red * 0]).to(torch.uint8))


def test_the_centre_view_is_timms_resize_then_cut():
    preprocessing = Preprocessing(size=14, crop_share=0.875, **PLAIN)
    stock = v2.Compose(
        [
            v2.Resize(16, interpolation=v2.InterpolationMode.BICUBIC),
            v2.CenterCrop(14),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    assert torch.equal(preprocessing.centre(picture()), stock(picture()))


def test_squash_keeps_the_whole_picture_and_normalises():
    view = Preprocessing(size=8, squash=True, mean=(0.5,) * 3, std=(0.25,) * 3).centre(picture())
    assert view.shape == (3, 8, 8)
    assert torch.allclose(view[2], torch.full((8, 8), -2.0))
    assert view[0, 0, 0] < -1.6
    assert view[0, 0, -1] > 1.6


@pytest.mark.parametrize("size", [(4, 85), (85, 4), (3, 100), (101, 3)])
def test_a_strips_centre_view_is_that_of_the_whole_strip(size):
    """Beyond 16:1 the ends are cut off first, which must not show."""
    preprocessing = Preprocessing(size=14, crop_share=0.875, **PLAIN)
    whole = v2.functional.resize(picture(*size), 16, v2.InterpolationMode.BICUBIC)
    whole = v2.functional.to_dtype(v2.functional.pil_to_tensor(whole), torch.float32, scale=True)
    assert (preprocessing.centre(picture(*size)) - v2.functional.center_crop(whole, [14, 14])).abs().max() < 0.02


@pytest.mark.parametrize("squash", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (1, 10_000), (10_000, 1), (65_535, 1)])
def test_odd_sizes_pass_every_way_of_preprocessing(size, squash):
    preprocessing = Preprocessing(size=224, crop_share=0.875, squash=squash, **PLAIN)
    image = Image.new("RGB", size, (255, 0, 51))
    wanted = torch.tensor([1.0, 0.0, 0.2])[:, None, None].expand(3, 224, 224)
    assert torch.allclose(preprocessing.centre(image), wanted)
    for draws in [(0.001,) * 8, (0.999,) * 8, (0.5, 0.001, 0.999, 0.5, 0.5, 0.5, 0.5, 0.5)]:
        assert torch.allclose(preprocessing.crop(image, draws, flip=True), wanted)


def test_a_crop_is_a_pure_function_of_its_draws():
    preprocessing = Preprocessing(size=8, **PLAIN)
    corner = preprocessing.crop(picture(), (0.0, 0.5, 0.001, 0.001, 0.9, *PLAIN_COLOURS), flip=True)
    assert torch.equal(corner, preprocessing.crop(picture(), (0.0, 0.5, 0.001, 0.001, 0.9, *PLAIN_COLOURS), flip=True))
    far = preprocessing.crop(picture(), (0.0, 0.5, 0.999, 0.999, 0.9, *PLAIN_COLOURS), flip=True)
    mirrored = preprocessing.crop(picture(), (0.0, 0.5, 0.001, 0.001, 0.1, *PLAIN_COLOURS), flip=True)
    assert corner[0].mean() < far[0].mean()
    assert torch.equal(mirrored, corner.flip(-1))
    assert torch.equal(preprocessing.crop(picture(), (0.0, 0.5, 0.001, 0.001, 0.1, *PLAIN_COLOURS), flip=False), corner)


def test_a_crops_colours_follow_their_draws():
    preprocessing = Preprocessing(size=2, **PLAIN)
    image, place = Image.new("RGB", (8, 8), (200, 100, 50)), (0.999, 0.5, 0.5, 0.5, 0.9)

    def seen(*factors, colour=0.5):
        return (255 * preprocessing.crop(image, (*place, *factors), flip=False, colour=colour)[:, 0, 0]).tolist()

    assert seen(0.5, 0.5, 0.5) == seen(0.1, 0.2, 0.3, colour=0.0) == pytest.approx([200, 100, 50])
    assert seen(0.0, 0.5, 0.5) == pytest.approx([100, 50, 25], abs=1)  # half as bright
    grey = 0.299 * 200 + 0.587 * 100 + 0.114 * 50
    half = [(value + grey) / 2 for value in (200, 100, 50)]
    assert seen(0.5, 0.0, 0.5) == pytest.approx(half, abs=1)  # half the contrast, about the mean grey
    assert seen(0.5, 0.5, 0.0) == pytest.approx(half, abs=1)  # half the saturation; of one colour it is the same
    assert seen(0.5, 0.5, 1.0) == pytest.approx([value + (value - grey) / 2 for value in (200, 100, 50)], abs=1)


def test_a_crop_of_any_draws_stays_inside_and_its_area_follows_the_draw():
    preprocessing = Preprocessing(size=4, **PLAIN)
    for draws in torch.rand(50, 8, generator=torch.Generator().manual_seed(0)).tolist():
        assert preprocessing.crop(picture(3, 50), draws, flip=True).shape == (3, 4, 4)
    rest = (0.5, 0.5, 0.5, 0.9, *PLAIN_COLOURS)
    spans = [preprocessing.crop(picture(64, 64), (area, *rest), flip=False)[0] for area in (0.001, 0.999)]
    narrow, wide = ((span.max() - span.min()).item() for span in spans)
    assert narrow / wide == pytest.approx(0.5**0.5, abs=0.1)


def test_what_cannot_be_done_is_refused():
    with pytest.raises(TowerError, match="lanczos"):
        Preprocessing(size=8, interpolation="lanczos", **PLAIN)
    with pytest.raises(TowerError, match="crop_share"):
        Preprocessing(size=8, crop_share=1.5, **PLAIN)
    with pytest.raises(ValueError, match="8 draws"):
        Preprocessing(size=8, **PLAIN).crop(Image.new("RGB", (8, 8)), (0.5,), flip=False)


def test_it_is_json():
    record = Preprocessing(size=8, **PLAIN).as_json()
    assert json.loads(json.dumps(record)) == record
    assert record["mean"] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("size", [(10_000, 1), (1, 10_000), (1, 1), (3, 200)])
@pytest.mark.parametrize("squash", [True, False])
def test_a_picture_of_any_shape_has_its_views(size, squash):
    preprocessing = Preprocessing(size=16, crop_share=0.875, squash=squash, **PLAIN)
    image = Image.new("RGB", size, (255, 0, 0))
    for view in (preprocessing.centre(image), preprocessing.crop(image, (0.5,) * 8, flip=True)):
        assert view.shape == (3, 16, 16)
        assert torch.equal(view[0], torch.ones(16, 16)) and not view[1:].any()


def test_of_a_very_long_picture_the_middle_is_seen():
    """Cutting first is what resizing all of it and cutting then would give, but for the grid of pixels."""
    image = picture(width=2000, height=20)
    view = Preprocessing(size=16, **PLAIN).centre(image)
    whole = v2.functional.resize(image, [16], v2.InterpolationMode.BICUBIC)
    middle = v2.functional.to_dtype(v2.functional.pil_to_tensor(v2.functional.center_crop(whole, [16, 16])), scale=True)
    assert torch.allclose(view, middle, atol=0.02)
    assert view[0].std() < 0.01
