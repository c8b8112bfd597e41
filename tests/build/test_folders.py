"""Which bridges a folder holds, by the files that are there."""

import pytest

from isthmus.build.folders import bridge_folders, one_bridge
from isthmus.errors import ConfigError


def make(folder, *names):
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "config.json").write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("made", "found"),
    [
        (["."], ["."]),
        (["bridge"], ["bridge"]),
        (["stage1/bridge", "stage2/bridge"], ["stage1/bridge", "stage2/bridge"]),
        (["stage1", "stage2"], ["stage1", "stage2"]),
        (["stage2/bridge"], ["stage2/bridge"]),
        (["bridge", "stage1/bridge"], ["bridge"]),
        ([], ["."]),
    ],
    ids=str,
)
def test_a_bridge_a_run_and_a_folder_of_runs(tmp_path, made, found):
    make(tmp_path, *made)
    assert bridge_folders(tmp_path) == [tmp_path / name for name in found]


@pytest.mark.parametrize("made", [["."], ["bridge"], [], ["bridge", "stage1"]], ids=str)
def test_one_bridge_is_that_of_the_run(tmp_path, made):
    assert [one_bridge(make(tmp_path, *made))] == bridge_folders(tmp_path)


def test_of_several_runs_one_is_asked_for(tmp_path):
    make(tmp_path, "stage2")
    with pytest.raises(ConfigError, match=f"holds stage2, and one bridge is asked for; give {tmp_path}/stage2$"):
        one_bridge(tmp_path)
    make(tmp_path, "stage1/bridge")
    with pytest.raises(ConfigError, match=f"holds stage1 and stage2, .*; give {tmp_path}/stage1 or {tmp_path}/stage2$"):
        one_bridge(tmp_path)
