"""From a folder with questions to `isthmus ask`: train, evaluate, ask, go on, and what is refused on the way."""

import json
from itertools import product

import pytest

from command_line import COLOURS, THINGS, isthmus, tiny_recipes
from fakes import tiny_t5_folder
from isthmus.checkpoints.native import read_bridge
from isthmus.predictor import Predictor

pytestmark = pytest.mark.e2e
SHORT = ["train.steps=3", "train.evaluate_every=null", "train.log_every=1"]
ASKED = [
    "data.train.metadata=questions.jsonl",
    "data.evaluation.metadata=questions.jsonl",
    "bridge.instruct=true",
    'llm.prompt.after=" Q: {question} A:"',
]
QUESTIONS = ["what colour is it?", "what is it?"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Stage 1 trained on captions, and stage 2 on two questions a picture."""
    place = tmp_path_factory.mktemp("world")
    one, two = tiny_recipes(place)
    lines = [
        json.dumps({"file_name": f"{number}.png", "text": [colour, f"a {thing}"], "question": QUESTIONS})
        for number, (colour, thing) in enumerate(product(COLOURS, THINGS))
    ]
    (place / "pictures" / "questions.jsonl").write_text("\n".join(lines))
    assert isthmus("train", one, *SHORT) == 0
    assert isthmus("train", two, *SHORT, *ASKED) == 0
    return place


def train(world, *options):
    return isthmus("train", world / "two.yaml", *SHORT, *ASKED, *options)


def figures_of(run, name):
    return json.loads((run / name).read_text())["figures"]


def test_a_run_leaves_a_bridge_with_its_text_half_and_says_so(world):
    file, record = read_bridge(world / "two" / "bridge"), json.loads((world / "two" / "run.json").read_text())
    assert (file.sizes.text, file.sizes.lm_head, file.sizes.shared_width) == (True, False, None)
    assert file.provenance["prompt"]["after"] == " Q: {question} A:"
    lines = file.provenance["prompt"]["before"].splitlines()
    assert len(lines) == 3 and all(" Q: what " in line and " A: " in line for line in lines[:2])
    assert file.provenance["config"]["bridge"]["instruct"] is True
    assert all(record["towers_unchanged"].values())
    assert any(line.split() == ["taken", "qformer.text.words.weight"] for line in record["start"])
    before, after = read_bridge(world / "one" / "bridge").tensors, file.tensors
    moved = {name for name, tensor in after.items() if name in before and not tensor.equal(before[name])}
    assert "qformer.text.words.weight" in moved and "qformer.layers.0.text_feed_forward.up.weight" in moved
    assert not any(name.startswith("qformer.layers.1.text_feed_forward") for name in moved)


def test_every_question_is_scored_and_evaluation_finds_what_training_found(world, capfd):
    trained = figures_of(world / "two", "run.json")
    assert (trained["pictures"], trained["questions"], len(trained["captions"])) == (24, 48, 48)
    assert {question for _, _, question in trained["captions"]} == {*QUESTIONS}
    assert trained["loss"]["gap"] == pytest.approx(trained["loss"]["shuffled"] - trained["loss"]["right"])
    capfd.readouterr()
    assert isthmus("evaluate", world / "two") == 0
    assert "what colour is it?  red  ->  " in capfd.readouterr().out
    assert figures_of(world / "two", "evaluation.json") == trained


def test_ask_answers_as_the_predictor_does(world, capfd):
    picture, model = world / "pictures" / "5.png", world / "two"
    options = ["--model", model, "--device", "cpu", "--dtype", "float32", "--max-new-tokens", 6]
    capfd.readouterr()
    assert isthmus("ask", picture, *QUESTIONS, *options, "--json") == 0
    predictor = Predictor.from_pretrained(model, device="cpu", dtype="float32")
    answers = [predictor.ask(picture, question, max_new_tokens=6) for question in QUESTIONS]
    rows = [{"question": question, "answer": answer} for question, answer in zip(QUESTIONS, answers, strict=True)]
    assert json.loads(capfd.readouterr().out) == {"file_name": str(picture), "answers": rows}
    assert isthmus("ask", picture, " what  is it?", *options) == 0
    assert capfd.readouterr().out == f"what is it?\t{' '.join(answers[1].split())}\n"


def test_it_goes_on_from_its_own_kind(world, capfd):
    assert train(world, f"init.from={world / 'two'}", f"output={world / 'further'}") == 0
    assert ", 0 new, 0 left" in capfd.readouterr().err
    assert isthmus("ask", world / "pictures" / "0.png", "what is it?", "--model", world / "further") == 0


@pytest.mark.parametrize(
    "options",
    [
        ["features.folder=null"],
        ["llm.weights=folder:{place}/t5", "llm.prompt.examples=0"],
        ["bridge.projection=random"],
    ],
    ids=["pixels", "encoder-decoder", "random projection"],
)
def test_other_ways_to_train(world, tmp_path, options):
    tiny_t5_folder(tmp_path / "t5")
    given = [option.format(place=tmp_path) for option in options]
    assert train(world, *given, f"output={tmp_path / 'run'}") == 0
    assert isthmus("ask", world / "pictures" / "0.png", "what is it?", "--model", tmp_path / "run") == 0


REFUSED = {
    "no questions": (
        ["data.train.metadata=null"],
        "pictures: there are no questions in it, and bridge.instruct trains",
    ),
    "no switch": (["bridge.instruct=false", "llm.prompt.after=''"], "its texts answer questions, and would be trained"),
    "no switch but the place": (["bridge.instruct=false"], "`llm.prompt.after` holds {question}"),
    "no place": (["llm.prompt.after= is"], "give `llm.prompt.after` the place of the question"),
    "the place before": (["llm.prompt.before='{question}'"], "stands in the prompt's `before`"),
    "split captions": (["llm.prefix_lm=true"], "`llm.prefix_lm` splits captions"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_agree_is_one_line(world, tmp_path, capfd, case):
    options, message = REFUSED[case]
    capfd.readouterr()
    assert train(world, *options, f"output={tmp_path / 'never'}") == 2
    err = capfd.readouterr().err
    assert message in err and err.startswith("isthmus: ") and err.count("\n") == 1, err
    assert not (tmp_path / "never").exists()


def test_stage_1_learns_captions(world, tmp_path, capfd):
    given = ["data.train.metadata=questions.jsonl", f"output={tmp_path / 'never'}"]
    assert isthmus("train", world / "one.yaml", *given) == 2
    assert "its texts answer questions, and stage 1 learns captions" in capfd.readouterr().err


def test_each_folder_refuses_what_the_other_does(world, tmp_path, capfd):
    plain = tmp_path / "plain"
    assert isthmus("train", world / "two.yaml", *SHORT, f"output={plain}") == 0
    picture = world / "pictures" / "0.png"
    capfd.readouterr()
    for words, message in (
        (["caption", picture, "--model", world / "two"], "cannot caption by 'llm'; use ask, with a question"),
        (["caption", picture, "--dry-run", "--model", world / "two"], "use ask, with a question"),
        (["ask", picture, "what?", "--model", plain], "cannot answer questions; give the folder of a run with"),
        (["ask", picture, "what?", "--model", world / "one"], "is of stage 1: it matches, embeds and captions"),
        (["ask", picture, " ", "--model", world / "two"], "text 0 is empty"),
        (["ask", picture, "what?"], "no model is named"),
    ):
        assert isthmus(*words) == 2
        line = capfd.readouterr().err.splitlines()[-1]
        assert line.startswith("isthmus: ") and message in line
    assert train(world, f"init.from={plain}", f"output={tmp_path / 'never'}") == 2
    assert "that left the text half behind, and `bridge.instruct` reads questions by it" in capfd.readouterr().err
