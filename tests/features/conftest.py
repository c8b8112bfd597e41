import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def pictures(tmp_path):
    generator = np.random.default_rng(0)
    paths = [tmp_path / f"{index}.png" for index in range(5)]
    for path in paths:
        Image.fromarray(generator.integers(0, 255, (12, 10, 3), dtype=np.uint8)).save(path)
    return paths
