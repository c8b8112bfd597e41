"""Load in one line, ask in another: what every method answers, alone and in batches, and what is refused."""

import logging
import re
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import isthmus
from folders import tiny_stages
from isthmus import Predictor
from isthmus.checkpoints.native import update_provenance
from isthmus.data.image import open_image
from isthmus.encoded import Encoded
from isthmus.errors import AbsentPartError, ConfigError, DataError
from isthmus.language.llm import Decoding
from isthmus.predictor import DecodingOptions
from isthmus.qformer import masks
from isthmus.qformer.tokenizer import QFormerTokenizer

TEXTS = ["a red cat", "the big blue boat on a river", "sun", "a small yellow horse and a cow"]
EXACT = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tiny_stages(tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="module")
def both(place):
    return Predictor.from_pretrained(place)


@pytest.fixture(scope="module")
def stage1(place):
    return Predictor.from_pretrained(place / "stage1")


@pytest.fixture(scope="module")
def stage2(place):
    return Predictor.from_pretrained(place / "stage2")


@pytest.fixture(scope="module")
def pictures(place):
    return sorted((place / "pictures").iterdir())


def test_importing_the_package_loads_no_torch_and_names_the_predictor():
    code = "import sys, isthmus; assert 'Predictor' in dir(isthmus); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert isthmus.Predictor is Predictor
    with pytest.raises(AttributeError, match="no attribute 'Predicter'"):
        _ = isthmus.Predicter


def test_caption_takes_the_fields_of_decoding():
    assert list(DecodingOptions.__annotations__) == [field.name for field in fields(Decoding)]


def test_one_in_one_out_and_a_list_for_a_list(both, pictures):
    one = both.caption(pictures[0])
    assert isinstance(one, str)
    assert both.caption([pictures[0]]) == [one]
    assert both.caption(iter(pictures[:2]))[0] == one
    assert both.caption(both.encode(pictures[0])) == one
    assert both.caption(both.encode([pictures[0]])) == [one]


@pytest.mark.parametrize("by", ["llm", "qformer"])
@pytest.mark.parametrize("options", [{}, {"temperature": 0.3, "seed": 3, "top_p": 0.9}, {"min_new_tokens": 5}], ids=str)
def test_captions_in_batches_are_those_of_single_pictures(both, pictures, by, options):
    options = {"by": by, "max_new_tokens": 12, **options}
    alone = [both.caption(picture, **options) for picture in pictures]
    assert len(set(alone)) > 1, "or the pictures make no difference"
    assert both.caption(pictures, **options) == alone
    assert both.caption(pictures, batch_size=2, **options) == alone


def test_beams_in_batches_are_those_of_single_pictures(both, pictures):
    alone = [both.caption(picture, num_beams=3, max_new_tokens=8) for picture in pictures]
    assert both.caption(pictures, num_beams=3, max_new_tokens=8, batch_size=3) == alone
    assert alone != both.caption(pictures, max_new_tokens=8)


def test_prompts_are_for_all_or_one_a_picture(both, pictures):
    prompts = ["", " a", " red", " the big blue", " x"]
    alone = [both.caption(p, prompt, max_new_tokens=8) for p, prompt in zip(pictures, prompts, strict=True)]
    assert both.caption(pictures, prompts, max_new_tokens=8, batch_size=2) == alone
    assert both.caption(iter(pictures), prompts, max_new_tokens=8) == alone
    assert both.caption(pictures, " red", max_new_tokens=8)[2] == alone[2]
    assert both.caption(pictures, "", max_new_tokens=8) == both.caption(pictures, max_new_tokens=8)
    assert alone[2] != both.caption(pictures[2], max_new_tokens=8), "or the prompt is not read"


def test_match_scores_every_pair_alone_as_together(both, pictures):
    together = both.match(pictures, TEXTS)
    assert together.itc.shape == together.itm.shape == together.score.shape == (5, 4)
    for row, picture in enumerate(pictures):
        for column, text in enumerate(TEXTS):
            alone = both.match(picture, text)
            for name in ("itc", "itm", "score"):
                torch.testing.assert_close(
                    getattr(alone, name)[0, 0], getattr(together, name)[row, column], **EXACT, msg=name
                )
    small = both.match(pictures, TEXTS, batch_size=3)
    for name in ("itc", "itm", "score"):
        torch.testing.assert_close(getattr(small, name), getattr(together, name), **EXACT)
    assert together.itm.std() > 1e-3 and together.itc.std() > 1e-3


def test_match_is_what_the_definition_gives(both, place, pictures):
    """Oracle: `QFormer.forward` under the paper's masks, pair by pair, and the folder's ranking by hand."""
    loaded = both._pretrained.bridges[1]
    bridge, tokenizer = loaded.bridge, QFormerTokenizer(place / "stage1" / "bridge")
    found = both.match(pictures, TEXTS)
    for row, picture in enumerate(pictures):
        patches = both.encode(picture).patches
        queries = bridge.image_embeddings(bridge.qformer(None, None, patches).queries)[0]
        for column, words in enumerate(TEXTS):
            text = tokenizer([words])
            unimodal = bridge.qformer(text, masks.unimodal(4, text.mask), patches).text[:, 0]
            cosine = max(float(query @ bridge.text_embeddings(unimodal)[0]) for query in queries)
            states = bridge.qformer(text, masks.bidirectional(4, text.mask), patches).queries
            no, yes = bridge.heads.match(states)[0].mean(0).tolist()
            probability = np.exp(yes) / (np.exp(no) + np.exp(yes))
            assert float(found.itc[row, column]) == pytest.approx(cosine, abs=1e-5)
            assert float(found.itm[row, column]) == pytest.approx(probability, abs=1e-5)
            assert float(found.score[row, column]) == pytest.approx(cosine / 0.07 + 0.25 * (yes - no), abs=1e-3)


def test_without_itm_the_score_is_that_of_itc(both, pictures):
    full, fast = both.match(pictures, TEXTS), both.match(pictures, TEXTS, itm=False)
    assert fast.itm is None
    torch.testing.assert_close(fast.itc, full.itc)
    torch.testing.assert_close(fast.score, full.itc / 0.07)


def test_the_ranking_is_the_folders_own(place, pictures, tmp_path):
    folder = tmp_path / "stage1"
    shutil.copytree(place / "stage1", folder)
    default = Predictor.from_pretrained(folder).match(pictures, TEXTS)
    log_odds = torch.logit(default.itm.double())
    update_provenance(folder / "bridge", {"ranking": {"weight": 2.0, "rule": "log_odds", "chosen_on": "x"}})
    heavy = Predictor.from_pretrained(folder).match(pictures, TEXTS)
    torch.testing.assert_close(heavy.score.double(), (heavy.itc / 0.07 + 2 * log_odds), rtol=1e-4, atol=1e-3)
    update_provenance(folder / "bridge", {"ranking": {"rule": "original"}})
    original = Predictor.from_pretrained(folder)
    assert torch.equal(original.match(pictures, TEXTS, itm=False).score, default.itc)
    assert not torch.allclose(original.match(pictures, TEXTS).score, heavy.score)


def test_embeddings_are_unit_rows_whose_cosine_is_the_match(both, pictures):
    images, texts = both.embed(images=pictures, batch_size=2), both.embed(texts=TEXTS, batch_size=3)
    assert images.shape == (5, 4, 8) and texts.shape == (4, 8)
    for rows in (images, texts):
        torch.testing.assert_close(rows.norm(dim=-1), torch.ones(rows.shape[:-1]))
    torch.testing.assert_close((images @ texts.T).amax(1), both.match(pictures, TEXTS, itm=False).itc)
    torch.testing.assert_close(both.embed(images=pictures[3])[0], images[3], **EXACT)
    torch.testing.assert_close(both.embed(texts=TEXTS[3])[0], texts[3], **EXACT)
    for given in ({}, {"images": pictures, "texts": TEXTS}):
        with pytest.raises(ConfigError, match=r"either images=\.\.\. or texts=\.\.\."):
            both.embed(**given)


def test_encode_once_ask_many(both, pictures, monkeypatch):
    expected = both.match(pictures, TEXTS), both.caption(pictures), both.embed(images=pictures)
    encoded = both.encode(pictures, batch_size=2)
    assert len(encoded) == 5 and encoded.patches.shape == (5, 17, 16)
    monkeypatch.setattr(type(both._pretrained.encoder), "forward", lambda *_: pytest.fail("encoded again"))
    read = []
    qformer = both._pretrained.bridges[1].bridge.qformer
    encode_image = qformer.encode_image
    monkeypatch.setattr(qformer, "encode_image", lambda patches: read.append(len(patches)) or encode_image(patches))
    torch.testing.assert_close(both.match(encoded, TEXTS).score, expected[0].score, rtol=1e-4, atol=1e-4)
    assert both.caption(encoded) == expected[1]
    torch.testing.assert_close(both.embed(images=encoded), expected[2], **EXACT)
    assert read == [5], "what a bridge reads is kept"
    both.embed(images=encoded, batch_size=3)
    assert read == [5, 3, 2], "in pieces it is not"
    assert both.encode(encoded) is encoded
    assert both.caption(encoded[1]) == expected[1][1]
    assert both.caption(encoded[1:3]) == expected[1][1:3]
    with pytest.raises(DataError, match="no picture in what was encoded"):
        both.caption(encoded[:0])


def test_pictures_prepared_ahead_give_what_pictures_give(both, pictures):
    ready = [both.prepare(picture) for picture in pictures]
    assert both.caption(ready) == both.caption(pictures)
    assert both.caption(ready[0]) == both.caption(pictures[0])
    assert torch.equal(both.embed(images=iter(ready)), both.embed(images=pictures))
    assert torch.equal(both.encode(both.prepare(ready[1])).patches, both.encode(pictures[1]).patches)
    mixed = [both.encode(pictures[2]), ready[0], pictures[1]]
    assert both.caption(mixed) == both.caption([pictures[2], *pictures[:2]])
    foreign = replace(ready[0], by=replace(ready[0].by, crop_share=0.5))
    with pytest.raises(ConfigError, match="prepared for another image encoder; prepare it with this predictor"):
        both.caption([ready[1], foreign])
    with pytest.raises(DataError, match=r"the picture is ndarray of shape .* and no picture"):
        both.prepare(np.zeros((2, 8, 8, 3), dtype=np.uint8))


def test_a_match_of_many_pairs_makes_each_memory_and_each_text_of_itc_once(both, pictures, monkeypatch):
    qformer = both._pretrained.bridges[1].bridge.qformer
    encode_text, project = qformer.encode_text, qformer.memory.project
    images, texts = [], []
    monkeypatch.setattr(qformer.memory, "project", lambda patches: images.append(len(patches)) or project(patches))
    monkeypatch.setattr(qformer, "encode_text", lambda text: texts.append(len(text.ids)) or encode_text(text))
    both.match(pictures[0], TEXTS, batch_size=2)
    assert (images, texts) == ([1], [2, 2]), "one picture, many texts"
    images.clear(), texts.clear()
    both.match(pictures, TEXTS[0], batch_size=2)
    assert (images, texts) == ([2, 2, 1], [1]), "many pictures, one text"


def test_a_list_may_hold_encoded_pictures(both, pictures):
    encoded = both.encode(pictures[:4])
    mixed = [encoded[3], pictures[4], open_image(pictures[0]), encoded[1]]
    order = [3, 4, 0, 1]
    rows = both.embed(images=pictures)
    torch.testing.assert_close(both.embed(images=mixed, batch_size=3), rows[order], **EXACT)
    assert both.caption(mixed, ["", " a", " red", " x"]) == both.caption(
        [pictures[one] for one in order], ["", " a", " red", " x"]
    )
    assert len(both.encode(mixed)) == 4 and not both.encode([encoded[0]]).single
    for several in ([encoded, pictures[0]], [encoded[1:2]], iter([encoded[0]])):
        with pytest.raises(DataError, match=r"picture 0 is Encoded and no picture; give .* one or a flat list"):
            both.embed(images=several)


def test_an_encoded_picture_may_be_asked_by_another_predictor_of_the_same_encoder(both, stage1, pictures):
    encoded = both.encode(pictures)
    torch.testing.assert_close(stage1.embed(images=encoded), both.embed(images=pictures), **EXACT)
    weights, layer, side, squash = encoded.encoder
    for another in (
        ("another", layer, side, squash),
        (weights, -2 if layer is None else layer - 1, side, squash),
        (weights, layer, 42, squash),
        (weights, layer, side, True),
    ):
        with pytest.raises(ConfigError, match="encoded by another image encoder"):
            both.caption(Encoded(encoded.patches, False, another))


def test_pictures_pass_the_encoders_centre_view(both, pictures):
    encoder = both._pretrained.encoder
    expected = encoder(encoder.preprocessing.centre(open_image(pictures[0]))[None])
    torch.testing.assert_close(both.encode(pictures[0]).patches, expected)


def test_what_comes_back_can_be_changed_and_later_answers_stay_as_they_were(both, pictures):
    encoded = both.encode(pictures)

    def answers():
        matches = both.match(encoded, TEXTS)
        return matches.itc, matches.itm, matches.score, both.embed(images=encoded), both.embed(texts=TEXTS)

    before = [answer.clone() for answer in answers()]
    for answer in answers():
        answer += 1
    for known, again in zip(before, answers(), strict=True):
        torch.testing.assert_close(again, known, **EXACT)


def test_no_gradient_and_nothing_learns(both, pictures):
    assert not both.embed(images=pictures[0]).requires_grad
    for loaded in both._pretrained.bridges.values():
        assert not loaded.bridge.training
        assert not any(parameter.requires_grad for parameter in loaded.bridge.parameters())


@pytest.mark.parametrize("given", ["stage1", "stage1/bridge", "stage2", "stage2/bridge"])
def test_a_run_or_its_bridge_is_loaded(place, given, pictures, both):
    by = "qformer" if "stage1" in given else "llm"
    alone = Predictor.from_pretrained(str(place / given))
    assert alone.caption(pictures) == both.caption(pictures, by=by)


def test_both_as_two_folders_in_any_order(place, pictures, both):
    two = Predictor.from_pretrained(place / "stage2" / "bridge", place / "stage1")
    assert two.caption(pictures) == both.caption(pictures)
    assert torch.equal(two.match(pictures, TEXTS).score, both.match(pictures, TEXTS).score)


def test_what_a_folder_cannot_do_is_one_sentence(stage1, stage2, place, pictures):
    for ask in (lambda: stage2.match(pictures, TEXTS), lambda: stage2.embed(texts="x")):
        with pytest.raises(
            AbsentPartError, match=rf"is of stage 2: .* cannot (match|embed); .*stage 1 .*{place}/stage1"
        ):
            ask()
    with pytest.raises(AbsentPartError, match=r"is of stage 2: .* cannot caption by 'qformer'; .* stage 1 too"):
        stage2.caption(pictures, by="qformer")
    with pytest.raises(AbsentPartError, match=r"is of stage 1: it matches.* cannot caption by 'llm'; .* stage 2 too"):
        stage1.caption(pictures, by="llm")


def test_wrong_prompts_and_options_are_one_sentence(both, stage1, pictures):
    for images in (pictures, iter(pictures), pictures[0], both.encode(pictures)):
        with pytest.raises(ConfigError, match=r"there are 3 prompts for (5|1) pictures"):
            both.caption(images, ["a", "b", "c"])
    for predictor, by in ((both, "qformer"), (stage1, None)):
        with pytest.raises(ConfigError, match="the Q-Former writes without a prompt"):
            predictor.caption(pictures, "a", by=by)
    with pytest.raises(ConfigError, match="max_new_tokens is 0"):
        both.caption(pictures, max_new_tokens=0)
    with pytest.raises(ConfigError, match="batch_size is 0"):
        both.caption(pictures, batch_size=0)
    with pytest.raises(ConfigError, match="batch_size is 0"):
        both.embed(texts=TEXTS, batch_size=0)
    with pytest.raises(ConfigError, match="by is 'itg'; give 'llm' or 'qformer'"):
        Predictor.caption.__wrapped__(both, pictures, by="itg")
    with pytest.raises(TypeError, match="max_tokens"):
        both.caption(pictures, max_tokens=3)


_WRONG_KINDS = """
import sys
from isthmus import Predictor
from isthmus.errors import UserError
predictor, picture = Predictor.from_pretrained(sys.argv[1]), sys.argv[2]
for call, given in (
    (predictor.caption, dict(images=picture, prompt=5)),
    (predictor.caption, dict(images=[picture, picture], prompt=["a", None])),
    (predictor.caption, dict(images=picture, max_new_tokens="3")),
    (predictor.caption, dict(images=picture, temperature=None)),
    (predictor.caption, dict(images=picture, batch_size=2.5)),
    (predictor.match, dict(images=picture, texts=None)),
    (predictor.match, dict(images=picture, texts=[5])),
    (predictor.embed, dict(texts=[None])),
    (predictor.embed, dict(texts="a", batch_size="2")),
):
    try:
        call(**given)
    except UserError as problem:
        print(problem)
"""


def test_wrong_kinds_of_argument_are_one_sentence(place, pictures):
    """In a process of its own, as people run it: here signatures are checked before anything else."""
    command = [sys.executable, "-c", _WRONG_KINDS, place, pictures[0]]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    prompt = "prompt is neither a string nor a list of strings; give one for all, or one for each picture"
    assert done.stdout.splitlines() == [
        prompt,
        prompt,
        "max_new_tokens is '3': a whole number is needed.",
        "temperature is None: a number is needed.",
        "batch_size is 2.5; give a whole number, 1 or more",
        "NoneType is no text; give one as a string, or a list of strings",
        "text 0 is int and no text; give strings",
        "text 0 is NoneType and no text; give strings",
        "batch_size is '2'; give a whole number, 1 or more",
    ], done.stderr


@pytest.mark.parametrize(
    ("texts", "message"),
    [("", "text 0 is empty"), (["a", " \n"], "text 1 is empty"), ([], "there is no text")],
)
def test_an_empty_text_is_refused(both, pictures, texts, message):
    with pytest.raises(DataError, match=message):
        both.match(pictures, texts)
    with pytest.raises(DataError, match=message):
        both.embed(texts=texts)


def warned(caplog):
    """Our own warnings: notices of lower levels, and other libraries', come and go with what ran before."""
    ours = [record for record in caplog.records if record.name.startswith("isthmus")]
    return [record.getMessage() for record in ours if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("level", [logging.WARNING, logging.INFO])
def test_texts_are_normalised_and_a_long_one_is_cut_with_one_warning(place, pictures, caplog, level):
    with caplog.at_level(level, logger="isthmus"):
        predictor = Predictor.from_pretrained(place / "stage1")
        torch.testing.assert_close(predictor.embed(texts=" a \n red\tcat "), predictor.embed(texts="a red cat"))
        assert not warned(caplog)
        long = "a red cat " * 500
        first = predictor.embed(texts=[long, "sun"])
        predictor.match(pictures[0], long)
    assert warned(caplog) == ["1 text was cut to the 32 tokens that the bridge reads"]
    torch.testing.assert_close(first[0], predictor.embed(texts="a red cat " * 10)[0])


def test_several_long_texts_are_told_as_several(stage1, caplog):
    Predictor(stage1._pretrained).embed(texts=["a red cat " * 500, "sun", "moon " * 99])
    assert warned(caplog) == ["2 texts were cut to the 32 tokens that the bridge reads"]


def test_the_documents_snippets_run(place, pictures, tmp_path, monkeypatch):
    document = Path(__file__).parent.parent / "docs" / "use.md"
    snippets = re.findall(r"^```python\n(.*?)^```$", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert len(snippets) >= 7
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "asked").symlink_to(place / "asked")
    names = {"folder": str(place), "picture": str(pictures[0]), "pictures": [str(path) for path in pictures]}
    for snippet in snippets:
        exec(snippet, names)
    torch.testing.assert_close(names["cosine"], names["precise"].match(pictures, ["a red cat", "the sun"]).itc, **EXACT)
    assert names["one"] == names["several"][0] == names["captions"][0]
    assert names["again"].caption(pictures) == names["several"]
