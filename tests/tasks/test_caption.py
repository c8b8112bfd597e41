import pytest
import torch

from bridges import rows_of, tiny_batch
from captioned import Captioned
from isthmus.tasks.caption import NORMALISER, Caption, caption_all, exact, normal_form, normalised, pictured


def test_every_picture_is_captioned_in_order_with_all_its_references():
    batch = tiny_batch()
    parts = [rows_of(batch, slice(0, 3)), rows_of(batch, slice(3, 4))]
    source = Captioned([("a  cat", "cat"), ("dog",), ("cow",), ("a", "b", "c")], ["x", "y", "x", "z"])
    captioner = lambda patches: [f"{row.sum():.3f}" for row in patches]  # noqa: E731
    found = caption_all(captioner, parts, source, device=torch.device("cpu"))
    assert [caption.said for caption in found] == [f"{row.sum():.3f}" for row in batch.vision]
    assert [caption.references for caption in found] == [("a cat", "cat"), ("dog",), ("cow",), ("a", "b", "c")]
    same = pictured(found)
    assert same[0] == same[2] and len(set(same.tolist())) == 3


def hits(match, *pairs):
    return match([Caption(text, tuple(references), "x") for text, *references in pairs]).tolist()


def test_an_exact_match_leaves_case_and_outer_white_space_aside():
    pairs = [("A red Boat ", "a red boat"), ("red boat", "a red boat"), ("", "x"), ("two  cats", "two cats")]
    assert hits(exact, *pairs) == [True, False, False, False]


def test_any_of_several_references_will_do():
    assert hits(exact, ("cat", "dog", "cat"), ("cow", "dog", "cat")) == [True, False]
    assert hits(normalised, ("The cat", "dog", "a cat!"), ("cow", "dog", "a cat!")) == [True, False]


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("A red Boat.", "red boat"),
        ("the  cat, an apple\u2028and a the", "cat apple and"),
        ("man's best-friend", "mans best friend"),
        ("man\u2019s", "mans"),
        ("\ufb01re", "fire"),
        ("theatre anthem", "theatre anthem"),
        ("“crème brûlée”!", "crème brûlée"),
        ("...", ""),
        ("A", ""),
    ],
)
def test_the_normal_form_of_version_1(text, form):
    assert NORMALISER == 1
    assert normal_form(text) == form
    assert normal_form(form) == form


def test_two_empty_forms_are_no_match():
    assert hits(normalised, ("...", "!"), ("", "a"), ("a", "the")) == [False] * 3
    assert hits(exact, (" ", " ")) == [False]


def test_no_captions_are_no_hits():
    assert exact([]).tolist() == normalised([]).tolist() == pictured([]).tolist() == []
