"""From archives to the folders that the tasks read: unpacked aside, moved into place when all is there."""

import fnmatch
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree

from benchmarks.data.dataset import Archive, DataSet, is_shown
from benchmarks.data.unpack import Limits, gunzip, unpack
from results.errors import UserError
from results.files import replacing, write_json
from results.settings import load_yaml

STAMP = ".prepared.json"


def prepare(data_set: DataSet, home: Path, tell: Callable[[str], None] = print) -> int:
    """Unpack every archive of a data set that lies in its folder, and return how many there were.

    Archives are kept. A second call does nothing: what was unpacked from which archive (name, bytes, time) stands in
    `.prepared.json`. What is stopped half-way leaves the folder as it was.

    Raises:
        UserError: there is no archive and none is needed any more either, or an archive is refused (see `unpack`), or what it
            holds is there already from elsewhere.
    """
    count = 0
    for archive in data_set.archives:
        paths = sorted({path for pattern in archive.patterns for path in home.glob(pattern) if path.is_file()})
        gzipped = [path for path in paths if path.suffix == ".gz" and not path.name.endswith(".tar.gz")]
        for path in gzipped:
            _gunzip(path, archive, tell)
        packed = [path for path in paths if path not in gzipped]
        if packed:
            _unpack(packed, archive, home, tell)
        count += len(paths)
    return count


def _gunzip(path: Path, archive: Archive, tell: Callable[[str], None]) -> None:
    target = path.with_suffix("")
    if target.exists():
        tell(f"{target.name}: already there")
        return
    with replacing(target) as temporary:
        gunzip(path, temporary, Limits(archive.most_bytes, 1))
    tell(f"{target.name}: unpacked, {target.stat().st_size / 1e6:,.1f} MB")


def _unpack(paths: list[Path], archive: Archive, home: Path, tell: Callable[[str], None]) -> None:
    target = home / archive.into
    stamp, key = _read_stamp(home), archive.into or "."
    made_from = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in paths]
    before = stamp.get(key, {})
    is_same = isinstance(before, dict) and before.get("from") == made_from and isinstance(before.get("names"), list)
    if is_same and all((target / name).exists() for name in before["names"]):
        tell(f"{target}: already unpacked")
        return
    with _staging(home) as staging:
        limits = Limits(archive.most_bytes, archive.most_files)
        count = sum(unpack(path, staging, limits) for path in paths)
        top = _top(staging, archive.markers, paths[0])
        names = sorted(entry.name for entry in top.iterdir())
        mine = set(before["names"]) if is_same else set()
        taken = [name for name in names if (target / name).exists() and name not in mine]
        if taken:
            raise UserError(
                f"{target / taken[0]} is there already and was not unpacked from {paths[0].name}: move it away, or leave it and "
                "run 'verify'."
            )
        target.mkdir(parents=True, exist_ok=True)
        write_json(home / STAMP, stamp | {key: {"from": made_from, "names": names}})
        for name in names:
            if not (target / name).exists():
                os.replace(top / name, target / name)
    tell(f"{target}: {count:,} files from {', '.join(path.name for path in paths)}")


def _read_stamp(home: Path) -> dict[str, dict[str, list]]:
    path = home / STAMP
    return load_yaml(path) if path.is_file() else {}


@contextmanager
def _staging(home: Path) -> Iterator[Path]:
    for old in home.glob(".unpacking-*"):
        rmtree(old)
    staging = home / f".unpacking-{uuid.uuid4().hex[:8]}"
    staging.mkdir()
    try:
        yield staging
    finally:
        rmtree(staging)


def _top(folder: Path, markers: tuple[str, ...], archive: Path) -> Path:
    """Return the folder, within folders wrapped around it, that holds one of the markers."""
    while True:
        entries = [entry for entry in folder.iterdir() if is_shown(entry.name)]
        if any(fnmatch.fnmatch(entry.name, marker) for entry in entries for marker in markers):
            return folder
        if len(entries) != 1 or not entries[0].is_dir():
            raise UserError(f"{archive} holds none of {', '.join(markers)}: it is another archive than expected.")
        folder = entries[0]
