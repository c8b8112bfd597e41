"""One file for both stages: what is shared, what is a stage's own, which override wins, and what is refused."""

import pytest
import yaml

from isthmus.config.run import load_config
from isthmus.config.stages import load_stages
from isthmus.errors import ConfigError

BOTH = {
    "output": "runs/own",
    "data": {"train": {"folder": "pictures"}},
    "encoder": {"kind": "timm", "name": "vit"},
    "train": {"batch_size": 4, "lr": 1e-3},
    "stage1": {"bridge": {"bert": "folder:bert", "queries": 8}, "train": {"steps": 10}},
    "stage2": {"llm": {"weights": "folder:llama"}, "train": {"steps": 5, "batch_size": 2}},
}


@pytest.fixture
def load(tmp_path):
    def load(content, *overrides, only=None):
        path = tmp_path / "own.yaml"
        path.write_text(yaml.safe_dump(content))
        return load_stages(path, list(overrides), only=only)

    return load


def without(key, **more):
    return {**{name: value for name, value in BOTH.items() if name != key}, **more}


def test_each_stage_is_the_shared_keys_with_its_own_over_them(load):
    stages = load(BOTH)
    one, two = stages.runs
    assert stages.in_turn and (one.stage, two.stage) == (1, 2)
    assert (one.output, two.output) == ("runs/own/stage1", "runs/own/stage2")
    assert (one.train.steps, one.train.batch_size, one.train.lr) == (10, 4, 1e-3)
    assert (two.train.steps, two.train.batch_size, two.train.lr) == (5, 2, 1e-3)
    assert (one.bridge.queries, two.bridge.bert, one.init, one.llm) == (8, None, None, None)
    assert two.init.folder == "runs/own/stage1"
    assert one.encoder == two.encoder and one.data == two.data


def test_one_stage_alone(load):
    assert [run.stage for run in load(BOTH, only=2).runs] == [2]
    assert load(BOTH, only=2).runs[0] == load(BOTH).runs[1]
    assert [run.stage for run in load(without("stage2")).runs] == [1]
    with pytest.raises(ConfigError, match=r"own\.yaml has no section `stage2:`; leave --stage out or write one"):
        load(without("stage2"), only=2)


def test_a_second_stage_alone_says_what_it_starts_from(load):
    with pytest.raises(ConfigError, match=r"own\.yaml, stage2: stage 2 needs `init\.from`"):
        load(without("stage1"))
    assert load(without("stage1"), "stage2.init.from=runs/other").runs[0].init.folder == "runs/other"


@pytest.mark.parametrize(
    ("overrides", "batches"),
    [
        ([], (4, 2)),
        (["train.batch_size=7"], (7, 7)),
        (["stage2.train.batch_size=7"], (4, 7)),
        (["stage1.train.batch_size=9", "train.batch_size=7"], (9, 7)),
    ],
)
def test_an_override_reaches_every_stage_and_a_stage_s_own_wins(load, overrides, batches):
    assert tuple(run.train.batch_size for run in load(BOTH, *overrides).runs) == batches


def test_another_output_moves_both_stages(load):
    one, two = load(BOTH, "output=elsewhere").runs
    assert (one.output, two.output, two.init.folder) == ("elsewhere/stage1", "elsewhere/stage2", "elsewhere/stage1")
    assert load(BOTH, "stage2.init.from=runs/b").runs[1].init.folder == "runs/b"


def test_a_file_of_one_run_is_that_run(load, tmp_path):
    content = {**without("stage2", stage=1), **BOTH["stage1"], "train": {"steps": 1, "batch_size": 2}}
    content.pop("stage1")
    stages = load(content, "train.steps=3")
    assert not stages.in_turn and stages.runs == (load_config(tmp_path / "own.yaml", ["train.steps=3"]),)
    assert load(content, only=1).runs[0].output == "runs/own"
    with pytest.raises(ConfigError, match=r"is a file of stage 1, not of stage 2; leave --stage out"):
        load(content, only=2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({**BOTH, "stage": 1}, "`stage` cannot be shared by both stages"),
        ({**BOTH, "init": {"from": "a"}}, "`init` cannot be shared by both stages; say `stage1.init.from`"),
        (without("output"), "the key `output` is missing"),
        ({**BOTH, "stage1": 3}, "`stage1` is 3: it should be a section of keys"),
        ({**BOTH, "stage1": {**BOTH["stage1"], "output": "a"}}, "leave `stage1.output` out"),
        ({**BOTH, "stage2": {**BOTH["stage2"], "stage": 2}}, "leave `stage2.stage` out"),
        ({**BOTH, "llm": {"weights": "folder:x"}}, ", stage1: `llm` is a key of stage 2; leave it out of stage 1"),
        ({**BOTH, "stage2": {**BOTH["stage2"], "trian": 1}}, ", stage2: unknown key `trian`; did you mean `train`?"),
    ],
)
def test_what_is_refused(load, content, message):
    with pytest.raises(ConfigError) as caught:
        load(content)
    assert message in str(caught.value) and "own.yaml" in str(caught.value) and "\n" not in str(caught.value)
