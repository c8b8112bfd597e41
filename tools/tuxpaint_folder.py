"""Make a folder of captioned pictures of Tux Paint's stamps, for the walk through docs/training.md.

Usage: python tools/tuxpaint_folder.py STAMPS FOLDER

STAMPS is `usr/share/tuxpaint/stamps` of the unpacked Debian package tuxpaint-stamps-default (GPL-2), where the first
line of x.txt says in English what x.png shows. Its `symbols` are letters, signs and coins and are left out. Copies the
pictures and writes metadata.jsonl; FOLDER must be new.
"""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

LEFT_OUT = {"symbols"}


def stamps(root: Path) -> Iterator[tuple[Path, str]]:
    """Each picture that has a caption, with it; in the order of their names."""
    for picture in sorted(root.rglob("*.png")):
        text = picture.with_suffix(".txt")
        if picture.relative_to(root).parts[0] in LEFT_OUT or not text.is_file():
            continue
        caption = text.read_text(encoding="utf-8", errors="replace").partition("\n")[0].strip()
        if caption:
            yield picture, caption


def make_folder(root: Path, folder: Path) -> int:
    """Copy the pictures, their folders kept, and write what they show; returns how many there are."""
    found = list(stamps(root))
    if not found:
        raise SystemExit(f"{root} holds no picture with a text; give usr/share/tuxpaint/stamps of the unpacked package")
    if folder.exists():
        raise SystemExit(f"{folder} is there already; give a folder that is not")
    lines = []
    for picture, caption in found:
        name = picture.relative_to(root)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(picture, folder / name)
        lines.append(json.dumps({"file_name": name.as_posix(), "text": caption}, ensure_ascii=False))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)


def main() -> None:
    """Make the folder that the command line asks for."""
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    print(f"{sys.argv[2]}: {make_folder(Path(sys.argv[1]), Path(sys.argv[2]))} pictures with captions")


if __name__ == "__main__":
    main()
