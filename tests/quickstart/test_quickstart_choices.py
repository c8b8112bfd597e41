import pytest
import torch

from isthmus.data.collate import caption_identity
from isthmus.quickstart.choices import captions_shown, drawings_asked, grade, keyed_order, names_asked
from isthmus.records import Identity, Text
from isthmus.tasks.caption import Caption
from isthmus.tasks.retrieval import Embedded

NAMES = ("apple", "pear", "plum", "fig", "date", "kiwi", "lime")
PICTURES = [f"artist/{name}.png" for name in NAMES]


def embedded(similarity):
    """Pictures and texts whose cosine (picture, text) is this matrix: texts are the axes."""
    count = len(similarity)
    rows = torch.tensor(similarity, dtype=torch.float32)
    words = Text(torch.arange(count)[:, None], torch.ones(count, 1, dtype=torch.bool))
    own = Identity(torch.arange(count), caption_identity(words))
    return Embedded(rows[:, None], torch.eye(count), words, NAMES, torch.arange(count), own)


def shifted(by):
    """Each picture is most like the text that stands `by` places after its own, then its own, then the rest."""
    count = len(NAMES)
    matrix = [[0.01 * (count - t) for t in range(count)] for _ in range(count)]
    for i in range(count):
        matrix[i][i] = 0.5
        matrix[i][(i + by) % count] = 0.9
    return matrix


def test_a_keyed_order_is_a_permutation_of_its_own_for_each_purpose():
    orders = [keyed_order(50, purpose) for purpose in ("names", "drawings", "captions")]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert keyed_order(50, "names") == orders[0]


def test_names_are_asked_in_the_keyed_order_and_the_right_drawing_is_marked():
    strips = names_asked(embedded(shifted(0)), PICTURES, count=3)
    assert [strip.name for strip in strips] == [NAMES[n] for n in keyed_order(len(NAMES), "names")[:3]]
    for strip in strips:
        assert strip.place == 1 and strip.picture is None and len(strip.nearest) == 5
        assert [found.right for found in strip.nearest] == [True] + [False] * 4
        assert strip.nearest[0].picture == f"artist/{strip.name}.png"
        assert strip.nearest[0].cosine == pytest.approx(0.9)


def test_a_drawing_whose_name_is_second_says_so():
    strips = drawings_asked(embedded(shifted(2)), PICTURES, count=2)
    for strip in strips:
        asked = NAMES.index(strip.name)
        assert strip.picture == PICTURES[asked]
        assert strip.place == 2
        assert [found.name for found in strip.nearest[:2]] == [NAMES[(asked + 2) % len(NAMES)], strip.name]
        assert [found.right for found in strip.nearest[:2]] == [False, True]


def test_a_right_one_that_is_not_among_the_nearest_keeps_its_place():
    matrix = [[0.5] * len(NAMES) for _ in NAMES]
    for i in range(len(NAMES)):
        matrix[i][i] = 0.1
    strips = drawings_asked(embedded(matrix), PICTURES, count=1)
    assert strips[0].place == len(NAMES)
    assert not any(found.right for found in strips[0].nearest)


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("face with a hat", "right"),
        ("The Face, with hat!", "right"),
        ("a happy face", "near"),
        ("house with a garden", "wrong"),
        ("", "wrong"),
    ],
)
def test_a_caption_is_graded_by_the_rule_on_the_page(said, wanted):
    assert grade(Caption(said, ("face with hat",), "x")) == wanted


def test_any_reference_makes_a_caption_right_or_near():
    assert grade(Caption("cab", ("taxi", "cab"), "x")) == "right"
    assert grade(Caption("yellow cab", ("taxi", "cab"), "x")) == "near"


def test_the_first_of_each_grade_are_shown_and_all_are_counted():
    said = ["apple", "green pear", "stone", "fig", "dry date", "sand", "lime"]
    captions = [Caption(text, (name,), name) for text, name in zip(said, NAMES, strict=True)]
    counts, shown = captions_shown(captions, PICTURES, count=1)
    assert counts == {"right": 3, "near": 2, "wrong": 2}
    assert {name: len(rows) for name, rows in shown.items()} == {"right": 1, "near": 1, "wrong": 1}
    first = next(n for n in keyed_order(len(NAMES), "captions") if n in (1, 4))
    assert (shown["near"][0].picture, shown["near"][0].name) == (PICTURES[first], NAMES[first])
