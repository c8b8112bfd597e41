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
    for prompt in (
        Prompt(before="a", after="b", caption_prefix="", end="|", bos="after_soft_prompt", bos_token="</s>"),
        Prompt(chat=True, turns=("<user>", "<model>", "<end>")),
    ):
        assert Prompt.from_json(json.loads(json.dumps(prompt.as_json()))) == prompt
    older = Prompt.from_json({"before": "an older folder's", "end": "\n"})
    assert older.turns is None and older.bos_token is None


def test_what_is_left_to_the_kind_of_model_is_filled_in_once():
    filled = Prompt(before="x", end="|").resolved(caption_prefix=" ", end="\n")
    assert (filled.caption_prefix, filled.end, filled.before) == (" ", "|", "x")
    assert filled.resolved(caption_prefix="", end="") == filled


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="not white space"):
        Prompt(caption_prefix="Caption:")
    for given in ({"end": "x"}, {"caption_prefix": " "}, {"bos": "after_soft_prompt"}, {"bos_token": "</s>"}):
        with pytest.raises(ConfigError, match=f"prompt's `{next(iter(given))}` is the chat template's own affair"):
            Prompt(chat=True, **given)
    with pytest.raises(ConfigError, match="bos 'last'"):
        Prompt.from_json({"bos": "last"})
    with pytest.raises(ConfigError, match="no field 'suffix'"):
        Prompt.from_json({"suffix": "x"})
    with pytest.raises(ConfigError, match="end mark"):
        Prompt(end="").with_examples(["x"])
