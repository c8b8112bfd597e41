"""Compiled verbs are one graph each and compute what the plain ones do; traced here, not made into machine code."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def outcome():
    program = Path(__file__).parents[1] / "compiled_verbs.py"
    run = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout.splitlines()[-1])


def test_values_and_gradients_are_those_of_the_plain_verbs_for_texts_of_any_length(outcome):
    assert outcome["furthest"] < 1e-12
    assert outcome["names"]


def test_training_takes_one_graph_a_verb_and_shape_and_evaluation_none(outcome):
    assert outcome["evaluation"] == 0
    assert 4 <= outcome["graphs"] <= 8
