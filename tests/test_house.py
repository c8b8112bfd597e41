"""The house itself: sizes, docstrings, documents that a reader can type in."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "src/isthmus").rglob("*.py"))
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def sizes(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "tools/sizes.py"), str(folder)], capture_output=True, text=True, check=False
    )


def function(name: str, lines: int) -> str:
    """A function of so many lines, `def` included."""
    return f"def {name}():\n" + "    pass\n" * (lines - 1)


def test_sizes_of_the_package_are_kept() -> None:
    for folder in ("src/isthmus", "benchmarks"):
        done = sizes(ROOT / folder)
        assert done.returncode == 0, done.stdout


def test_texts_are_utf_8_whatever_the_system_s_own_encoding_is() -> None:
    """The kernel's own files aside, which are ASCII everywhere."""
    unsaid = re.compile(r"(?<!_CPUINFO)(?<!_STATUS)\.read_text\(\)|(?<!_CLEAR_REFS)\.write_text\((?!.*encoding=)")
    found = {str(path): unsaid.findall(path.read_text(encoding="utf-8")) for path in MODULES}
    assert not {path: calls for path, calls in found.items() if calls}


def test_sizes_names_what_is_too_large(tmp_path: Path) -> None:
    (tmp_path / "long.py").write_text("x = 1\n" * 251)
    (tmp_path / "functions.py").write_text(function("fits", 40) + function("too_long", 41))
    deep = tmp_path / "a/b"
    deep.mkdir(parents=True)
    (deep / "buried.py").write_text("")
    done = sizes(tmp_path)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        f"{deep / 'buried.py'}: lies 3 packages deep, at most 2 are allowed",
        f"{tmp_path / 'functions.py'}:41: too_long has 41 lines, at most 40 are allowed",
        f"{tmp_path / 'long.py'}: 251 lines, at most 250 are allowed",
    ]


def test_sizes_does_not_count_docstrings(tmp_path: Path) -> None:
    body = '    """One.\n\n    Two.\n    """\n' + "    pass\n" * 39
    (tmp_path / "documented.py").write_text(f"def documented():\n{body}")
    assert sizes(tmp_path).returncode == 0


def test_sizes_passes_over_environments(tmp_path: Path) -> None:
    (tmp_path / "fits.py").write_text("x = 1\n")
    (tmp_path / ".venvs/a").mkdir(parents=True)
    (tmp_path / ".venvs/a/foreign.py").write_text("x = 1\n" * 251)
    assert sizes(tmp_path).returncode == 0


def test_sizes_of_nothing_is_no_pass(tmp_path: Path) -> None:
    assert sizes(tmp_path).returncode == 2


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_every_module_says_what_it_is_for(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring, f"{path} has no docstring"
    assert len(docstring) > 10


def test_links_between_documents_lead_somewhere() -> None:
    for path in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def unfilled(text: str) -> list[str]:
    """Places of a document that wait for the output of a command: marks with nothing between them."""
    return re.findall(r"<!-- (.+?): begin.*?-->\s*<!-- \1: end -->", text)


def test_no_document_waits_for_its_figures() -> None:
    marked = "<!-- output: begin (of it) -->{}<!-- output: end -->"
    assert unfilled(marked.format("\n")) == ["output"]
    assert not unfilled(marked.format("\n1.5 s\n"))
    assert not {path.name: found for path in DOCUMENTS if (found := unfilled(path.read_text(encoding="utf-8")))}


def test_tree_in_the_readme_names_every_room() -> None:
    readme = (ROOT / "README.md").read_text()
    for room in sorted({path.parent.name for path in MODULES} - {"isthmus"}):
        assert f"{room}/" in readme, f"the tree in README.md lacks {room}/"


def test_citation_file_is_whole() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors", "references"} <= set(citation)
    assert citation["references"][0]["identifiers"][0]["value"] == "arXiv:2301.12597"


def test_constraints_pin_what_is_installed() -> None:
    """Each line is an exact version: a range there would be no tested version."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+==[0-9][^ ;]*(; .+)?", line) for line in pins)
