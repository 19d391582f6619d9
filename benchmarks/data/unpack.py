"""Archives from others: nothing leaves the folder, nothing is a link, nothing is larger than it may be."""

import gzip
import os
import shutil
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from benchmarks.data.dataset import is_shown
from results.errors import UserError

CHUNK = 1 << 20
MOST_DEPTH, MOST_NAME, MOST_READ = 16, 255, 16 << 20
MOST_DIRECTORY = 128 << 20
"""Most bytes of a zip's list of files: 100,000 names take about 12 MB."""

RATIO, RATIO_FROM = 200, 64 << 20
"""Most that an archive may grow, counted from where it matters."""

SPARE_BYTES = 256 << 20


@dataclass
class Limits:
    """What may come out of the archives of one folder; counted down as it comes.

    Attributes:
        most_bytes, most_files: how much, together.
        seen: names so far, to find two that are one on disks that ignore case.
    """

    most_bytes: int
    most_files: int
    seen: dict[str, str] = field(default_factory=dict)


def unpack(archive: Path, folder: Path, limits: Limits) -> int:
    """Unpack a zip or tar (also .tar.gz, .tgz) below `folder` and return the number of files.

    Modes, owners and times are not taken over. Hidden files and what desktops leave in archives are left out.

    Raises:
        UserError: no archive, broken, encrypted, a path that leaves the folder, a link or device, a name twice, or more files
            or bytes than the limits.
    """
    try:
        if zipfile.is_zipfile(archive):
            return _unzip(archive, folder, limits)
        with open(archive, "rb") as file:
            start = file.read(512)
        if start.startswith(b"\x1f\x8b") or start[257:262] == b"ustar":
            return _untar(archive, start.startswith(b"\x1f\x8b"), folder, limits)
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        gzip.BadGzipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
        struct.error,
    ) as error:
        raise UserError(f"{archive} is broken ({error}): fetch it again.") from error
    raise UserError(f"{archive} is neither a zip nor a tar archive: fetch it again.")


def gunzip(archive: Path, target: Path, limits: Limits) -> None:
    """Unpack a .gz file to `target` (a temporary name of the caller's)."""
    growing = _Growth(archive, limits)
    try:
        with gzip.open(archive) as source, open(target, "wb") as file:
            growing.copy(source, file, archive.name)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise UserError(f"{archive} is broken ({error}): fetch it again.") from error


class _Growth:
    """Counts what comes out of one archive."""

    def __init__(self, archive: Path, limits: Limits) -> None:
        self.archive, self.limits, self.bytes = archive, limits, 0
        self.most_ratio = max(RATIO_FROM, RATIO * archive.stat().st_size)

    def copy(self, source: IO[bytes], target: IO[bytes], name: str) -> None:
        while data := source.read(CHUNK):
            self.bytes += len(data)
            self.limits.most_bytes -= len(data)
            if self.limits.most_bytes < 0:
                raise UserError(
                    f"{self.archive}: '{name[:80]}' passes the size that this data set can have; it is not unpacked."
                )
            if self.bytes > self.most_ratio:
                raise UserError(f"{self.archive} grows to more than {RATIO} times its size; it is not unpacked.")
            target.write(data)

    def rest(self, stream: IO[bytes]) -> None:
        """Read what follows, which is thrown away and counted all the same."""
        while data := stream.read(CHUNK):
            self.bytes += len(data)
            if self.bytes > self.most_ratio:
                raise UserError(f"{self.archive} grows to more than {RATIO} times its size; it is not unpacked.")


def _unzip(archive: Path, folder: Path, limits: Limits) -> int:
    _check_directory(archive)
    with zipfile.ZipFile(archive) as source:
        members = [member for member in source.infolist() if not member.is_dir()]
        _check_room(archive, folder, sum(member.file_size for member in members), limits)
        growth, count = _Growth(archive, limits), 0
        for member in source.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise UserError(f"{archive}: '{member.filename[:80]}' is a link or device; it is not unpacked.")
            parts = _parts(archive, member.orig_filename)
            if member.is_dir() or not parts:
                continue
            if member.flag_bits & 1:
                raise UserError(f"{archive} is encrypted: unpack it by hand.")
            with _new_file(archive, folder, parts, limits) as target, source.open(member) as content:
                growth.copy(content, target, member.filename)
            count += 1
    return count


def _check_directory(archive: Path) -> None:
    """Refuse a zip whose list of files would fill the memory, before anything reads it.

    The list's length stands in the end record (APPNOTE 4.3.16), or 8 bytes wide in the zip64 one (4.3.14) before it.
    """
    with open(archive, "rb") as file:
        file.seek(max(0, archive.stat().st_size - (1 << 16) - 128))
        tail = file.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) < at + 22:
        raise UserError(f"{archive} is broken (its list of files is missing): fetch it again.")
    sizes = [struct.unpack_from("<I", tail, at + 12)[0]]
    wide = tail.rfind(b"PK\6\6", 0, at)
    if wide >= 0 and len(tail) >= wide + 56:
        sizes.append(struct.unpack_from("<Q", tail, wide + 40)[0])
    elif sizes == [0xFFFFFFFF]:
        raise UserError(f"{archive} is broken (its list of files has no length): fetch it again.")
    if max(size for size in sizes if size != 0xFFFFFFFF) > MOST_DIRECTORY:
        raise UserError(f"{archive} lists more files than any data set has; it is not unpacked.")


class _Bounded:
    """A stream of a tar that refuses the long reads with which tarfile would take in a header of any length."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MOST_READ:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self.stream.read(size)


def _untar(archive: Path, is_gzip: bool, folder: Path, limits: Limits) -> int:
    growth, count = _Growth(archive, limits), 0
    with gzip.open(archive) if is_gzip else open(archive, "rb") as stream:
        source = tarfile.TarFile(fileobj=_Bounded(stream))  # type: ignore[arg-type]
        while member := source.next():
            source.members = []  # what has passed is not needed again
            if not (member.isreg() or member.isdir()):
                raise UserError(f"{archive}: '{member.name[:80]}' is a link or device; it is not unpacked.")
            parts = _parts(archive, member.name)
            if member.isdir() or not parts:
                continue
            _check_room(archive, folder, member.size, limits)
            with _new_file(archive, folder, parts, limits) as target:
                growth.copy(source.extractfile(member), target, member.name)  # type: ignore[arg-type]
            count += 1
        growth.rest(stream)  # to its end, where the check sum of a .gz stands
    return count


def _parts(archive: Path, name: str) -> tuple[str, ...]:
    """Split a member's path; empty for what is left out.

    Raises:
        UserError: the path is absolute, climbs, is too deep or too long, or holds what no path of a data set holds.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    climbs = name.startswith("/") or ".." in parts or (len(name) > 1 and name[1] == ":")
    if climbs:
        raise UserError(f"{archive}: the path '{name[:80]}' leaves the folder; it is not unpacked.")
    odd = any(ord(letter) < 32 or letter in "\\\x7f" for letter in name)
    if odd or len(parts) > MOST_DEPTH or any(len(part.encode("utf-8", "replace")) > MOST_NAME for part in parts):
        raise UserError(f"{archive}: the path '{ascii(name)[:80]}' is no path of a data set; it is not unpacked.")
    return tuple(parts) if all(is_shown(part) for part in parts) else ()


def _check_room(archive: Path, folder: Path, size: int, limits: Limits) -> None:
    if size > limits.most_bytes:
        raise UserError(
            f"{archive} holds {size / 1e9:,.1f} GB, more than the {limits.most_bytes / 1e9:,.1f} GB that this data set can have; it is not unpacked."
        )
    free = shutil.disk_usage(folder).free
    if size + SPARE_BYTES > free:
        raise UserError(f"{archive} needs {size / 1e9:,.1f} GB and {folder} has {free / 1e9:,.1f} GB free: make room.")


@contextmanager
def _new_file(archive: Path, folder: Path, parts: tuple[str, ...], limits: Limits) -> Iterator[IO[bytes]]:
    path, key = "/".join(parts), unicodedata.normalize("NFC", "/".join(parts)).casefold()
    if key in limits.seen:
        raise UserError(
            f"{archive}: '{path[:80]}' comes twice (as '{limits.seen[key][:80]}' before); it is not unpacked."
        )
    limits.seen[key] = path
    if len(limits.seen) > limits.most_files:
        raise UserError(f"{archive} holds more than {limits.most_files:,} files; it is not unpacked.")
    target = folder.joinpath(*parts)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # O_EXCL: never through a link or over a file
        handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"{archive}: '{path[:80]}' is a file and a folder at once; it is not unpacked.") from error
    with os.fdopen(handle, "wb") as file:
        yield file
