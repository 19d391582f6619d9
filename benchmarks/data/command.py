"""`python -m benchmarks data status | download | verify | prepare [NAME] key=value ...`."""

import fnmatch
import hashlib
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote, urlsplit

from omegaconf import OmegaConf

from benchmarks.data.dataset import DataSet, Source, bytes_of, files_below, known, load
from benchmarks.data.fetch import Net, Unresolved, fetch
from benchmarks.data.prepare import prepare
from benchmarks.data.report import Report, Unreadable
from benchmarks.data.tables import some
from results.errors import UserError
from results.settings import compose, split_overrides

SOME_FAILED = 3
MOST_LISTED = 100_000
LEAST_SHARE = 4
"""A whole data set has a quarter of its stated size or more: archives may be gone, one variant of several may be there."""

HELP = """python -m benchmarks data status   [NAME] root=data       what is there, what is missing, licence, whom to cite
python -m benchmarks data download NAME root=data         only what is asked for; a stopped one goes on when it is repeated
python -m benchmarks data prepare  NAME root=data         archives to the folders that the tasks read
python -m benchmarks data verify   NAME root=data         counts, classes, sizes and headers; names what is wrong

  NAME                  {names}
  root=data             the folder of the data set, or of several: then each has its own below
  only=[PATTERN,...]    download: files of camelyon16 to take, such as only=[images/tumor_00*,annotations/*]
  show=5                verify: how many of a kind are named before they are counted
  out=FILE.json         verify: all that was found
  digests=true          verify: reads every byte as well; compares with the host's list, names files of the same content

Exit status: 0 done, 2 mistake in input or settings, 3 something is wrong with the data, files did not come, or only a
person can fetch it, 130 or 143 stopped.
"""


@dataclass
class Settings:
    """Settings of the four commands; see HELP."""

    root: str = "data"
    only: list[str] | None = None
    show: int = 5
    out: str | None = None
    digests: bool = False


USED = {
    "status": {"root"},
    "download": {"root", "only"},
    "prepare": {"root"},
    "verify": {"root", "show", "out", "digests"},
}


def command(arguments: list[str]) -> int:
    """Run one of the four commands and return its exit status."""
    if not arguments:
        print(HELP.format(names=", ".join(known())), end="")
        return 0
    action, rest = arguments[0], arguments[1:]
    if action not in USED:
        raise UserError(f"'data {action}' is not known: choose {', '.join(USED)}.")
    names = [argument for argument in rest if "=" not in argument]
    overrides = split_overrides(argument for argument in rest if "=" in argument)
    settings: Settings = OmegaConf.to_object(compose(OmegaConf.structured(Settings), [], overrides))
    if unused := set(overrides) - USED[action]:
        raise UserError(f"'data {action}' has no setting '{min(unused)}': it takes {', '.join(sorted(USED[action]))}.")
    if settings.show < 0:
        raise UserError(f"show={settings.show} does not fit: give 0 or more.")
    if settings.out and Path(settings.out).is_dir():
        raise UserError(f"out={settings.out} is a folder: name a file, such as {settings.out}/report.json.")
    _check_folder(Path(settings.root))
    if action == "status":
        return _status([load(name) for name in names or known()], Path(settings.root))
    if len(names) != 1:
        raise UserError(f"'data {action}' takes one data set: name one of {', '.join(known())}.")
    data_set = load(names[0])
    home = data_set.home_in(Path(settings.root))
    _check_folder(home)
    if action == "download":
        return download(data_set, home, tuple(settings.only or ()))
    if not home.is_dir():
        raise UserError(f"{home} is not there: give root=, or fetch it with: {_typed('download', data_set, home)}")
    if action == "prepare":
        return _prepare(data_set, home)
    return _verify(data_set, home, settings)


def _check_folder(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file, not a folder: give root=, the folder of the data set or of several.")


def _status(data_sets: list[DataSet], root: Path) -> int:
    for data_set in data_sets:
        print("\n".join(status_lines(data_set, root)), end="\n\n" if len(data_sets) > 1 else "\n")
    return 0


def status_lines(data_set: DataSet, root: Path) -> list[str]:
    """Return what is there of a data set, in words; nothing is opened."""
    home = data_set.home_in(root)
    content = data_set.content_of(home)
    parts = data_set.parts(home)
    found, expected = sum(part.found for part in parts), sum(part.expected for part in parts)
    packed = [
        path for archive in data_set.archives for pattern in archive.patterns for path in sorted(home.glob(pattern))
    ]
    packed = [path for path in packed if path.is_file()]
    stopped = sorted(home.rglob(".*.part")) if home.is_dir() and found < expected else []
    on_disk = sum(bytes_of(entry) for _, entry in files_below(content)) if found else 0
    state = "complete by count" if found == expected else "not here" if not found else "in part"
    if found == expected and on_disk * LEAST_SHARE < data_set.size:
        state += f", but the sizes do not fit: {_bytes(on_disk)} where about {_bytes(data_set.size)} belong"
    missing = [
        f"{part.expected - part.found:,} of {part.expected:,} {part.name}"
        for part in parts
        if part.found < part.expected
    ]
    more = [
        f"{part.found:,} {part.name} where {part.expected:,} belong" for part in parts if part.found > part.expected
    ]
    lines = [f"{data_set.name}: {state}", f"  {data_set.title}", f"  folder: {home}"]
    if found:
        lines.append(f"  here: {', '.join(f'{part.found:,} {part.name}' for part in parts)}")
        lines.append(f"  on disk: {_bytes(on_disk)}")
    lines += [f"  missing: {', '.join(missing)}"] * bool(missing) + [f"  too many: {', '.join(more)}"] * bool(more)
    lines += [f"  archive: {path.relative_to(home)}, {_bytes(path.stat().st_size)}" for path in packed]
    lines += [f"  stopped download: {path.relative_to(home)}, {_bytes(path.stat().st_size)}" for path in stopped]
    if data_set.size:
        lines.append(f"  size when whole: about {_bytes(data_set.size)}")
    lines += [f"  licence: {data_set.licence}", f"  cite: {data_set.cite}", f"  home: {data_set.home}"]
    lines += [f"  mind: {trap}" for trap in data_set.traps]
    return [*lines, f"  next: {_next(data_set, home, found, expected, bool(packed))}"]


def _next(data_set: DataSet, home: Path, found: int, expected: int, is_packed: bool) -> str:
    step = "verify" if found >= expected else "prepare" if is_packed else "download"
    return _typed(step, data_set, home)


def _typed(step: str, data_set: DataSet, home: Path) -> str:
    """Return a command as a shell takes it, whatever the path holds."""
    return shlex.join(["python", "-m", "benchmarks", "data", step, data_set.name, f"root={home}"])


def _bytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def download(data_set: DataSet, home: Path, only: tuple[str, ...] = (), net: Net | None = None) -> int:
    """Fetch the files of a data set, or say what a person has to do; returns the exit status.

    A file that fails is named and the others still come, unless nothing would: no room, no list of the files, or a host whose
    name could not be resolved for an earlier one.
    """
    net = net or Net()
    if not data_set.sources and data_set.listing is None:
        net.tell(f"{data_set.name} cannot be fetched by a program. {data_set.by_hand.format(home=home)}")
        net.tell(f"then run: {_typed('prepare', data_set, home)}")
        return SOME_FAILED
    net.tell(f"{data_set.name}: {data_set.licence}; cite {data_set.cite}")
    listed = [data_set.listing.source] if data_set.listing else []
    if _fetch_all(listed, home, net):
        net.tell(f"the list of the files did not come: repeat the command, or fetch by hand from {data_set.home}")
        return SOME_FAILED
    sources = _wanted(data_set, home, only)
    home.mkdir(parents=True, exist_ok=True)
    if not only:
        _check_room(data_set, home)
    if failed := _fetch_all(sources, home, net):
        count = f"{len(failed)} of {len(sources)} files did not come: {some(failed)}"
        net.tell(f"{count}; repeat the command, or fetch by hand from {data_set.home}")
        return SOME_FAILED
    step = "prepare" if data_set.sources else "verify"
    net.tell(f"{len(sources)} files are in {home}; next: {_typed(step, data_set, home)}")
    return 0


def _fetch_all(sources: list[Source], home: Path, net: Net) -> list[str]:
    """Fetch files and return the paths of those that did not come; each is named, with its address."""
    failed, unresolved = [], set()
    for source in sources:
        host = urlsplit(source.url).hostname
        try:
            if host in unresolved and not (home / source.path).exists():
                raise UserError(
                    f"{source.path} was not tried, as {host} cannot be reached: its address is {source.url}"
                )
            fetch(source, home, net)
        except UserError as error:
            failed.append(source.path)
            net.tell(f"error: {error}")
            if isinstance(error, Unresolved):
                unresolved.add(host)
    return failed


def _wanted(data_set: DataSet, home: Path, only: tuple[str, ...]) -> list[Source]:
    if data_set.listing is None:
        sources = list(data_set.sources)
        chosen = [source for source in sources if not only or _matches(source.path, only)]
    else:
        listing = data_set.listing
        wanted = only or listing.only
        sums = read_sums(home / listing.source.path)
        sources = [Source(listing.base + quote(path), path, None, md5) for path, md5 in sums.items()]
        chosen = [source for source in sources if _matches(source.path, wanted)]
    if not chosen:
        raise UserError(f"only=[{','.join(only)}] names none of the {len(sources):,} files of {data_set.name}.")
    return chosen


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def read_sums(path: Path) -> dict[str, str]:
    """Read a list of `<md5 or sha256>  <path>` lines.

    Returns:
        path -> hex digits; paths are relative and stay within the folder.

    Raises:
        UserError: a line of another form, or a path that leaves the folder.
    """
    sums: dict[str, str] = {}
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            found = re.fullmatch(
                r"([0-9a-fA-F]{32}|[0-9a-fA-F]{64}) [ *](?:\./)?([^/\\\x00-\x1f][^\\\x00-\x1f]{0,250})", line.strip()
            )
            if number > MOST_LISTED or (line.strip() and (not found or ".." in PurePosixPath(found[2]).parts)):
                raise UserError(
                    f"{path} line {number} is no '<checksum>  <path>' of a data set: move the file away and fetch it again."
                )
            if found:
                sums[found[2]] = found[1].lower()
    return sums


def _check_room(data_set: DataSet, home: Path) -> None:
    came = [home / source.path for source in data_set.sources]
    came += [path.with_name(f".{path.name}.part") for path in came]
    here = sum(path.stat().st_size for path in came if path.is_file())
    here += sum(bytes_of(entry) for _, entry in files_below(data_set.content_of(home)))
    free = shutil.disk_usage(home).free
    if data_set.size - here > free:
        raise UserError(
            f"{data_set.name} takes about {_bytes(data_set.size)} and {home} has {_bytes(free)} free: make room, give another root, "
            "or name some files with only=[...]."
        )


def _prepare(data_set: DataSet, home: Path) -> int:
    if not prepare(data_set, home):
        patterns = ", ".join(pattern for archive in data_set.archives for pattern in archive.patterns)
        raise UserError(f"{home} holds no archive of {data_set.name}: looked for {patterns}.")
    print(f"next: {_typed('verify', data_set, home)}")
    return 0


def _verify(data_set: DataSet, home: Path, settings: Settings) -> int:
    report = Report(data_set.name, home)
    try:
        data_set.verify(home, report)
        if settings.digests:
            check_digests(home, data_set.content_of(home), report)
    except Unreadable as error:
        report.problem(error.kind, str(error))
    count = sum(map(len, report.problems.values()))
    print(f"{data_set.name}: {'whole' if report.is_whole else f'{count:,} problems'} in {home}")
    for line in report.lines(settings.show):
        print(line)
    if settings.out:
        report.write(Path(settings.out))
    return 0 if report.is_whole else SOME_FAILED


def check_digests(home: Path, content: Path, report: Report) -> None:
    """Read every byte: files of the same content are named, and files that differ from the host's list."""
    by_size: dict[int, list[tuple[str, str]]] = {}
    for path, entry in files_below(content):
        if entry.is_file():
            by_size.setdefault(bytes_of(entry), []).append((path, entry.path))
    for group in by_size.values():
        if len(group) > 1:
            _name_same(group, report)
    for name, kind in (("checksums.md5", "md5"), ("checksums.txt", "sha256")):
        if (home / name).is_file():
            _compare(home, read_sums(home / name), kind, report)


def _name_same(group: list[tuple[str, str]], report: Report) -> None:
    first: dict[str, str] = {}
    for path, file in group:
        digest = _digest(file, "sha256")
        if digest in first:
            report.problem("same content", f"{path} holds the very bytes of {first[digest]}")
        first.setdefault(digest, path)


def _compare(home: Path, sums: dict[str, str], kind: str, report: Report) -> None:
    for path, expected in sums.items():
        if (home / path).is_file() and (found := _digest(str(home / path), kind)) != expected:
            report.problem("wrong checksum", f"{path} has the {kind} {found}, the host's list says {expected}")


def _digest(path: str, kind: str) -> str:
    make: Callable[[], object] = lambda: hashlib.new(kind, usedforsecurity=False)  # noqa: E731
    with open(path, "rb") as file:
        return hashlib.file_digest(file, make).hexdigest()  # type: ignore[arg-type]
