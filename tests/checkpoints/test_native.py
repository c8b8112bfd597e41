"""isthmus's own model folder: whole or not at all, checked byte by byte, never unpickled."""

import json
import pickle
import shutil
from dataclasses import asdict

import pytest
import torch

from bridges import tiny_bridge
from isthmus.build.bridge import load_bridge
from isthmus.checkpoints import sealed
from isthmus.checkpoints.native import read_bridge, read_provenance, update_provenance, write_bridge
from isthmus.errors import CheckpointError
from isthmus.fingerprint import file_sha256, tensors_fingerprint
from isthmus.records import BridgeFile


def bridge_file(stage=1, **sizes):
    bridge = tiny_bridge(**sizes).float()
    return BridgeFile(
        bridge.sizes, dict(bridge.state_dict()), {"stage": stage, "towers": {"encoder": {"address": "x"}}}
    )


@pytest.fixture
def folder(tmp_path):
    write_bridge(bridge_file(), tmp_path / "bridge")
    return tmp_path / "bridge"


def seal(folder):
    """Write the marker anew, as if the files had been saved like this."""
    sums = {name: file_sha256(folder / name) for name in ("config.json", "model.safetensors")}
    (folder / "complete").write_text(json.dumps(sums))


def test_a_round_trip_is_bit_equal(folder):
    file, found = bridge_file(), read_bridge(folder)
    assert tensors_fingerprint(found.tensors) == tensors_fingerprint(file.tensors)
    assert (found.sizes, found.provenance) == (file.sizes, file.provenance)
    assert tensors_fingerprint(load_bridge(found).state_dict()) == tensors_fingerprint(file.tensors)
    assert sorted(path.name for path in folder.iterdir()) == ["complete", "config.json", "model.safetensors"]


def test_the_provenance_alone_is_read_without_the_weights(folder, monkeypatch):
    monkeypatch.setattr(sealed, "load_file", lambda _: pytest.fail("the weights were read"))
    summed = []
    monkeypatch.setattr(sealed, "file_sha256", lambda path: summed.append(path.name) or file_sha256(path))
    assert read_provenance(folder) == bridge_file().provenance
    assert summed == ["config.json"]


@pytest.mark.parametrize("left", [0, 5, 1000, -1])
def test_weights_that_are_cut_off_are_seen_without_reading_them(folder, left):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:left])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged \(.+\); take it from"):
        read_provenance(folder)


def test_a_file_that_may_not_be_read_is_named(folder, monkeypatch):
    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(sealed, "file_sha256", denied)
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read \(Permission denied\); see to"):
        read_provenance(folder)


def test_bf16_comes_back_as_bf16(tmp_path):
    file = bridge_file()
    half = BridgeFile(file.sizes, {name: t.bfloat16() for name, t in file.tensors.items()}, file.provenance)
    write_bridge(half, tmp_path / "bridge")
    assert tensors_fingerprint(read_bridge(tmp_path / "bridge").tensors) == tensors_fingerprint(half.tensors)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("place", [0.0, 0.5, 0.999])
def test_a_damaged_byte_is_refused_by_the_files_name(folder, name, place):
    content = bytearray((folder / name).read_bytes())
    content[int(place * len(content))] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{name} is damaged"):
        read_bridge(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b"{}"])
def test_a_damaged_marker_is_refused(folder, content):
    (folder / "complete").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"is damaged"):
        read_bridge(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "complete"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"it lacks {name}"):
        read_bridge(folder)


def test_what_is_no_folder_is_refused(folder, tmp_path):
    for place in (tmp_path / "nowhere", folder / "config.json"):
        with pytest.raises(CheckpointError, match=r"there is no folder .* give the folder of a training run"):
            read_bridge(place)


@pytest.mark.parametrize("version", [0, 2, None])
def test_another_format_is_refused_by_its_version(folder, version):
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, "format_version": version}))
    seal(folder)
    with pytest.raises(CheckpointError, match=f"has format version {version}, this isthmus reads 1"):
        read_bridge(folder)


def test_sizes_of_another_isthmus_are_refused_by_name(folder):
    content = json.loads((folder / "config.json").read_text())
    content["sizes"] = {**asdict(bridge_file().sizes), "gates": 2}
    (folder / "config.json").write_text(json.dumps(content))
    seal(folder)
    with pytest.raises(CheckpointError, match="other sizes than this isthmus knows: gates"):
        read_bridge(folder)


@pytest.mark.parametrize("content", [b"[]", b"null", b"{", b"\xff\xfe"])
def test_a_config_that_is_none_is_refused_by_its_name(folder, content):
    (folder / "config.json").write_bytes(content)
    seal(folder)
    with pytest.raises(CheckpointError, match=r"config\.json is no config of a bridge; give another folder"):
        read_bridge(folder)


@pytest.mark.parametrize("lost", ["sizes", "provenance"])
def test_a_config_that_lacks_a_part_is_refused_by_its_name(folder, lost):
    content = json.loads((folder / "config.json").read_text())
    for value in ({}, {lost: 3}):
        kept = {key: part for key, part in content.items() if key != lost}
        (folder / "config.json").write_text(json.dumps({**kept, **value}))
        seal(folder)
        with pytest.raises(CheckpointError, match=r"config\.json lacks sizes or provenance"):
            read_bridge(folder)


def test_too_little_room_is_said_before_anything_is_written(folder, monkeypatch):
    usage = shutil.disk_usage(folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
    with pytest.raises(CheckpointError, match=r"bridge takes 0\.0\d\d GB and 0\.000 GB are free; free space, or"):
        write_bridge(bridge_file(2), folder)
    assert read_bridge(folder).provenance["stage"] == 1
    assert [path.name for path in folder.parent.iterdir()] == ["bridge"]


def test_a_pickle_is_never_read(folder):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was read",))

    (folder / "model.safetensors").write_bytes(pickle.dumps(Trap()))
    seal(folder)
    with pytest.raises(CheckpointError, match=r"model.safetensors is no readable safetensors file"):
        read_bridge(folder)
    torch.save({"x": torch.zeros(1)}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"it lacks model.safetensors"):
        read_bridge(folder)


def test_a_folder_that_is_no_model_is_refused_and_left_alone(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.jpg").write_text("mine")
    (tmp_path / "note").write_text("mine")
    for place in (tmp_path / "photos", tmp_path / "note"):
        with pytest.raises(CheckpointError, match="exists and is no model folder"):
            write_bridge(bridge_file(), place)
    assert (tmp_path / "photos" / "1.jpg").read_text() == (tmp_path / "note").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 2


def test_an_empty_folder_and_an_older_bridge_are_replaced(tmp_path):
    (tmp_path / "bridge").mkdir()
    for stage in (1, 2):
        write_bridge(bridge_file(stage), tmp_path / "bridge")
        assert read_bridge(tmp_path / "bridge").provenance["stage"] == stage
    assert [path.name for path in tmp_path.iterdir()] == ["bridge"]


def refuse(*_, **__):
    raise OSError(28, "No space left on device")


def test_a_failure_while_writing_leaves_the_old_bridge_and_nothing_else(folder, monkeypatch):
    def save_tokenizer(_):
        raise RuntimeError("the tokenizer cannot be saved")

    with pytest.raises(RuntimeError, match="the tokenizer"):
        write_bridge(bridge_file(2), folder, save_tokenizer=save_tokenizer)
    monkeypatch.setattr(sealed, "save_file", refuse)
    with pytest.raises(CheckpointError, match=r"could not be written .*No space left"):
        write_bridge(bridge_file(2), folder)
    assert read_bridge(folder).provenance["stage"] == 1
    assert [path.name for path in folder.parent.iterdir()] == ["bridge"]


def test_a_failure_while_replacing_puts_the_old_bridge_back(folder, monkeypatch):
    rename, path_type = type(folder).rename, type(folder)

    def fail_on_the_last(path, target):
        if target == folder and not path.name.endswith("-old"):
            refuse()
        return rename(path, target)

    monkeypatch.setattr(path_type, "rename", fail_on_the_last)
    with pytest.raises(CheckpointError, match="could not be written"):
        write_bridge(bridge_file(2), folder)
    assert (folder / "complete").is_file(), "in its place before anything reads it"
    assert read_bridge(folder).provenance["stage"] == 1
    assert [path.name for path in folder.parent.iterdir()] == ["bridge"]


def test_a_bridge_that_was_being_replaced_when_the_process_died_is_found(folder):
    folder.rename(folder.with_name(".bridge-old"))
    assert read_bridge(folder).provenance["stage"] == 1
    folder.rename(folder.with_name(".bridge-old"))
    write_bridge(bridge_file(2), folder)
    assert read_bridge(folder).provenance["stage"] == 2
    assert [path.name for path in folder.parent.iterdir()] == ["bridge"]


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"cannot be written .* choose another place"):
        write_bridge(bridge_file(), tmp_path / "file" / "bridge")


def test_the_tokenizer_is_saved_beside_the_weights(tmp_path):
    write_bridge(bridge_file(), tmp_path / "bridge", save_tokenizer=lambda place: (place / "vocab.txt").write_text("a"))
    assert (tmp_path / "bridge" / "vocab.txt").read_text() == "a"


def content_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_provenance_is_updated_and_all_else_is_kept(tmp_path):
    def save_tokenizer(place):
        (place / "vocab.txt").write_text("a")
        (place / "extra").mkdir()
        (place / "extra" / "note").write_text("b")

    folder = tmp_path / "bridge"
    write_bridge(bridge_file(), folder, save_tokenizer=save_tokenizer)
    before = content_of(folder)
    update_provenance(folder, {"ranking": {"weight": 0.5}, "stage": 1})
    found = read_bridge(folder)
    assert found.provenance == {**bridge_file().provenance, "ranking": {"weight": 0.5}}
    assert tensors_fingerprint(found.tensors) == tensors_fingerprint(bridge_file().tensors)
    after = content_of(folder)
    assert after.keys() == before.keys()
    assert {str(name) for name in after if after[name] != before[name]} == {"config.json", "complete"}
    update_provenance(folder, {"ranking": {"weight": 0.25}})
    assert read_bridge(folder).provenance["ranking"] == {"weight": 0.25}
    assert [path.name for path in tmp_path.iterdir()] == ["bridge"]


def test_an_update_copies_where_files_cannot_be_linked(folder, monkeypatch):
    monkeypatch.setattr(type(folder), "hardlink_to", refuse)
    update_provenance(folder, {"note": 1})
    assert read_bridge(folder).provenance["note"] == 1


def test_an_update_that_fails_leaves_the_folder_as_it_was(folder, monkeypatch):
    before = content_of(folder)
    monkeypatch.setattr(sealed, "flush_tree", refuse)
    with pytest.raises(CheckpointError, match="could not be written"):
        update_provenance(folder, {"note": 1})
    assert content_of(folder) == before
    with pytest.raises(TypeError):
        update_provenance(folder, {"note": object()})
    assert content_of(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["bridge"]


def test_an_update_seals_no_damage_in(folder):
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    update_provenance(folder, {"note": 1})
    with pytest.raises(CheckpointError, match=r"model.safetensors is damaged"):
        read_bridge(folder)
    (folder / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"config.json is damaged"):
        update_provenance(folder, {"note": 1})
    with pytest.raises(CheckpointError, match="there is no folder"):
        update_provenance(folder / "nothing", {})


def test_tensors_that_do_not_fit_their_sizes_are_refused_by_name():
    file = bridge_file()
    fewer = {name: tensor for name, tensor in file.tensors.items() if name != "heads.match.bias"}
    other = {**file.tensors, "heads.match.bias": torch.zeros(3)}
    for tensors, message in ((fewer, "heads.match.bias"), (other, r"heads.match.bias \(3,\)")):
        with pytest.raises(CheckpointError, match=message):
            load_bridge(BridgeFile(file.sizes, tensors, {}))
