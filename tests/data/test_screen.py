import struct
import zlib

import pytest
from PIL import Image

from isthmus.data.screen import verdicts, why_unreadable
from isthmus.data.workers import Workers


def bomb():
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.fixture
def files(tmp_path):
    """Every way of being broken that a run may meet, and two whole pictures."""
    Image.effect_noise((64, 64), 50).save(tmp_path / "whole.png")
    contents = {
        "zero bytes.jpg": b"",
        "cut.png": (tmp_path / "whole.png").read_bytes()[:1500],
        "page.jpg": b"<!DOCTYPE html><html></html>",
        "bomb.png": bomb(),
        "vector.png": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    Image.new("L", (3, 3)).save(tmp_path / "grey.gif")
    return [tmp_path / name for name in ("whole.png", *contents, "missing.png", "grey.gif")]


@pytest.mark.parametrize("workers", [0, 2])
def test_every_kind_of_broken_picture_is_found_with_its_reason(files, workers):
    found = list(verdicts(files, Workers(workers)))
    assert found[0] is None and found[-1] is None
    assert [verdict.path for verdict in found[1:-1]] == files[1:-1]
    assert [verdict.name for verdict in found[1:-1]] == [str(path) for path in files[1:-1]]
    starts = [
        "this is no picture in one of",
        "the picture is broken (",
        "this is no picture",
        "the picture has more than",
    ]
    starts += ["this is no picture", "the picture cannot be read (No such file"]
    for verdict, start in zip(found[1:-1], starts, strict=True):
        assert verdict.reason.startswith(start)
    assert found[1] == why_unreadable(files[1])
