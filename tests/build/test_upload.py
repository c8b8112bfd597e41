"""Uploading a bridge: what is put where, and what the Hub's refusals become."""

import shutil

import pytest
from huggingface_hub import HfApi

from blip2_models import retrieval, save_whole
from isthmus import Predictor
from isthmus.build.imported import Towers, convert_in
from isthmus.build.upload import upload_folder
from isthmus.checkpoints.native import read_bridge
from isthmus.errors import UserError


@pytest.fixture(scope="module")
def bridge(tmp_path_factory):
    root = tmp_path_factory.mktemp("bridge")
    convert_in(str(save_whole(retrieval(), root / "theirs")), root / "ours", Towers())
    return root / "ours"


def test_what_is_uploaded_is_a_folder_that_loads(bridge, tmp_path):
    asked = []

    def to_disk(folder, repository, *, private, message):
        asked.append((repository, private, message))
        shutil.copytree(folder, tmp_path / repository)
        return f"there/{repository}"

    predictor = Predictor.from_pretrained(bridge, device="cpu")
    place = predictor.push_to_hub("me/bridge", private=True, licence="MIT", message="first", upload=to_disk)
    assert (place, asked) == ("there/me/bridge", [("me/bridge", True, "first")])
    assert "license: MIT" in (tmp_path / "me/bridge/README.md").read_text()
    assert read_bridge(tmp_path / "me/bridge").sizes == read_bridge(bridge).sizes
    Predictor.from_pretrained(tmp_path / "me/bridge", device="cpu")


def test_the_hub_is_asked_for_one_commit(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(HfApi, "create_repo", lambda self, name, **options: calls.append((name, options)))
    monkeypatch.setattr(HfApi, "upload_folder", lambda self, **options: calls.append(options) or "address")
    assert upload_folder(tmp_path, "me/bridge", private=False, message="first") == "address"
    assert calls == [
        ("me/bridge", {"private": False, "exist_ok": True}),
        {"repo_id": "me/bridge", "folder_path": str(tmp_path), "commit_message": "first"},
    ]


@pytest.mark.parametrize("name", ["no name at all", "a/b/c"])
def test_a_name_that_the_hub_refuses_is_one_sentence(tmp_path, name):
    with pytest.raises(UserError, match=f"nothing was uploaded to {name} .*log in with `hf auth login`"):
        upload_folder(tmp_path, name, private=True, message="first")
