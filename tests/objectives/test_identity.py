import torch

from isthmus.objectives.identity import same_thing
from isthmus.records import Identity

ROWS = Identity(image=torch.tensor([7, 8, 7]), caption=torch.tensor([1, 2, 3]))
EVERYONE = Identity(image=torch.tensor([9, 7, 8, 7]), caption=torch.tensor([2, 1, 2, 3]))


def test_image_or_caption():
    same = same_thing(ROWS, EVERYONE, offset=1, policy="image_or_caption")
    assert same.int().tolist() == [[0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1]]


def test_image_only():
    same = same_thing(ROWS, EVERYONE, offset=1, policy="image")
    assert same.int().tolist() == [[0, 1, 0, 1], [0, 0, 1, 0], [0, 1, 0, 1]]


def test_off_is_the_diagonal_of_this_ranks_rows():
    same = same_thing(ROWS, EVERYONE, offset=1, policy="off")
    assert same.int().tolist() == [[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
