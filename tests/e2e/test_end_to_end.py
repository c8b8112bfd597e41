"""Whole runs through the command line: both stages, their evaluation, pixels, bf16, and wrong inputs."""

import json
import shutil
from itertools import product

import pytest

from command_line import COLOURS, STEPS, THINGS, isthmus, isthmus_process, tiny_recipes
from fakes import tiny_clip_folder, tiny_llama_folder
from isthmus.checkpoints.native import read_bridge

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Towers, pictures and two recipes; stage 1 trained in a process of its own, stage 2 in this one."""
    place = tmp_path_factory.mktemp("world")
    one, two = tiny_recipes(place)
    done = isthmus_process("train", one)
    assert done.returncode == 0, done.stderr
    (place / "stderr").write_text(done.stderr)
    assert isthmus("train", two) == 0
    return place


def log_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("run", "towers"), [("one", ["encoder"]), ("two", ["encoder", "llm"])])
def test_a_run_leaves_a_bridge_a_record_and_a_log(world, run, towers):
    folder = world / run
    file, record, log = read_bridge(folder / "bridge"), json.loads((folder / "run.json").read_text()), log_of(folder)
    assert file.provenance["stage"] == record["stage"] == {"one": 1, "two": 2}[run]
    assert file.provenance["step"] == STEPS
    assert sorted(file.provenance["towers"]) == sorted(record["towers_unchanged"]) == towers
    assert all(value is True for value in record["towers_unchanged"].values())
    assert (folder / "bridge" / "tokenizer.json").is_file()
    terms = {"one": ["itc", "itg", "itm"], "two": ["lm"]}[run]
    losses = [line for line in log if terms[0] in line]
    assert [line["step"] for line in losses] == [2, 4, 6]
    assert all(isinstance(line[term], float) for line in losses for term in terms)
    assert losses[-1][terms[0]] < losses[0][terms[0]]
    assert [line["step"] for line in log if "evaluation" in line] == [3, 6]
    logged = [line["evaluation"] for line in log if "evaluation" in line][-1]
    assert logged == {name: value for name, value in record["figures"].items() if name != "captions"}


def test_what_stage_1_and_stage_2_are_scored_by(world):
    one, two = (json.loads((world / run / "run.json").read_text())["figures"] for run in ("one", "two"))
    assert one["candidates"] == one["texts"] == 24
    assert set(one["text_to_image"]) == {"R@1", "R@5", "R@10", "mean_rank", "median_rank"}
    assert two["loss"]["gap"] == pytest.approx(two["loss"]["shuffled"] - two["loss"]["right"])
    assert two["pictures"] == len(two["captions"]) == 24
    assert sorted(true for _, true in two["captions"]) == sorted(f"a {c} {t}" for c, t in product(COLOURS, THINGS))


def test_progress_is_plain_lines_with_the_time_left(world):
    lines = (world / "stderr").read_text().splitlines()
    steps = [line for line in lines if line.startswith("stage 1 ") and "s/step" in line]
    assert [" left  " in line or " took " in line for line in steps] == [True] * (STEPS // 2)
    assert any(line.startswith("features 24/24") for line in lines)


def assert_same_figures(evaluated, trained):
    """An evaluation of its own re-ranks too, which those in training do not; the rest is the same to the last bit."""
    rest = {name: value for name, value in trained.items() if name != "confidence"}
    assert rest == {name: value for name, value in evaluated.items() if name in rest}
    intervals = trained["confidence"]
    assert intervals == {name: value for name, value in evaluated["confidence"].items() if name in intervals}


@pytest.mark.parametrize("run", ["one", "two"])
def test_evaluating_a_run_gives_what_training_found(world, run):
    assert isthmus("evaluate", world / run) == 0
    found = json.loads((world / run / "evaluation.json").read_text())["figures"]
    assert_same_figures(found, json.loads((world / run / "run.json").read_text())["figures"])


def test_a_language_model_that_moved_is_named_and_known_by_its_fingerprint(world):
    shutil.copytree(world / "llama", world / "moved", dirs_exist_ok=True)
    assert isthmus("evaluate", world / "two", f"llm.weights=folder:{world / 'moved'}") == 0


@pytest.mark.parametrize("stage", ["one", "two"])
def test_from_pixels(world, stage):
    output = world / f"{stage}-pixels"
    options = ["features.folder=null", "train.steps=2", "train.evaluate_every=null", f"output={output}"]
    assert isthmus("train", world / f"{stage}.yaml", *options) == 0
    assert read_bridge(output / "bridge").provenance["step"] == 2
    assert all(json.loads((output / "run.json").read_text())["towers_unchanged"].values())
    assert isthmus("evaluate", output) == 0
    again = json.loads((output / "evaluation.json").read_text())["figures"]
    assert_same_figures(again, json.loads((output / "run.json").read_text())["figures"])


def test_in_bf16_both_stages_train_and_are_scored(world):
    options = ["precision=bf16", "train.steps=2", f"features.folder={world / 'features-bf16'}"]
    assert isthmus("train", world / "one.yaml", *options, f"output={world / 'one-bf16'}") == 0
    options += [f"init.from={world / 'one-bf16'}", f"output={world / 'two-bf16'}"]
    assert isthmus("train", world / "two.yaml", *options) == 0
    assert isthmus("evaluate", world / "two-bf16") == 0
    assert read_bridge(world / "two-bf16" / "bridge").provenance["precision"] == "bfloat16"
    in_fp32 = ["precision=fp32", f"features.folder={world / 'features-fp32'}"]
    assert isthmus("evaluate", world / "two-bf16", *in_fp32) == 0


def with_lines(world, name, *lines):
    """A copy of the pictures' folder whose metadata are these lines."""
    folder = world / name
    if not folder.is_dir():
        shutil.copytree(world / "pictures", folder)
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    return f"data.train.folder={folder}"


def empty_folder(world):
    (world / "empty").mkdir(exist_ok=True)
    return f"data.train.folder={world / 'empty'}"


def other_encoder(world):
    return f"encoder.weights=folder:{tiny_clip_folder(world / 'other-clip', seed=1)}"


def a_file(world):
    (world / "file").write_text("")
    return f"output={world / 'file' / 'run'}"


WRONG = {
    "empty folder": ("one", empty_folder, "the folder is empty"),
    "no folder": ("one", lambda _: "data.train.folder=/nowhere", "there is no such folder"),
    "missing file": (
        "one",
        lambda w: with_lines(w, "missing-file", {"file_name": "gone.png", "text": "a cat"}),
        "metadata.jsonl, line 1: there is no file",
    ),
    "caption missing": (
        "one",
        lambda w: with_lines(w, "no-caption", {"file_name": "0.png", "text": "a"}, {"file_name": "1.png"}),
        'metadata.jsonl, line 2: the key "text" is missing',
    ),
    "empty caption": (
        "one",
        lambda w: with_lines(w, "empty-caption", {"file_name": "0.png", "text": " "}),
        "metadata.jsonl, line 1: a caption is empty",
    ),
    "too few pictures": (
        "one",
        lambda w: with_lines(w, "few", {"file_name": "0.png", "text": "a cat"}),
        "fewer than one global batch of 6",
    ),
    "unknown encoder folder": ("one", lambda _: "encoder.weights=folder:/nowhere", "there is no such folder"),
    "unknown encoder on the hub": ("one", lambda _: "encoder.weights=hub:no/such", "'no/such' cannot be loaded"),
    "encoder that is no encoder": ("one", lambda w: f"encoder.weights=folder:{w / 'bert'}", "cannot be loaded"),
    "unknown language model": ("two", lambda _: "llm.weights=hub:no/such", "'no/such' cannot be loaded"),
    "unknown key": ("one", lambda _: "train.stps=3", "unknown key `train.stps`"),
    "wrong type": ("one", lambda _: "train.steps=many", "`train.steps` is 'many'"),
    "stage 2 from no run": ("two", lambda w: f"init.from={w / 'pictures'}", "is no model folder"),
    "a store of another encoder": ("one", other_encoder, "the stored encoder is"),
    "stage 2 after another encoder": ("two", other_encoder, "is not the one this bridge was trained with"),
    "an earlier run": ("one", lambda w: f"output={w / 'one'}", "holds the bridge of an earlier run"),
    "a batch of one": ("one", lambda _: "train.batch_size=1", "`train.batch_size` to 2 or more"),
    "an output that is no folder": ("one", a_file, "cannot be written"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_input_is_one_line_and_exit_code_2(world, capfd, case):
    recipe, override, message = WRONG[case]
    arguments = ["train", world / f"{recipe}.yaml", f"output={world / 'never'}", override(world)]
    capfd.readouterr()
    code = isthmus(*arguments)
    out, err = capfd.readouterr()
    assert code == 2
    assert message in err and err.startswith("isthmus: ") and err.count("\n") == 1, err
    assert out == "" and not (world / "never").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda w: [w / "pictures"], "is no model folder"),
        (lambda w: [w / "one", f"encoder.weights=folder:{tiny_clip_folder(w / 'swapped', seed=2)}"], "is not the one"),
        (lambda w: [w / "two", f"llm.weights=folder:{tiny_llama_folder(w / 'other', seed=1)}"], "is not the one"),
        (lambda w: [w / "one", "data.evaluation=null"], "trained without held-out pictures"),
        (lambda w: [w / "one", "train.steps=1"], "`train.steps` cannot be changed to score"),
        (lambda w: [w / "two", "llm.max_tokens=3"], "`llm.max_tokens` cannot be changed to score"),
    ],
    ids=["no run", "another encoder", "another language model", "nothing held out", "steps", "longest caption"],
)
def test_a_wrong_evaluation_is_one_line_and_exit_code_2(world, capfd, arguments, message):
    given = arguments(world)
    capfd.readouterr()
    code = isthmus("evaluate", *given)
    out, err = capfd.readouterr()
    assert (code, out) == (2, "")
    assert message in err and err.startswith("isthmus: ") and err.count("\n") == 1, err
