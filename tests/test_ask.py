"""Questions to folders that were trained with them: one and many, and what every other folder says."""

import logging

import pytest

from folders import tiny_stages
from isthmus import Predictor
from isthmus.errors import AbsentPartError, ConfigError, DataError
from isthmus.language.llm import Decoding
from isthmus.qformer import masks

QUESTIONS = ["what is it?", "red", "how many small yellow cats are on the boat?", "a", "big or small?"]
FEW = {"max_new_tokens": 8}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tiny_stages(tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="module")
def predictor(place):
    return Predictor.from_pretrained(place / "asked")


@pytest.fixture(scope="module")
def pictures(place):
    return sorted((place / "pictures").iterdir())


def test_one_in_one_out_and_a_list_for_a_list(predictor, pictures):
    one = predictor.ask(pictures[0], "what is it?", **FEW)
    assert isinstance(one, str)
    assert predictor.ask([pictures[0]], "what is it?", **FEW) == [one]
    assert predictor.ask(pictures[0], ["what is it?"], **FEW) == one
    assert predictor.ask(pictures, "what\n is  it?", **FEW)[0] == one
    assert predictor.ask(predictor.encode(pictures[0]), "what is it?", **FEW) == one


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"temperature": 0.3, "seed": 3}, {"min_new_tokens": 5}])
def test_batches_give_the_answers_of_single_questions(predictor, pictures, options):
    options = {**FEW, **options}
    alone = [predictor.ask(p, question, **options) for p, question in zip(pictures, QUESTIONS, strict=True)]
    assert len(set(alone)) > 1
    assert predictor.ask(pictures, QUESTIONS, **options) == alone
    assert predictor.ask(iter(pictures), QUESTIONS, batch_size=2, **options) == alone
    encoded = predictor.encode(pictures)
    assert predictor.ask(encoded, QUESTIONS, **options) == alone
    assert predictor.ask(encoded, QUESTIONS, batch_size=3, **options) == alone


def test_several_questions_about_one_picture(predictor, pictures):
    alone = [predictor.ask(pictures[1], question, **FEW) for question in QUESTIONS]
    assert len(set(alone)) > 1, "or the question makes no difference"
    encoded = predictor.encode(pictures[1])
    assert predictor.ask([encoded] * 5, QUESTIONS, **FEW) == alone
    assert predictor.ask([pictures[1]] * 5, QUESTIONS, batch_size=2, **FEW) == alone


def test_answers_are_what_the_definition_gives(predictor, pictures):
    """Oracle: `QFormer.forward` under the bidirectional mask, projected, before the prompt with the question in it."""
    loaded, llm = predictor._pretrained.bridges[2], predictor._pretrained.llm
    for picture, question in zip(pictures, QUESTIONS, strict=True):
        text = loaded.tokenizer([question])
        mask = masks.bidirectional(4, text.mask)
        states = loaded.bridge.qformer(text, mask, predictor.encode(picture).patches).queries
        said = llm.generate(loaded.bridge.projection(states), Decoding(**FEW), prompts=[f" Q: {question} A:"])
        assert [predictor.ask(picture, question, **FEW)] == said


def test_what_is_encoded_is_read_once(predictor, pictures, monkeypatch):
    encoded, read = predictor.encode(pictures), []
    memory = predictor._pretrained.bridges[2].bridge.qformer.memory
    project = memory.project
    monkeypatch.setattr(memory, "project", lambda patches: read.append(len(patches)) or project(patches))
    assert predictor.ask(encoded, "a", **FEW) != predictor.ask(encoded, "how many?", **FEW)
    assert read == [5]


def test_beside_stage_1_it_matches_and_captions_by_the_qformer(place, pictures, predictor):
    both = Predictor.from_pretrained(place / "stage1", place / "asked")
    assert both.ask(pictures[0], "a", **FEW) == predictor.ask(pictures[0], "a", **FEW)
    assert both.match(pictures, "a red cat").score.shape == (5, 1)
    assert both.caption(pictures[0], by="qformer") == Predictor.from_pretrained(place / "stage1").caption(pictures[0])
    with pytest.raises(AbsentPartError, match="use ask, with a question"):
        both.caption(pictures[0])


def test_what_a_folder_cannot_do_is_one_sentence(place, pictures, predictor):
    stage1, stage2 = (Predictor.from_pretrained(place / name) for name in ("stage1", "stage2"))
    with pytest.raises(
        AbsentPartError,
        match=r"asked/bridge is of stage 2: it answers questions through its language model, and cannot caption by "
        r"'llm'; use ask, with a question",
    ):
        predictor.caption(pictures)
    with pytest.raises(
        AbsentPartError,
        match=r"stage2/bridge is of stage 2: it captions through its language model, and cannot answer questions; give "
        r"the folder of a run with bridge\.instruct=true",
    ):
        stage2.ask(pictures, "a")
    with pytest.raises(
        AbsentPartError,
        match=r"stage1/bridge is of stage 1: it matches.* and cannot answer questions; give the folder of stage 2, one "
        r"trained with bridge\.instruct, too",
    ):
        stage1.ask(pictures, "a")
    with pytest.raises(AbsentPartError, match=r"is of stage 2: it answers questions .* and cannot match; give"):
        predictor.match(pictures, "a")


def test_wrong_questions_are_one_sentence(predictor, pictures):
    for images in (pictures, iter(pictures), pictures[0]):
        with pytest.raises(ConfigError, match=r"there are 3 questions for (5|1) pictures; give one for all, or one"):
            predictor.ask(images, ["a", "b", "c"])
    with pytest.raises(DataError, match="text 0 is empty"):
        predictor.ask(pictures, " \n")
    with pytest.raises(DataError, match="text 4 is empty"):
        predictor.ask(pictures, ["a", "b", "c", "d", ""])
    with pytest.raises(ConfigError, match="question is neither a string nor a list of strings"):
        Predictor.ask.__wrapped__(predictor, pictures, 5)
    with pytest.raises(ConfigError, match="batch_size is 0"):
        predictor.ask(pictures, "a", batch_size=0)
    with pytest.raises(DataError, match="there is no picture"):
        predictor.ask([], "a")


def test_a_long_question_is_cut_for_the_bridge_with_one_warning(place, pictures, caplog):
    predictor = Predictor.from_pretrained(place / "asked")
    with caplog.at_level(logging.WARNING, logger="isthmus"):
        for _ in range(2):
            predictor.ask(pictures[0], "a red cat " * 12, max_new_tokens=2)
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("isthmus")]
    assert ours == ["1 text was cut to the 32 tokens that the bridge reads"]


def test_a_saved_copy_answers_the_same(predictor, pictures, tmp_path):
    predictor.save_pretrained(tmp_path / "copy")
    again = Predictor.from_pretrained(tmp_path / "copy")
    assert again.ask(pictures, QUESTIONS, **FEW) == predictor.ask(pictures, QUESTIONS, **FEW)
