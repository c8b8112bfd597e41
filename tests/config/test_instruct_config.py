"""The one switch of instruction-aware training, and what has to agree with it."""

import pytest
from test_run_config import STAGE1, STAGE2

from isthmus.config import model
from isthmus.config.run import check, put
from isthmus.errors import ConfigError
from isthmus.language import prompts

ASKED = put(STAGE2, {"bridge.instruct": True, "llm.prompt.after": " Question: {question} Answer:"})


def test_it_is_off_unless_asked_for_and_can_be_written_out():
    assert check(STAGE2, "here").bridge.instruct is False
    config = check(ASKED, "here")
    assert config.bridge.instruct is True
    assert check(config.model_dump(mode="json"), "there") == config
    assert config.given()["bridge"] == {"instruct": True}


@pytest.mark.parametrize(
    ("content", "values", "message"),
    [
        (STAGE1, {"bridge.instruct": True}, "`bridge.instruct` is a key of stage 2; leave it out of stage 1"),
        (
            STAGE2,
            {"bridge.instruct": True},
            "asks the language model too: give `llm.prompt.after` the place of",
        ),
        (
            ASKED,
            {"bridge.instruct": False},
            "`llm.prompt.after` holds {question}, which stands for the questions of",
        ),
        (ASKED, {"llm.prefix_lm": True}, "`llm.prefix_lm` splits captions, and with `bridge.instruct` the encoder rea"),
        (ASKED, {"data.train": {"folder": "a", "question_column": "q"}}, "`question_column` says nothing about a sour"),
    ],
)
def test_what_does_not_agree_is_refused(content, values, message):
    with pytest.raises(ConfigError) as caught:
        check(put(content, values), "here")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_model_that_splits_nothing_may_say_so():
    assert check(put(ASKED, {"llm.prefix_lm": False}), "here").llm.prefix_lm is False


def test_the_place_of_a_question_is_called_the_same_in_a_config_and_in_a_prompt():
    assert model.QUESTION == prompts.QUESTION
