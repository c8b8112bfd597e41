"""Files that may not be read: simulated, since tests may run as root, whom no permission stops."""

import errno
import os
from pathlib import Path

import pytest


def _denied(path):
    return PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


@pytest.fixture
def no_permission(monkeypatch):
    """From the call on, a file cannot be opened, or what is in a folder can neither be listed nor looked at."""

    def no_permission(closed):
        stat, scandir, opened = os.stat, os.scandir, Path.open
        is_folder = closed.is_dir()

        def guard(call, refuse):
            def guarded(path, *rest, **more):
                if refuse(Path(os.fspath(path))):
                    raise _denied(path)
                return call(path, *rest, **more)

            return guarded

        within = (lambda path: closed in path.parents) if is_folder else (lambda path: False)
        monkeypatch.setattr(Path, "open", guard(opened, lambda path: path == closed or within(path)))
        monkeypatch.setattr(os, "stat", guard(stat, within))
        monkeypatch.setattr(os, "listdir", guard(os.listdir, lambda path: is_folder and path == closed))
        monkeypatch.setattr(os, "scandir", guard(scandir, lambda path: is_folder and path == closed))

    return no_permission
