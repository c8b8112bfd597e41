"""Embeddings in one safetensors file: read by the format's own library, there whole or not at all."""

import errno
import json
import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from isthmus.errors import ConfigError, UserError
from isthmus.tasks import embeddings
from isthmus.tasks.embeddings import EmbeddingFile


def test_rows_of_two_tensors_in_pieces(tmp_path):
    path = tmp_path / "new" / "embeddings.safetensors"
    images, texts = torch.randn(3, 2, 4), torch.randn(2, 4).bfloat16()
    with EmbeddingFile(path, overwrite=False) as file:
        file.add("images", ["a", "\udcff"], images[:2])
        file.add("texts", ["one", "two"], texts)
        file.add("images", ["ä"], images[2:])
        assert not path.exists()
        assert file.finish({"models": "runs/a"}) == {"images": (3, 2, 4), "texts": (2, 4)}
    tensors = load_file(path)
    assert torch.equal(tensors["images"], images) and torch.equal(tensors["texts"], texts.float())
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["images"]) == ["a", "\udcff", "ä"] and json.loads(metadata["texts"]) == ["one", "two"]
    assert metadata["models"] == "runs/a" and list(path.parent.iterdir()) == [path]


def test_a_run_that_stops_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), EmbeddingFile(tmp_path / "e", overwrite=False) as file:
        file.add("images", ["a"], torch.zeros(1, 2, 4))
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_file_that_was_there(tmp_path, monkeypatch):
    path = tmp_path / "e"
    path.write_text("before")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(embeddings.shutil, "copyfileobj", full)
    with EmbeddingFile(path, overwrite=True) as file:
        file.add("images", ["a"], torch.zeros(1, 2, 4))
        with pytest.raises(UserError, match=r"e cannot be written \(No space left on device\)"):
            file.finish({})
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_a_place_that_will_not_do_is_refused_first(tmp_path):
    (tmp_path / "e").write_text("")
    with pytest.raises(ConfigError, match="is there already; choose another output, or give --overwrite"):
        EmbeddingFile(tmp_path / "e", overwrite=False)
    with pytest.raises(ConfigError, match="is a folder"):
        EmbeddingFile(tmp_path, overwrite=True)
    with pytest.raises(UserError, match="cannot be written"):
        EmbeddingFile(tmp_path / "e" / "inner", overwrite=False)
