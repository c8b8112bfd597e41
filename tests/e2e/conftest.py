"""Both stages of tiny models, trained once for all tests of the commands that use a trained bridge."""

import pytest

from command_line import isthmus, tiny_recipes


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder with pictures/, the recipes one.yaml and two.yaml, and their runs one/ and two/."""
    place = tmp_path_factory.mktemp("trained")
    for recipe in tiny_recipes(place):
        assert isthmus("train", recipe, "train.steps=2", "train.evaluate_every=null", "data.evaluation=null") == 0
    return place
