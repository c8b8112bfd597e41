"""The one file that a user writes: what is refused, in which words, and what an override may say."""

import subprocess
import sys

import pytest
import yaml

from isthmus.config.run import check, load_config, parse_overrides, put
from isthmus.errors import ConfigError

STAGE1 = {
    "stage": 1,
    "output": "runs/a",
    "data": {"train": {"folder": "pictures"}},
    "encoder": {"kind": "timm", "name": "vit"},
    "bridge": {"bert": "folder:bert"},
    "train": {"steps": 10, "batch_size": 4},
}
STAGE2 = {
    **{key: value for key, value in STAGE1.items() if key != "bridge"},
    "stage": 2,
    "init": {"from": "runs/a"},
    "llm": {"weights": "folder:llama"},
}


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "run.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return path

    return write


def test_defaults_are_filled_in(write):
    config = load_config(write(STAGE1))
    assert (config.precision, config.device, config.seed) == ("auto", "auto", 0)
    assert (config.train.beta2, config.train.weight_decay, config.train.accumulation) == (0.98, 0.05, 1)
    assert config.objectives.gather == "exact" and config.features.folder is None
    assert load_config(write(STAGE2)).llm.prompt.end is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.stps=3", "unknown key `train.stps`"),
        ("colour=red", "unknown key `colour`"),
        ("train.steps=many", "`train.steps` is 'many': input should be a valid integer"),
        ("train.steps=1.5", "`train.steps` is 1.5: "),
        ("train.steps=0", "`train.steps` is 0: "),
        ("train.lr=fast", "`train.lr` is 'fast': input should be a valid number"),
        ("features.flip=1", "`features.flip` is 1: input should be a valid boolean"),
        ("encoder.kind=open_clip", "`encoder.kind` is 'open_clip': input should be 'timm' or 'transformers'"),
        ("stage=3", "`stage` is 3: input should be 1 or 2"),
        ("train.trackers=wandb", "`train.trackers` is 'wandb': input should be a valid list"),
        ("train.trackers=[wand]", "`train.trackers.0` is 'wand': input should be 'tensorboard', 'wandb' or 'mlflow'"),
        ("train.tracker_project=../a", "`train.tracker_project` is '../a': string should match pattern"),
        ("data.train=pictures", "`data.train` is 'pictures': "),
        ("bridge.bert=null", "stage 1 needs exactly one of `bridge.bert`, `bridge.scratch` and `init.from`"),
        ("bridge.scratch.tokenizer=folder:x", "stage 1 needs exactly one of `bridge.bert`, `bridge.scratch` and"),
        ("init.from=runs/a", "stage 1 needs exactly one of `bridge.bert`, `bridge.scratch` and `init.from`"),
        ("llm.weights=folder:x", "`llm` is a key of stage 2; leave it out of stage 1"),
        ("train.accumulation=2", "`train.accumulation` above 1 is refused in stage 1: ITC's negatives are the batch"),
    ],
)
def test_stage_1_refuses_by_key(write, override, message):
    path = write(STAGE1)
    with pytest.raises(ConfigError) as caught:
        load_config(path, [override])
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["output", "features.folder", "data.train.folder", "data.train.metadata", "init.from"])
def test_a_path_that_no_file_system_can_hold_is_refused_by_its_key(key):
    cases = {"runs/" + "x" * 256: "the name xxx", "runs/a\0b": "the path holds a NUL character; leave it out"}
    for path, message in cases.items():
        with pytest.raises(ConfigError) as caught:
            check(put({**STAGE1, "bridge": {} if key == "init.from" else STAGE1["bridge"]}, {key: path}), "here")
        assert str(caught.value).startswith(f"here: in `{key}`: {message}")
    assert check(put(STAGE1, {"output": "a/" * 200 + "x" * 255}), "here").output.endswith("x")


@pytest.mark.parametrize("missing", ["stage", "output", "data", "encoder", "train"])
def test_a_missing_key_is_named(missing):
    content = {key: value for key, value in STAGE1.items() if key != missing}
    with pytest.raises(ConfigError, match=f"here: the key `{missing}` is missing; give it a value"):
        check(content, "here")


def test_a_missing_key_in_a_section_is_named():
    with pytest.raises(ConfigError, match=r"in `data.train`: a source of kind imagefolder needs the key `folder`"):
        check({**STAGE1, "data": {"train": {}}}, "here")


@pytest.mark.parametrize(("missing", "named"), [("llm", "llm"), ("init", "init.from")])
def test_stage_2_needs_a_language_model_and_a_stage_1_run(missing, named):
    with pytest.raises(ConfigError, match=f"stage 2 needs `{named}`"):
        check({**STAGE2, missing: None}, "here")


def test_a_config_written_out_can_be_read_again():
    hub = {"kind": "transformers", "weights": "hub:a/b"}
    hard = {**STAGE1, "encoder": hub, "objectives": {"negatives": "hard"}}
    for content in (STAGE1, STAGE2, {**STAGE2, "encoder": hub}, hard):
        config = check(content, "here")
        written = config.model_dump(mode="json")
        assert check(written, "there") == config
    written = check(STAGE2, "here").model_dump(mode="json", exclude_defaults=True)
    assert written["init"] == {"from": "runs/a"}


@pytest.mark.parametrize(("key", "value"), [("lm_head", "random"), ("temperature", 0.07)])
def test_what_fills_a_stage_1_bridge_is_no_key_of_stage_2(key, value):
    start = {"from": "runs/a", key: value}
    going_on = {**{key: value for key, value in STAGE1.items() if key != "bridge"}, "init": start}
    assert getattr(check(going_on, "here").init, key) == value
    assert check(going_on, "here").given()["init"] == {key: value}  # another filling is another run, a moved folder not
    assert "init" not in check({**going_on, "init": {"from": "runs/a"}}, "here").given()
    with pytest.raises(ConfigError, match=rf"`init\.{key}` is a key of stage 1"):
        check({**STAGE2, "init": start}, "here")


def test_what_a_bridge_starts_from_has_one_key():
    with pytest.raises(ConfigError, match=r"unknown key `init.folder`"):
        check({**STAGE2, "init": {"from": "runs/a", "folder": "runs/a"}}, "here")
    with pytest.raises(ConfigError, match=r"the key `init.from` is missing"):
        check({**STAGE2, "init": {}}, "here")


def test_stage_1_goes_on_from_a_folder_in_place_of_a_bert():
    config = check({**STAGE1, "bridge": {}, "init": {"from": "runs/b"}}, "here")
    assert config.init.folder == "runs/b" and config.bridge.bert is None


def test_stage_2_starts_from_no_bert():
    with pytest.raises(ConfigError, match=r"`bridge.bert` starts a bridge in stage 1; stage 2 has `init.from`"):
        check({**STAGE2, "bridge": {"bert": "folder:bert"}}, "here")


@pytest.mark.parametrize(
    ("content", "section", "message"),
    [
        (STAGE1, {"bridge": {"bert": "a", "projection": "least_squares"}}, "`bridge.projection` is a key of stage 2"),
        (STAGE1, {"train": {**STAGE1["train"], "lr_projection": 1e-3}}, "`train.lr_projection` is a key of stage 2"),
        (
            STAGE1,
            {"train": {**STAGE1["train"], "group_by_length": True}},
            "`train.group_by_length` is a key of stage 2",
        ),
        (STAGE2, {"objectives": {"gather": "detached"}}, "`objectives` is a key of stage 1; leave it out of stage 2"),
        (
            STAGE2,
            {"train": {**STAGE2["train"], "decay_temperature": True}},
            "`train.decay_temperature` is a key of stage 1",
        ),
    ],
)
def test_a_key_that_another_stage_reads_is_refused(content, section, message):
    with pytest.raises(ConfigError) as caught:
        check({**content, **section}, "here")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "values", "message"),
    [
        (STAGE1, {"encoder.kind": "transformers"}, "in `encoder`: `name` says nothing about an encoder of kind"),
        (STAGE1, {"encoder": {"kind": "transformers", "match": "order"}}, "in `encoder`: `match` says nothing about"),
        (STAGE1, {"encoder.match": "order"}, "in `encoder`: `match` is about a file of weights, and `weights` names"),
        (STAGE1, {"objectives": {"negatives": "hard", "uniform_share": 0.5}}, "in `objectives`: `uniform_share` says"),
        (STAGE2, {"bridge.dec": "random"}, "in `bridge`: `dec` says how a bridge starts from `bert`, which is not"),
        (STAGE2, {"bridge.fold_token_type": False}, "in `bridge`: `fold_token_type` says how a bridge starts from"),
        (
            STAGE1,
            {"bridge": {"scratch": {"tokenizer": "folder:t"}, "dec": "random"}},
            "in `bridge`: `dec` says how a bridge starts from `bert`",
        ),
    ],
)
def test_a_key_that_would_do_nothing_is_refused(content, values, message):
    with pytest.raises(ConfigError) as caught:
        check(put(content, values), "here")
    assert message in str(caught.value) and str(caught.value).endswith("; leave it out")


def test_hard_negatives_may_say_that_no_step_has_uniform_ones():
    hard = {"negatives": "hard", "uniform_share": 0.0}
    assert check({**STAGE1, "objectives": hard}, "here").objectives.uniform_share == 0.0


def test_a_mean_of_each_process_s_rows_needs_equally_many_of_itm():
    uneven = {"train.token_mean": "per_rank", "train.batch_size": 6, "objectives.itm_every": 4}
    with pytest.raises(ConfigError, match=r"`objectives.itm_every` is 4 and `train.batch_size` 6: with `train.token"):
        check(put(STAGE1, uneven), "here")
    assert check(put(STAGE1, {**uneven, "train.batch_size": 8}), "here").objectives.itm_every == 4


JOINED = {"features.folder": "runs/a/features", "train.chunked": True, "train.accumulation": 4}


def test_micro_batches_of_stage_1_may_be_one_contrastive_batch():
    assert check(put(STAGE1, JOINED), "here").train.chunked


@pytest.mark.parametrize(
    ("content", "values", "message"),
    [
        (STAGE1, {"train.accumulation": 4}, "set `train.chunked`, which joins the micro-batches, or raise"),
        (
            STAGE1,
            {**JOINED, "train.accumulation": 1},
            "`train.chunked` joins the micro-batches of a step, and",
        ),
        (
            STAGE1,
            {**JOINED, "features.folder": None},
            "`train.chunked` reads patches again, which needs a",
        ),
        (STAGE2, JOINED, "`train.chunked` is a key of stage 1; leave it out of stage 2"),
    ],
)
def test_joining_that_would_do_nothing_or_cannot_be_done_is_refused(content, values, message):
    with pytest.raises(ConfigError) as caught:
        check(put(content, values), "here")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_stage_2_accumulates():
    assert check({**STAGE2, "train": {**STAGE2["train"], "accumulation": 4}}, "here").train.accumulation == 4


@pytest.mark.parametrize(
    ("override", "section", "value"),
    [
        ("train.lr=1e-4", ("train", "lr"), 1e-4),
        ("train.lr=2.5E-05", ("train", "lr"), 2.5e-5),
        ("train.lr=1", ("train", "lr"), 1.0),
        ("train.steps=300", ("train", "steps"), 300),
        ("features.folder=null", ("features", "folder"), None),
        ("features.folder=a=b", ("features", "folder"), "a=b"),
        ("features.flip=false", ("features", "flip"), False),
        ("data.evaluation.folder=held out", ("data", "evaluation", "folder"), "held out"),
        ("bridge.dropout={hidden: 0.3}", ("bridge", "dropout", "hidden"), 0.3),
    ],
)
def test_overrides(write, override, section, value):
    found = load_config(write(STAGE1), ["features.folder=before", override])
    for key in section:
        found = getattr(found, key)
    assert found == value and type(found) is type(value)


def test_exponents_in_the_file_are_numbers(write):
    text = yaml.safe_dump(STAGE1).replace("steps: 10", "steps: 10\n  lr: 3e-4\n  weight_decay: 5e-2")
    config = load_config(write(text))
    assert (config.train.lr, config.train.weight_decay) == (3e-4, 5e-2)


def test_a_later_override_wins_and_the_mapping_given_stays_as_it_is():
    content = {"train": {"steps": 1}}
    assert put(content, parse_overrides(["train.steps=2", "train.steps=3"])) == {"train": {"steps": 3}}
    assert content == {"train": {"steps": 1}}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.steps", "is not of the form key.sub=value"),
        ("=3", "is not of the form key.sub=value"),
        ("train.steps=[1", "the value in the override 'train.steps=\\[1' is no valid YAML"),
        ("output.name=a", "goes below `output`, which is no section"),
    ],
)
def test_an_override_of_another_form_is_refused(write, override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(write(STAGE1), [override])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("stage: [1", "is no valid YAML in line"),
        ("- 1\n- 2\n", "holds no mapping of keys to values"),
        ("", "holds no mapping of keys to values"),
    ],
)
def test_a_file_of_another_form_is_refused(write, content, message):
    with pytest.raises(ConfigError, match=message):
        load_config(write(content))


def test_what_is_no_text_or_no_file_is_refused(tmp_path):
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(ConfigError, match=r"picture.png is no text in UTF-8"):
        load_config(tmp_path / "picture.png")
    for path in (tmp_path, tmp_path / "nothing.yaml"):
        with pytest.raises(ConfigError, match="no configuration file at"):
            load_config(path)


def test_config_loads_no_torch():
    code = "import sys, isthmus.config.run; print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_exponents_in_lists_are_numbers(write):
    sources = "data.train=[{folder: a, weight: 1e-1}, {folder: b, weight: 2e-1}]"
    config = load_config(write(STAGE1), [sources])
    assert [source.weight for source in config.data.sources] == [0.1, 0.2]


def test_the_output_may_begin_with_the_home_folder(write, monkeypatch):
    monkeypatch.setenv("HOME", "/home/reader")
    assert load_config(write(STAGE1), ["output=~/runs"]).output == "/home/reader/runs"


def test_who_is_told_of_a_run_makes_no_other_run_of_it():
    told = {**STAGE1["train"], "trackers": ["tensorboard", "wandb"], "tracker_project": "bridges"}
    assert check({**STAGE1, "train": told}, "here").given() == check(STAGE1, "here").given()
