"""What a data set is to the commands: facts, where its files come from, and functions that look at them."""

import importlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.data.report import Report, Unreadable
from results.errors import UserError

SETS = Path(__file__).parent / "sets"
JUNK = {".ds_store", "thumbs.db", "desktop.ini"}
MOST_FILES = 2_000_000


@dataclass(frozen=True)
class Source:
    """One file on a host.

    Attributes:
        url: https address.
        path: where it goes, relative to the folder of the data set.
        size: bytes, None where the host does not say before it is asked.
        md5: 32 hex digits, None where the host gives none.
    """

    url: str
    path: str
    size: int | None = None
    md5: str | None = None


@dataclass(frozen=True)
class Listing:
    """A checksum file of the host (`<md5>  <path>` a line) that says which files there are.

    Attributes:
        base: address that the paths are relative to.
        source: the checksum file itself.
        only: patterns of the paths that are taken when nothing else is asked for.
    """

    base: str
    source: Source
    only: tuple[str, ...]


@dataclass(frozen=True)
class Archive:
    """Archives that become one folder (or, for `.gz`, one file each).

    Attributes:
        patterns: globs relative to the folder of the data set; all that match go into the same folder.
        into: that folder, relative; an empty text is the data set's own.
        markers: names of which one stands at the top of the content; folders wrapped around that are left away.
        most_bytes: most that may come out, about three times what is expected.
        most_files: most files that may come out.
    """

    patterns: tuple[str, ...]
    into: str
    markers: tuple[str, ...]
    most_bytes: int
    most_files: int = 500_000


@dataclass(frozen=True)
class Part:
    """One countable part of a data set: how many files are there, how many belong there."""

    name: str
    found: int
    expected: int


@dataclass(frozen=True)
class DataSet:
    """One data set; a file in `benchmarks/data/sets/` holds one as `DATA_SET`.

    Attributes:
        name: as typed on the command line.
        title, licence, cite, home: for people: what it is, under which licence, which paper to name, where it lives.
        size: bytes on disk when whole, about; 0 leaves the disk to the sum of the files.
        folder: its folder below a root that holds several data sets.
        inside: where its files lie in that folder, when data sets share it.
        markers: globs, relative to that folder, of which one is there as soon as some of the data is.
        parts: counts files without opening them; must work on an empty or missing folder.
        verify: opens headers and tables and writes what it finds to the report.
        sources, listing: what can be downloaded; neither where only a person can.
        by_hand: what a person has to do, in exact steps, up to the archives that `prepare` unpacks.
        archives: what `prepare` unpacks.
        traps: one sentence each, shown by `status`.
    """

    name: str
    title: str
    licence: str
    cite: str
    home: str
    size: int
    folder: str
    markers: tuple[str, ...]
    parts: Callable[[Path], list[Part]]
    verify: Callable[[Path, Report], None]
    sources: tuple[Source, ...] = ()
    listing: Listing | None = None
    inside: str = ""
    by_hand: str = ""
    archives: tuple[Archive, ...] = ()
    traps: tuple[str, ...] = ()

    def home_in(self, root: Path) -> Path:
        """Return the folder of this data set: `root` itself when it holds it, or the folder of its own below."""
        below = root / self.folder
        if below.is_dir():
            return below
        is_it = root.name == self.folder or any(next(root.glob(marker), None) for marker in self.markers)
        return root if is_it else below

    def content_of(self, home: Path) -> Path:
        """Return the folder that holds this data set's files and no other's."""
        return home / self.inside if (home / self.inside).is_dir() else home


def known() -> list[str]:
    """Return the names of all data sets, sorted: one a file in `sets/`."""
    return sorted(path.stem.replace("_", "-") for path in SETS.glob("[a-z]*.py"))


def load(name: str) -> DataSet:
    """Return a data set by name.

    Raises:
        UserError: there is none of that name.
    """
    if name not in known():
        raise UserError(f"data set '{name}' is not known: choose {', '.join(known())}.")
    return importlib.import_module(f"benchmarks.data.sets.{name.replace('-', '_')}").DATA_SET


def files_below(folder: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield (path relative to `folder`, entry) of every file, sorted within folders; hidden names are left out.

    Links to folders are followed, each real folder once.

    Raises:
        Unreadable: there are more files than any data set has.
    """
    count, seen, waiting = 0, set(), [("", folder)]
    while waiting:
        prefix, path = waiting.pop()
        if not path.is_dir() or (real := os.path.realpath(path)) in seen:
            continue
        seen.add(real)
        with os.scandir(path) as entries:
            listed = sorted((entry for entry in entries if is_shown(entry.name)), key=lambda entry: entry.name)
        for entry in listed:
            if entry.is_dir():
                waiting.append((f"{prefix}{entry.name}/", Path(entry.path)))
                continue
            count += 1
            if count > MOST_FILES:
                raise Unreadable(
                    "stray", f"{folder} holds more than {MOST_FILES:,} files: give the data set's own folder."
                )
            yield f"{prefix}{entry.name}", entry


def bytes_of(entry: os.DirEntry[str]) -> int:
    """Return the size of a file, 0 for a link that leads nowhere."""
    try:
        return entry.stat().st_size
    except OSError:
        return 0


def is_shown(name: str) -> bool:
    """Tell names of data from hidden files and what desktops leave behind."""
    return not name.startswith((".", "__MACOSX")) and name.lower() not in JUNK


def names_in(folder: Path, *suffixes: str) -> list[str]:
    """Return the sorted names of the files of a folder that end in one of the suffixes (in any case), none when it is missing."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if is_shown(e.name) and e.name.lower().endswith(suffixes) and e.is_file()]
    return sorted(names)


def first_folder(root: Path, *names: str) -> Path | None:
    """Return the first of the named folders below `root` that is there."""
    return next((root / name for name in names if (root / name).is_dir()), None)
