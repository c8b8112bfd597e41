"""Accelerate keeps one state for a whole process: the precision that another room's test chose is not this room's."""

import pytest
from accelerate.state import AcceleratorState


@pytest.fixture(autouse=True)
def _no_state_before():
    AcceleratorState._reset_state(reset_partial_state=True)
