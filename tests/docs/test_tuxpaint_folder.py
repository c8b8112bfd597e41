"""The tool that makes the walk through's folder: which pictures it takes, with which captions, and what it refuses."""

import json
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parent.parent.parent / "tools" / "tuxpaint_folder.py"


def run(*arguments):
    return subprocess.run([sys.executable, TOOL, *map(str, arguments)], capture_output=True, text=True, check=False)


def stamp(root, name, text):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(name.encode())
    if text is not None:
        path.with_suffix(".txt").write_text(text, encoding="utf-8")


def test_pictures_with_an_english_first_line_are_taken(tmp_path):
    root, folder = tmp_path / "stamps", tmp_path / "own"
    stamp(root, "animals/frog.png", "A “green” frog. \nde.utf8=Ein Frosch.\n")
    stamp(root, "animals/birds/owl.png", "An owl.")
    stamp(root, "animals/owl_mirror.png", None)
    stamp(root, "animals/empty.png", "\nde.utf8=Leer.")
    stamp(root, "symbols/a.png", "The letter A.")
    done = run(root, folder)
    assert done.stdout == f"{folder}: 2 pictures with captions\n", done.stderr
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines == [
        {"file_name": "animals/birds/owl.png", "text": "An owl."},
        {"file_name": "animals/frog.png", "text": "A “green” frog."},
    ]
    assert (folder / "animals/frog.png").read_bytes() == b"animals/frog.png"


def test_wrong_folders_are_refused(tmp_path):
    assert "holds no picture with a text" in run(tmp_path, tmp_path / "own").stderr
    stamp(tmp_path / "stamps", "frog.png", "A frog.")
    assert "is there already" in run(tmp_path / "stamps", tmp_path).stderr
    assert "Usage" in run(tmp_path).stderr
