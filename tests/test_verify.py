"""Published checks: what agrees, what differs and what is not there is said plainly."""

import json

import pytest
from PIL import Image

from blip2_models import conditional, retrieval, save_whole
from command_line import isthmus
from isthmus import Predictor, verify
from isthmus.build.imported import Towers, convert_in
from isthmus.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("published")
    for name, model in {"opt": conditional(), "itm": retrieval()}.items():
        convert_in(str(save_whole(model, root / f"{name}-theirs")), root / name, Towers())
    Image.new("RGB", (40, 30), (90, 20, 20)).save(root / "merlion.png")
    Image.new("RGB", (40, 30), (20, 20, 90)).save(root / "demo.jpg")
    return root


def test_unknown_weights_and_missing_pictures_are_told(place, tmp_path):
    with pytest.raises(ConfigError, match=r"nothing is known of 'blip3'; published are the numbers of blip2-opt-2.7b"):
        verify.checks_of("blip3", place)
    with pytest.raises(DataError, match=r"lacks demo\.jpg"):
        verify.checks_of("blip2-opt-2.7b", tmp_path)


@pytest.mark.parametrize(
    ("weights", "folder", "checks"),
    [("blip2-opt-2.7b", "opt", 1), ("blip2-opt-2.7b-coco", "opt", 1), ("blip2-itm-vit-g", "itm", 2)],
)
def test_random_weights_differ_and_the_command_says_so(place, weights, folder, checks, capfd):
    assert isthmus("verify", weights, place, "--model", place / folder, "--device", "cpu") == 2
    shown = capfd.readouterr()
    assert shown.out.count("published  ") == shown.out.count("DIFFERS") == checks
    assert f"{checks} of {checks} checks differ from what was published of {weights}" in shown.err


def test_what_was_published_agrees(place, monkeypatch, capfd):
    """The published numbers replaced by those of the tiny models."""
    predictor = Predictor.from_pretrained(place / "itm", device="cpu")
    known = [
        verify.Check(check.what, check.picture, check.ask, check.ask(predictor, place / check.picture))
        for check in verify.PUBLISHED["blip2-itm-vit-g"]
    ]
    monkeypatch.setattr(verify, "PUBLISHED", {"tiny": tuple(known)})
    assert isthmus("verify", "tiny", place, "--model", place / "itm", "--device", "cpu", "--json") == 0
    told = json.loads(capfd.readouterr().out)
    assert [check["agrees"] for check in told["checks"]] == [True, True]
    assert told["checks"][0]["published"] == told["checks"][0]["here"]


@pytest.mark.parametrize(
    ("found", "published", "agrees"),
    [(0.44101, 0.4406, True), (0.443, 0.4406, False), ("a", "a", True), ("A", "a", False), (0.5, "a", False)],
)
def test_numbers_agree_within_a_thousandth_and_captions_to_the_letter(found, published, agrees):
    check = verify.Check("x", "y", lambda predictor, picture: published, published)
    assert verify.Outcome(check, found).agrees == agrees
