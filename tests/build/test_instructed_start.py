"""Where a bridge that reads questions starts from, and how its prompt and its projection start."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_going_on import LLAMA, names_in, saved, start, values

from bridges import tiny_batch
from decoders import llm, spelled
from fakes import tiny_bert_folder
from isthmus.build import stages
from isthmus.build.bridge import fresh_bridge
from isthmus.build.going_on import PROJECTION, stage1_from, stage2_from
from isthmus.build.stages import make_prompt, start_projection
from isthmus.config.model import BridgeConfig, LanguageConfig, PromptConfig
from isthmus.errors import CheckpointError
from isthmus.language.prompts import Prompt
from isthmus.models.stage2 import Stage2
from isthmus.qformer.masks import bidirectional
from isthmus.records import Example, Step, Text

INSTRUCT = BridgeConfig(instruct=True)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    bert = tiny_bert_folder(tmp_path_factory.mktemp("bert"))
    built = fresh_bridge(BridgeConfig(bert=f"folder:{bert}", queries=4, shared_width=8), 6, seed=0)
    return saved(built, tmp_path_factory.mktemp("one") / "run", 1)


@pytest.fixture(scope="module")
def asked(one, tmp_path_factory):
    return saved(stage2_from(start(one), INSTRUCT, LLAMA, language_width=16), tmp_path_factory.mktemp("asked") / "r", 2)


def test_from_stage_1_the_text_half_is_taken_and_lm_head_and_heads_are_left(one):
    built = stage2_from(start(one), INSTRUCT, LLAMA, language_width=16)
    assert built.fresh == set(PROJECTION) == names_in(built, "new")
    taken, left = names_in(built, "taken"), names_in(built, "left")
    assert {"qformer.text.words.weight", "qformer.text.positions.weight"} <= taken
    assert {f"qformer.layers.{n}.text_feed_forward.up.weight" for n in range(2)} <= taken
    assert left and all(name.startswith(("heads.", "qformer.text.head.")) for name in left)
    sizes = built.bridge.sizes
    assert (sizes.text, sizes.lm_head, sizes.shared_width, sizes.language_width) == (True, False, None, 16)


def test_all_that_learns_gets_a_gradient(one):
    built = stage2_from(start(one), INSTRUCT, LLAMA, language_width=16)
    tower = llm(prompt=Prompt(after="{question}"))
    stage = Stage2(built.bridge.double(), tower)
    batch = replace(tiny_batch(), questions=("a",) * 4, instruction=Text(torch.full((4, 3), 7), torch.ones(4, 3) > 0))
    stage(batch, Step(0, 0, 0.5))["lm"].mean().backward()
    frozen = {name for name, parameter in built.bridge.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, parameter in built.bridge.named_parameters() if parameter.grad is None}
    assert frozen and all(name.startswith("qformer.layers.1.text_feed_forward") for name in frozen)


def test_from_its_own_kind_everything_is_taken(asked):
    built = stage2_from(start(asked), INSTRUCT, LLAMA, language_width=16)
    assert built.fresh == frozenset() and not names_in(built, "left")
    assert set(map(tuple, values(built).values())) == {(2.0,)}


def test_a_plain_stage_2_from_it_leaves_the_text_half(asked):
    built = stage2_from(start(asked), BridgeConfig(), LLAMA, language_width=16)
    assert built.bridge.sizes.text is False and "qformer.text.words.weight" in names_in(built, "left")


def test_from_a_bridge_without_text_half_is_refused_by_name(one, tmp_path):
    plain = saved(stage2_from(start(one), BridgeConfig(), LLAMA, language_width=16), tmp_path / "two", 2)
    with pytest.raises(
        CheckpointError, match=rf"{plain} is a bridge of stage 2 that left the text half behind, and `br"
    ):
        stage2_from(start(plain), INSTRUCT, LLAMA, language_width=16)


def test_stage_1_from_it_is_refused_since_the_heads_are_gone(asked):
    with pytest.raises(
        CheckpointError, match="which leaves the heads behind, and stage 1 trains them; give the folder"
    ):
        stage1_from(start(asked), BridgeConfig(), seed=0)


def test_example_lines_are_questions_with_their_answers():
    source = [Example(Path("x.png"), str(n), (f"answer {n % 2}", "no"), (f"question {n % 2}?", "z")) for n in range(6)]
    prompt = PromptConfig(before="See:", after=" {question}", examples=2)
    found = make_prompt(LanguageConfig(weights="folder:x", prompt=prompt), source, seed=0)
    lines = {f"See: question {n}? answer {n}" for n in range(2)}
    assert {*found.before.split("\n")} == {*lines, "See:"} and found.asks
    assert make_prompt(LanguageConfig(weights="folder:x"), source, seed=0) == Prompt()


def test_the_projection_starts_from_states_that_have_read_the_question(one, monkeypatch):
    built = stage2_from(start(one), INSTRUCT, LLAMA, language_width=16)
    torch.manual_seed(0)
    for parameter in built.bridge.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    bridge, tower = built.bridge.double(), llm(prompt=Prompt(after="{question}"))
    words = Text(torch.tensor([[2, 7, 3], [2, 9, 3], [2, 3, 0], [2, 8, 3]]), torch.ones(4, 3) > 0)
    batch = replace(tiny_batch(), captions=("a", "bc", "d", "e"), questions=("x",) * 4, instruction=words)
    fitted = []
    monkeypatch.setattr(stages, "start_least_squares", lambda *given, **_: fitted.append(given[1:]))
    start_projection(
        Stage2(bridge, tower), INSTRUCT.model_copy(update={"projection": "least_squares"}), [batch], seed=0
    )
    ((states, targets),) = fitted
    expected = bridge.qformer(words, bidirectional(4, words.mask), batch.vision).queries
    assert torch.allclose(states, expected.float(), atol=1e-5)
    ids = torch.tensor([spelled(" bc\n")])
    assert torch.allclose(targets[1], tower.embed(ids)[0].float().mean(0), atol=1e-6)
