"""Every snippet of README and docs: YAML is a valid config, Python runs, commands are commands.

The word after the language says what a block is: `yaml` is a whole file, of one run or of both stages; `yaml data` is a
section that stands in a file; `python` runs, the blocks of a document one after another, with `folder`, `picture` and
`pictures` given, and `exported`, a folder of plain transformers; `console` is commands, one a line, of which
`test_commands_run.py` runs those that predict and score; `json` is read, a value a line; `text` is what a program
wrote, and so is a block without a word.
"""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from blip2_models import conditional, save_whole
from folders import tiny_config, tiny_stages
from isthmus.checkpoints.native import update_provenance
from isthmus.cli.app import app
from isthmus.config.stages import load_stages
from isthmus.errors import ConfigError

ROOT = Path(__file__).parent.parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"^ *```([^\n`]*)\n(.*?)^ *```$", flags=re.MULTILINE | re.DOTALL)
OUTSIDE = {"apt-get", "dpkg", "pip", "cd"}
BASE = {
    "output": "runs/a",
    "data": {"train": {"folder": "pictures"}},
    "encoder": {"kind": "timm", "name": "vit"},
    "train": {"steps": 10, "batch_size": 4},
}
STAGES = [
    {**BASE, "stage": 1, "bridge": {"bert": "folder:bert"}},
    {**BASE, "stage": 2, "init": {"from": "runs/b"}, "llm": {"weights": "folder:llama"}},
]


def blocks(*languages):
    """Every block of these languages, with the document it stands in."""
    found = [(path, kind.split(), text) for path in DOCUMENTS for kind, text in FENCE.findall(path.read_text())]
    return [(path, kind[1:], text) for path, kind, text in found if kind and kind[0] in languages]


def named(found):
    """Parameters that are called by document and number."""
    return [pytest.param(*each, id=f"{each[0].relative_to(ROOT)}-{number}") for number, each in enumerate(found)]


def read(tmp_path, content):
    path = tmp_path / "snippet.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return load_stages(path)


def test_no_block_is_passed_over():
    known = {"yaml", "python", "console", "json", "text"}
    for path in DOCUMENTS:
        for kind, text in FENCE.findall(path.read_text()):
            assert not kind or kind.split()[0] in known, f"{path.name}: a block {kind!r}: {text[:40]!r}"
            hidden = kind in ("", "text") and re.search(r"^(isthmus|import|from) ", text, re.MULTILINE)
            assert not hidden, f"{path.name}: a block without a word holds a command: {text[:40]!r}"
    assert all(len(blocks(language)) for language in ("yaml", "python", "console", "json"))


@pytest.mark.parametrize(("path", "section", "text"), named(blocks("yaml")))
def test_yaml_is_a_valid_file_or_section(tmp_path, path, section, text):
    if not section:
        assert read(tmp_path, text).runs
        return
    content = yaml.safe_load(text)
    assert list(content) == section, f"the block says it is the section {section[0]}"
    refused = []
    for base in STAGES:
        own, said = base.get(section[0]), content[section[0]]
        laid = {**own, **said} if isinstance(own, dict) and "kind" not in said else said
        try:
            read(tmp_path, {**base, section[0]: laid})
        except ConfigError as problem:
            refused.append(str(problem))
    assert len(refused) < len(STAGES), refused


@pytest.mark.parametrize(("path", "_", "text"), named(blocks("json")))
def test_json_is_json(path, _, text):
    assert all(json.loads(line) for line in text.splitlines())


def commands(text):
    """The commands of a block: comments gone, lines that end in a backslash joined."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def parse(arguments):
    """Read arguments as the command line does, without running it; returns the command's name and parameters."""
    command, rest = get_command(app), list(arguments)
    while hasattr(command, "commands"):
        assert rest and rest[0] in command.commands, f"no command {' '.join(arguments)}"
        command = command.commands[rest.pop(0)]
    return command.name, command.make_context(command.name, rest).params


def isthmus_arguments(words):
    """The arguments of isthmus in a command, however it is started; none where it is another program's."""
    if Path(words[0]).name == "isthmus":
        return words[1:]
    if words[0] in ("torchrun", "accelerate") and "isthmus" in words:
        assert words[words.index("isthmus") - 1] == "-m"
        return words[words.index("isthmus") + 1 :]
    return None


@pytest.mark.parametrize(("path", "_", "text"), named(blocks("console")))
def test_commands_are_commands(path, _, text):
    for words in commands(text):
        arguments = isthmus_arguments(words)
        if arguments is not None:
            names, given = parse(arguments)
            recipe = given.get("config")
            if recipe is not None and recipe.parts[0] == "recipes":
                assert load_stages(ROOT / recipe, given["overrides"] or [], only=given.get("stage")).runs, names
        elif words[0] == "make":
            targets = [word for word in words[1:] if "=" not in word]
            assert all(re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE) for target in targets)
        elif Path(words[0]).name == "python" or words[0].startswith("."):
            assert (ROOT / words[words[0].endswith("python")]).is_file(), words
        else:
            assert words[0] in OUTSIDE, words


def test_a_slip_in_a_command_is_found():
    with pytest.raises(AssertionError, match="no command trane"):
        parse(["trane", "recipes/own-folder.yaml"])
    with pytest.raises(Exception, match="No such option"):
        parse(["train", "recipes/own-folder.yaml", "--stages", "2"])


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The runs of both stages under the names that documents use, and pictures with captions."""
    place = tiny_stages(tmp_path_factory.mktemp("world") / "own")
    lines = [json.dumps({"file_name": f"{n}.png", "text": f"a {c} cat"}) for n, c in enumerate(("red", "blue", "big"))]
    (place / "pictures" / "metadata.jsonl").write_text("\n".join(lines))
    source = {"folder": str(place / "pictures")}
    for stage in (1, 2):
        config = tiny_config(place, stage, data={"train": source, "evaluation": source})
        update_provenance(place / f"stage{stage}" / "bridge", {"config": config.model_dump(mode="json")})
    (place / "stage1" / "log.jsonl").write_text('{"start": "from a BERT"}\n{"step": 2, "itc": 1.0}\n{"st')
    return place


PYTHON = sorted({path for path, _, _ in blocks("python")})
FOLDERS = {"evaluation.md": "stage2"}  # every other document means the folder that holds both runs


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_runs(world, tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for name in ("own", "quickstart", "stamps"):
        (tmp_path / "runs" / name).symlink_to(world)
    (tmp_path / "runs" / "asked").symlink_to(world / "asked")
    pictures = sorted((world / "pictures").glob("*.png"))
    names = {"folder": world / FOLDERS.get(path.name, ""), "picture": pictures[0], "pictures": pictures}
    names["exported"] = save_whole(conditional(), tmp_path / "exported")
    for number, (_, _, text) in enumerate(block for block in blocks("python") if block[0] == path):
        exec(compile(text, f"{path.name}, block {number}", "exec"), names)
