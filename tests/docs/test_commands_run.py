"""The commands of documents that predict and score are run on tiny models, and write what the document shows."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from PIL import Image

from command_line import isthmus
from folders import tiny_config, tiny_stages
from isthmus.checkpoints.native import update_provenance

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parent.parent.parent
FENCE = re.compile(r"^ *```(\w+)\n(.*?)^ *```$", flags=re.MULTILINE | re.DOTALL)
RUN = ("caption", "ask", "match", "embed", "evaluate")
PAGES = {path.name: FENCE.findall(path.read_text()) for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))}
SHOWN = PAGES["commands.md"]


def lines_of(page):
    """A page's commands of these kinds on the runs that every page means."""
    text = "\n".join(block for kind, block in PAGES[page] if kind == "console").replace("\\\n", " ")
    commands = [shlex.split(line, comments=True) for line in text.splitlines()]
    known = re.compile(r"runs/(own|quickstart|asked)(/stage[12])?")
    return [words[1:] for words in commands if words[1:2] and words[1] in RUN and any(map(known.fullmatch, words))]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    place = tiny_stages(tmp_path_factory.mktemp("made") / "own")
    names = ("airplane", "banana", "bus", "cat", "tram-car")
    for number, name in enumerate(names):
        (place / "pictures" / f"{number}.png").rename(place / "pictures" / f"{name}.png")
    rows = [json.dumps({"file_name": f"{name}.png", "text": f"a {name}"}) for name in names]
    for file in ("metadata", "held-out", "development"):
        (place / "pictures" / f"{file}.jsonl").write_text("\n".join(rows))
    return place


@pytest.fixture
def desk(made, tmp_path, monkeypatch):
    """A folder of a reader: pictures with a torn one and a note among them, names, and the runs, to be written in."""
    monkeypatch.chdir(tmp_path)
    for name in ("own", "quickstart"):
        shutil.copytree(made, tmp_path / "runs" / name)
    shutil.copytree(made / "asked", tmp_path / "runs" / "asked")
    shutil.copytree(made / "pictures", "pictures")
    for stage in (1, 2):
        source = {"folder": str(tmp_path / "pictures")}
        config = tiny_config(made, stage, data={"train": source, "evaluation": source}).model_dump(mode="json")
        for name in ("own", "quickstart"):
            update_provenance(tmp_path / "runs" / name / f"stage{stage}" / "bridge", {"config": config})
    shutil.copytree("pictures", "photos")
    (tmp_path / "pictures" / "page.jpg").write_text("no picture")
    for name in ("photo.jpg", "boat.jpg"):
        Image.open("pictures/cat.png").save(name)
    (tmp_path / "models").mkdir()  # towers that moved
    for name, tower in (("clip", "clip"), ("smollm2", "llama")):
        (tmp_path / "models" / name).symlink_to(made / tower)
    (tmp_path / "names.txt").write_text("airplane\nbanana\nguitar\n")
    return tmp_path


def run(capfd, *words):
    """A command's lines on stdout; a broken picture among others is told, and is no failure."""
    capfd.readouterr()
    code = isthmus(*words)
    told = capfd.readouterr()
    assert code in (0, 3), told.err
    return told.out.splitlines()


@pytest.mark.parametrize("page", [page for page in PAGES if lines_of(page)])
def test_commands_run(desk, capfd, page):
    for words in lines_of(page):
        run(capfd, *words)


def test_the_commands_of_every_kind_are_among_them():
    assert {words[0] for page in PAGES for words in lines_of(page)} == set(RUN)


def command(name, number=0):
    return [words for words in lines_of("commands.md") if words[0] == name][number]


def shown(kind, start):
    """The lines of the first block of a kind on the page of commands that begins so."""
    return next(text for word, text in SHOWN if word == kind and text.lstrip().startswith(start)).splitlines()


def shape(value):
    """Keys and kinds of values, of a list those of its first."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    return [shape(inner) for inner in value[:1]] if isinstance(value, list) else type(value)


def same_json(found, wanted):
    assert found and wanted
    assert [shape(json.loads(line)) for line in found[:1]] == [shape(json.loads(line)) for line in wanted[:1]]


def test_captions_are_written_as_shown(desk, capfd):
    one = command("caption")
    found, wanted = run(capfd, *one), shown("text", "pictures/airplane.png")
    assert [line.split("\t")[0] for line in found] == [line.split("\t")[0] for line in wanted]
    same_json(run(capfd, *one, "--json"), shown("json", '{"file_name": "pictures/'))
    ends = run(capfd, *command("caption", 1), "--json")
    same_json(ends, shown("json", '{"output"'))
    same_json((desk / "captions.jsonl").read_text().splitlines(), shown("json", '{"file_name": "airplane.png"'))


def test_answers_are_written_as_shown(desk, capfd):
    lines = run(capfd, *command("ask"))
    assert [line.split("\t")[0] for line in lines] == ["What is it?", "What colour is it?"]
    same_json(run(capfd, *command("ask"), "--json"), shown("json", '{"file_name": "pictures/airplane.png", "answers"'))


def test_matches_are_written_as_shown(desk, capfd):
    found, wanted = run(capfd, *command("match")), shown("text", "score")
    assert found[0].split() == wanted[0].split() and len(found) == len(wanted)
    assert {line.split()[3] for line in found} == {line.split()[3] for line in wanted}
    same_json(run(capfd, *command("match"), "--json"), shown("json", '{"file_name": "pictures/airplane.png", "texts"'))


def test_embeddings_are_told_as_shown(desk, capfd):
    found, wanted = run(capfd, *command("embed")), shown("text", "images")
    assert [re.sub(r"\d+", "N", line) for line in found] == [re.sub(r"\d+", "N", line) for line in wanted]
