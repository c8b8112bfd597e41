"""A training checkpoint: bit-equal there and back, a model folder too, and refused by name for whatever is wrong."""

import errno
import json
import os
import pickle
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from folders import tiny_stages
from isthmus import Predictor
from isthmus.build.bridge import load_bridge
from isthmus.checkpoints import sealed
from isthmus.checkpoints.native import read_bridge, update_provenance
from isthmus.checkpoints.training import check_tensors, read_training, write_training
from isthmus.errors import CheckpointError
from isthmus.fingerprint import file_sha256, tensors_fingerprint
from isthmus.qformer.tokenizer import QFormerTokenizer
from training_files import DAMAGES, NAMES, delete, print_of, save_tokenizer, training_file


@pytest.fixture
def folder(tmp_path):
    write_training(training_file(3), tmp_path / "step", save_tokenizer=save_tokenizer)
    return tmp_path / "step"


def seal(folder):
    """Write the marker anew, as if the files had been saved as they are now: a marker that lies."""
    names = [path.name for path in folder.iterdir() if path.name != "complete"]
    (folder / "complete").write_text(json.dumps({name: file_sha256(folder / name) for name in names}))


def test_a_round_trip_is_bit_equal_and_holds_no_more(folder):
    assert print_of(read_training(folder)) == print_of(training_file(3)) != print_of(training_file(4))
    assert sorted(path.name for path in folder.iterdir()) == sorted([*NAMES, "complete"])
    assert json.loads((folder / "complete").read_text()) == {name: file_sha256(folder / name) for name in NAMES}


def test_dtypes_are_kept_and_an_optimizer_that_took_no_step_is_empty(tmp_path):
    file = training_file(1)
    half = {name: tensor.bfloat16() for name, tensor in file.optimizer.items()}
    write_training(replace(file, optimizer=half), tmp_path / "half")
    assert print_of(read_training(tmp_path / "half")) == print_of(replace(file, optimizer=half))
    write_training(replace(file, optimizer={}, random={}), tmp_path / "bare")
    assert print_of(read_training(tmp_path / "bare")) == print_of(replace(file, optimizer={}, random={}))


def test_it_is_a_model_folder_too(folder):
    file = read_bridge(folder)
    assert tensors_fingerprint(load_bridge(file).state_dict()) == tensors_fingerprint(training_file(3).bridge.tensors)
    update_provenance(folder, {"ranking": {"weight": 0.5}})
    found = read_training(folder)
    assert found.bridge.provenance == {**training_file(3).bridge.provenance, "ranking": {"weight": 0.5}}
    assert tensors_fingerprint(found.optimizer) == tensors_fingerprint(training_file(3).optimizer)


def test_a_predictor_loads_it(tmp_path):
    place = tiny_stages(tmp_path)
    file, tokenizer = read_bridge(place / "stage1" / "bridge"), QFormerTokenizer(place / "bert")
    step = place / "stage1" / "checkpoints" / "step-00000003"
    write_training(replace(training_file(3), bridge=file, optimizer={}), step, save_tokenizer=tokenizer.save)
    pictures = [place / "pictures" / "0.png"]
    there, here = (Predictor.from_pretrained(folder).embed(images=pictures) for folder in (place / "stage1", step))
    assert torch.equal(there, here)


def test_what_was_read_is_its_own(folder):
    """Neither the removal of a folder nor another one in its place changes what was read from it."""
    found = read_training(folder)
    for path in folder.glob("*.safetensors"):
        path.write_bytes(b"\0" * path.stat().st_size)
    shutil.rmtree(folder)
    assert print_of(found) == print_of(training_file(3))


def test_a_folder_may_be_moved(folder, tmp_path):
    folder.rename(tmp_path / "elsewhere")
    assert print_of(read_training(tmp_path / "elsewhere")) == print_of(training_file(3))
    content = b"".join(path.read_bytes() for path in (tmp_path / "elsewhere").iterdir())
    assert str(tmp_path).encode() not in content


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", NAMES)
def test_every_damage_of_every_file_is_named(folder, name, damage):
    damage(folder / name)
    message = rf"it lacks {name}" if damage is delete else rf"{name} is damaged: its sha256"
    with pytest.raises(CheckpointError, match=message):
        read_training(folder)


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_of_the_marker_is_named(folder, damage):
    damage(folder / "complete")
    with pytest.raises(CheckpointError, match=r"it lacks complete|complete is damaged|is damaged: its sha256|lacks"):
        read_training(folder)


@pytest.mark.parametrize("content", ["[]", "{}", "null", '"x"', '{"model.safetensors": 5}'])
def test_a_marker_that_says_nothing_is_no_permission(folder, content):
    (folder / "complete").write_text(content)
    with pytest.raises(CheckpointError, match="is damaged"):
        read_training(folder)


def test_a_marker_that_lies_is_found_out(folder):
    sums = json.loads((folder / "complete").read_text())
    for name in NAMES:
        (folder / "complete").write_text(json.dumps({**sums, name: "0" * 64}))
        with pytest.raises(CheckpointError, match=f"{name} is damaged: its sha256"):
            read_training(folder)
    (folder / "complete").write_text(json.dumps({**sums, "more.json": "0" * 64}))
    with pytest.raises(CheckpointError, match=r"it lacks more\.json"):
        read_training(folder)


@pytest.mark.parametrize("name", NAMES[:-1])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff\xfe\x00"])
def test_nonsense_under_a_marker_that_lies_is_refused_by_the_files_name(folder, name, content):
    (folder / name).write_bytes(content)
    seal(folder)
    with pytest.raises(CheckpointError, match=f"{name} |{folder} has format version None"):
        read_training(folder)


class Trap:
    """A pickle that leaves a file behind where it is opened."""

    def __init__(self, trace):
        self.trace = str(trace)

    def __reduce__(self):
        return (Path.touch, (Path(self.trace),))


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".pth", ".pkl", ".PT"])
def test_a_pickle_beside_it_is_refused_and_not_opened(folder, tmp_path, suffix):
    (folder / f"optimizer{suffix}").write_bytes(pickle.dumps(Trap(tmp_path / "trace")))
    for sealed_again in (False, True):
        if sealed_again:
            seal(folder)
        with pytest.raises(CheckpointError, match=rf"optimizer\{suffix} has the name of a pickle"):
            read_training(folder)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("name", NAMES[:-1])
def test_a_pickle_in_place_of_a_file_is_refused_and_not_opened(folder, tmp_path, name):
    """As bytes, and as torch saves it; under the sum of what was there, and under a marker that lies."""
    torch.save({"x": Trap(tmp_path / "trace")}, tmp_path / "saved")
    for payload in (pickle.dumps(Trap(tmp_path / "trace")), (tmp_path / "saved").read_bytes()):
        (folder / name).write_bytes(payload)
        with pytest.raises(CheckpointError, match=f"{name} is damaged: its sha256"):
            read_training(folder)
        (folder.parent / "copy").mkdir()
        shutil.copytree(folder, folder.parent / "copy", dirs_exist_ok=True)
        seal(folder.parent / "copy")
        with pytest.raises(CheckpointError, match=f"{name} is no"):
            read_training(folder.parent / "copy")
        shutil.rmtree(folder.parent / "copy")
    assert not (tmp_path / "trace").exists()
    pickle.loads(pickle.dumps(Trap(tmp_path / "trace")))
    assert (tmp_path / "trace").exists(), "the trap works"


def test_code_that_a_config_names_is_not_followed(folder, tmp_path, monkeypatch):
    (folder / "modeling_evil.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w')\n")
    names_code = {"auto_map": {"AutoModel": "modeling_evil.Evil"}, "trust_remote_code": True}
    for name in ("config.json", "training.json"):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**content, **names_code}))
    with pytest.raises(CheckpointError, match=r"is damaged: its sha256"):
        read_training(folder)
    seal(folder)
    monkeypatch.chdir(folder)
    assert print_of(read_training(folder)) == print_of(training_file(3))
    assert not (tmp_path / "trace").exists()


def test_another_format_is_refused_by_its_version(folder):
    for name in ("training.json", "config.json"):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**content, "format_version": 7}))
        seal(folder)
        with pytest.raises(CheckpointError, match=r"format version 7, this isthmus reads 1; update isthmus"):
            read_training(folder)


def test_a_position_that_is_none_is_refused(folder):
    (folder / "training.json").write_text('{"format_version": 1, "position": [3]}')
    seal(folder)
    with pytest.raises(CheckpointError, match=r"training\.json lacks the run's position"):
        read_training(folder)


def test_what_is_no_checkpoint_is_refused(folder, tmp_path):
    for place in (tmp_path / "nowhere", folder / "config.json"):
        with pytest.raises(CheckpointError, match=r"there is no folder .* give a checkpoint of a training run"):
            read_training(place)
    with pytest.raises(CheckpointError, match=r"no whole checkpoint: it lacks complete"):
        read_training(tmp_path)


def test_a_file_that_may_not_be_read_is_named(folder, monkeypatch):
    def denied(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(sealed, "file_sha256", denied)
    with pytest.raises(CheckpointError, match=r"\.(json|safetensors|txt) cannot be read \(Permission denied\)"):
        read_training(folder)


MOMENT = "qformer.queries.exp_avg"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop(MOMENT), f"{MOMENT} is missing"),
        (lambda state: state.pop("qformer.queries.step"), "qformer.queries.step is missing"),
        (lambda state: state.update({"nobody.exp_avg": torch.zeros(2)}), "nobody.exp_avg is not known"),
        (lambda state: state.update({"qformer.queries.lr": torch.zeros(2)}), "qformer.queries.lr is not known"),
        (lambda state: state.update({MOMENT: torch.zeros(2, 9)}), rf"{MOMENT} is \(2, 9\) and should be \(2, 8\)"),
    ],
)
def test_moments_that_do_not_fit_the_bridge_are_named(folder, change, message):
    state = training_file(3).optimizer
    change(state)
    save_file(state, folder / "optimizer.safetensors")
    seal(folder)
    with pytest.raises(CheckpointError, match=rf"optimizer\.safetensors does not fit: {message}"):
        read_training(folder)


def test_what_is_no_state_of_a_generator_is_named(folder):
    for state in (torch.zeros(5), torch.zeros(2, 2, dtype=torch.uint8)):
        save_file({"cuda.rank1": state}, folder / "random.safetensors")
        seal(folder)
        with pytest.raises(CheckpointError, match=r"random\.safetensors holds cuda\.rank1, which is no state"):
            read_training(folder)


def test_tensors_are_checked_against_what_is_wanted():
    found = {"a": torch.zeros(2, 3), "b": torch.zeros(())}
    check_tensors(found, {"a": (2, 3), "b": ()}, Path("x.safetensors"))
    wanted = {"a": torch.Size((3, 2)), **{f"c{number}": () for number in range(6)}}
    with pytest.raises(CheckpointError) as raised:
        check_tensors(found, wanted, Path("x.safetensors"))
    missing = ", ".join(f"c{number} is missing" for number in range(5))
    assert str(raised.value) == f"x.safetensors does not fit: {missing} and 3 more; give a checkpoint of this run"


def test_too_little_room_is_said_before_anything_is_written(folder, monkeypatch):
    usage = shutil.disk_usage(folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000))
    with pytest.raises(CheckpointError, match=r"step takes 0\.0\d\d GB and 0\.000 GB are free; free space, or"):
        write_training(training_file(4), folder)
    assert print_of(read_training(folder)) == print_of(training_file(3))
    assert [path.name for path in folder.parent.iterdir()] == ["step"]


@pytest.mark.parametrize("number", range(1, 4))
def test_a_disk_that_is_full_in_the_middle_of_a_file_takes_nothing_away(folder, monkeypatch, number):
    written = []

    def save_some(tensors, path):
        written.append(path)
        save_file(tensors, path)
        if len(written) == number:
            os.truncate(path, path.stat().st_size // 2)
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sealed, "save_file", save_some)
    with pytest.raises(CheckpointError, match=r"step could not be written \(.*No space left.*\); free some space"):
        write_training(training_file(4), folder)
    assert print_of(read_training(folder)) == print_of(training_file(3))
    assert [path.name for path in folder.parent.iterdir()] == ["step"]


def test_a_disk_that_is_full_when_caches_are_emptied_takes_nothing_away(folder, monkeypatch):
    """Every wait for the disk fails once: those of files, of folders, of the folder around."""
    fsync, failed = os.fsync, 0
    for number in range(100):
        calls = iter(range(1000))

        def full(handle, number=number, calls=calls):
            if next(calls) == number:
                raise OSError(errno.ENOSPC, "No space left on device")
            fsync(handle)

        monkeypatch.setattr(os, "fsync", full)
        try:
            write_training(training_file(4), folder, save_tokenizer=save_tokenizer)
        except CheckpointError as problem:
            assert re.search("No space left", str(problem))
            failed += 1
            assert print_of(read_training(folder)) in (print_of(training_file(3)), print_of(training_file(4)))
            continue
        break
    assert failed > len(NAMES)
    assert print_of(read_training(folder)) == print_of(training_file(4))
    assert [path.name for path in folder.parent.iterdir()] == ["step"]
