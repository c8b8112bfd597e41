"""Prompts: example lines, JSON and what is refused."""

import json

import pytest

from isthmus.errors import ConfigError
from isthmus.language.prompts import Prompt


def test_example_lines_stand_before():
    prompt = Prompt(before="A picture of:").with_examples(["red apple", "taxi"])
    assert prompt.before == "A picture of: red apple\nA picture of: taxi\nA picture of:"
    assert Prompt(before="x").with_examples([]) == Prompt(before="x")


def test_json_round_trip():
    prompt = Prompt(before="a", after="b", caption_prefix="", end="|", bos="after_soft_prompt")
    assert Prompt.from_json(json.loads(json.dumps(prompt.as_json()))) == prompt


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="not white space"):
        Prompt(caption_prefix="Caption:")
    with pytest.raises(ConfigError, match="bos 'last'"):
        Prompt.from_json({"bos": "last"})
    with pytest.raises(ConfigError, match="no field 'suffix'"):
        Prompt.from_json({"suffix": "x"})
    with pytest.raises(ConfigError, match="end mark"):
        Prompt(end="").with_examples(["x"])
