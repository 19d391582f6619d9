"""A cohort on disk: a folder of slides, or a CSV with `labels.csv` and `cohort.yaml` beside it."""

import math
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pretrain.cohorts import Cohort, Slide
from pretrain.cohorts.tables import BadRow, read_rows, refuse_bad
from pretrain.tiling.wanted import file_ends
from results.errors import UserError
from results.settings import load_yaml

SUFFIXES = (".svs", ".tif", ".tiff", ".ndpi", ".vms", ".vmu", ".scn", ".mrxs", ".svslide", ".bif", ".dcm", ".czi")
"""File suffixes of the formats that OpenSlide 4 reads."""

REQUIRED = ("slide", "path")
OPTIONAL = ("patient", "hospital", "label", "mpp", "mask")
KINDS = ("tissue", "background", "ignore")
NAME_BYTES = 200
"""Longest slide name in bytes: shard names and their temporary names must fit the 255 bytes of a file name."""

MPP = (0.01, 50.0)
"""um/px that a microscope scanner can have."""

SERIES_TAG = b"\x20\x00\x0e\x00UI"
"""DICOM SeriesInstanceUID (0020,000E) in explicit VR little endian, as whole-slide files are written."""


def from_folder(root: Path) -> Cohort:
    """Take every slide file below `root`, sorted; hidden files and folders are skipped.

    A slide is named by its stem; where two share one, parent folders are put in front. The files of one DICOM series
    in one folder are one slide.
    """
    root = root.resolve()
    paths = list(_one_a_series(sorted(_slide_files(root))))
    if not paths:
        raise UserError(
            f"cohort {root} holds no slide: looked in all folders for files ending in {', '.join(SUFFIXES)}."
        )
    names = _unique_names(root, paths)
    for name, path in zip(names, paths, strict=True):
        _check_name(name, str(path))
    slides = tuple(sorted((Slide(name, path) for name, path in zip(names, paths, strict=True)), key=lambda s: s.name))
    return Cohort(root=root, slides=slides, notes=_copies(slides), **facts_of(root, root.name))


def from_table(table: Path) -> Cohort:
    """Read a CSV with the columns `slide, path` and those of `OPTIONAL`; paths are relative to it.

    Raises:
        UserError: naming every bad row; a slide or a file that is listed twice.
    """
    table = table.resolve()
    root = table.parent
    slides, bad = [], []
    for line, row in read_rows(table, REQUIRED, OPTIONAL):
        try:
            slides.append(_slide(root, row))
        except BadRow as error:
            bad.append((line, str(error)))
    refuse_bad(table, bad)
    if not slides:
        raise UserError(f"{table} lists no slide: write one line a slide under the header slide,path.")
    _refuse_twice(table, slides)
    codes: dict[int, str] = {}
    kinds: dict[int, str] = {}
    labels = root / "labels.csv"
    if labels.is_file():
        codes, kinds = _labels(labels)
    masked = [slide for slide in slides if slide.mask]
    if masked and not labels.is_file():
        raise UserError(f"{table} names masks, but {labels} is missing: write its columns code,label,kind.")
    return Cohort(
        root=root,
        slides=tuple(sorted(slides, key=lambda slide: slide.name)),
        codes=codes,
        background=frozenset(code for code, kind in kinds.items() if kind == "background"),
        ignore=frozenset(code for code, kind in kinds.items() if kind == "ignore"),
        notes=_copies(slides),
        **facts_of(root, root.name if table.stem == "cohort" else table.stem),
    )


def facts_of(root: Path, name: str) -> dict[str, Any]:
    """What `cohort.yaml` says of the cohort: its name, licence and citation, and whether its slides are synthetic."""
    path = root / "cohort.yaml"
    facts: dict[str, Any] = {"name": name or "cohort", "rehearsal": False, "licence": "", "cite": ""}
    if path.is_file():
        said = load_yaml(path)
        facts |= {key: said[key] for key in facts if said.get(key) is not None}
    for key in ("name", "licence", "cite"):
        if isinstance(facts[key], (dict, list)):
            raise UserError(f"{path}: {key} must be text, not {facts[key]!r}.")
        facts[key] = str(facts[key]).strip()
    if not isinstance(facts["rehearsal"], bool):
        raise UserError(f"{path}: rehearsal must be true or false, not {facts['rehearsal']!r}.")
    _check_name(facts["name"], str(path))
    return facts


def _slide(root: Path, row: dict[str, str]) -> Slide:
    for column in REQUIRED:
        if not row[column]:
            raise BadRow(f" has an empty {column}")
    if wrong := no_name(row["slide"]):
        raise BadRow(f": {wrong}")
    return Slide(
        row["slide"],
        root / row["path"],
        row.get("patient", ""),
        row.get("hospital", ""),
        mpp=_mpp(row.get("mpp", "")),
        mask=root / row["mask"] if row.get("mask") else None,
        slide_label=row.get("label", ""),
    )


def _mpp(text: str) -> float | None:
    """Read um/px, with a decimal point or, as some spreadsheets write it, a decimal comma."""
    if not text:
        return None
    try:
        value = float(text.replace(",", ".") if text.count(",") == 1 else text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise BadRow(f": mpp '{text[:40]}' is not a number of um/px above 0")
    if not MPP[0] <= value <= MPP[1]:
        hint = ", is it nm" if MPP[0] <= value / 1000 <= MPP[1] else ""
        raise BadRow(f": mpp '{text[:40]}' is no scanner's um/px, expected {MPP[0]:g} to {MPP[1]:g}{hint}")
    return value


def _refuse_twice(table: Path, slides: list[Slide]) -> None:
    """Refuse a slide that is listed twice, and a file that is, whatever links lead to it."""
    names = [name for name, count in Counter(slide.name for slide in slides).items() if count > 1]
    alike = [group for group in _alike(slide.name for slide in slides) if len(set(group)) > 1]
    if alike and not names:
        one, other = sorted(set(alike[0]))[:2]
        raise UserError(
            f"{table} lists the slides {one} and {other} ({one!a} and {other!a}), one name on disks that ignore case or write "
            "accents in one way: rename one."
        )
    if names:
        raise UserError(f"{table} lists the slide {names[0]} more than once ({len(names)} such): keep one line each.")
    files: dict[Any, list[Slide]] = defaultdict(list)
    for slide in slides:
        files[_identity(slide.path)].append(slide)
    twice = [group for group in files.values() if len(group) > 1]
    if twice:
        first, second = twice[0][:2]
        raise UserError(
            f"{table} lists the path {first.path} more than once, as {first.name} and as {second.name} ({len(twice)} such): keep one "
            "line each, since a slide that counts twice may stand on both sides of a split."
        )


def _alike(names: Iterable[str]) -> list[list[str]]:
    """Group names that are one on some disks."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[one_on_disk(name)].append(name)
    return list(groups.values())


def one_on_disk(name: str) -> str:
    """Return what a name is on a disk that ignores case and the two ways to write an accent: there two such files are one."""
    return unicodedata.normalize("NFC", name).casefold()


def _identity(path: Path) -> Any:
    """What two paths to one file share: device and inode, or the path where there is no file."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return os.path.normpath(path)
    return status.st_dev, status.st_ino


def _copies(slides: Iterable[Slide]) -> tuple[str, ...]:
    """Name slides whose files have the same size, first and last MiB: most likely copies of one slide under several names."""
    sizes: dict[int, list[Slide]] = defaultdict(list)
    for slide in slides:
        try:
            sizes[slide.path.stat().st_size].append(slide)
        except (OSError, ValueError):
            continue  # a file that is not there fails with its reason when it is tiled
    found: dict[str, list[str]] = defaultdict(list)
    for size, group in sizes.items():
        for slide in group if size and len(group) > 1 else ():
            try:
                found[file_ends(slide.path)["ends_digest"]].append(slide.name)
            except OSError:
                continue  # as above
    same = sorted(" = ".join(sorted(names)) for names in found.values() if len(names) > 1)
    return (f"{len(same)} file(s) there under several names, as copies: {', '.join(same)}",) if same else ()


def _check_name(name: str, where: str) -> None:
    if wrong := no_name(name):
        raise UserError(f"{where.encode('utf-8', 'backslashreplace').decode()}: {wrong}.")


def no_name(name: str) -> str:
    """Say why a name cannot name a file; empty when it can."""
    try:
        is_long = len(name.encode()) > NAME_BYTES
    except UnicodeEncodeError:
        shown = name[:80].encode("utf-8", "backslashreplace").decode()
        return f"the name '{shown}' is not UTF-8 text: rename the file, stores and manifests could not hold it"
    if is_long or name.startswith(".") or re.search(r"[/\\\x00-\x1f\x7f-\x9f\u2028\u2029]", name):
        return f"the name '{name[:80]}' cannot name a file: no slash, no line end, no leading dot, at most {NAME_BYTES} bytes"
    return ""


def _labels(path: Path) -> tuple[dict[int, str], dict[int, str]]:
    """Return {tissue code: label} and {code: kind}."""
    codes: dict[int, str] = {}
    kinds: dict[int, str] = {}
    for line, row in read_rows(path, ("code", "label", "kind")):
        where = f"{path} line {line}"
        if not row["code"].isdecimal() or len(row["code"]) > 9 or int(row["code"]) > 255:
            raise UserError(f"{where}: code '{row['code']}' is not a whole number from 0 to 255.")
        code = int(row["code"])
        if code in kinds:
            raise UserError(f"{where}: code {code} is listed twice.")
        if row["kind"] not in KINDS:
            raise UserError(f"{where}: kind '{row['kind']}' is not one of {', '.join(KINDS)}.")
        if row["kind"] == "tissue" and not row["label"]:
            raise UserError(f"{where}: a code of kind tissue needs a label.")
        kinds[code] = row["kind"]
        if row["kind"] == "tissue":
            codes[code] = row["label"]
    return codes, kinds


def _slide_files(root: Path) -> Iterator[Path]:
    """Yield the files with a slide's suffix below `root`; links to folders are followed, each folder is read once."""

    def refuse(error: OSError) -> None:
        raise UserError(f"cohort folder {error.filename} cannot be read ({error.strerror}).") from error

    seen = set()
    for folder, folders, files in os.walk(root, onerror=refuse, followlinks=True):
        real = os.path.realpath(folder)
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
        if real not in seen:
            names = [name for name in files if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES]
            yield from (path for path in (Path(folder, name) for name in names) if path.is_file())
        seen.add(real)


def _one_a_series(paths: list[Path]) -> Iterator[Path]:
    """Pass each path on, but only the first file of a DICOM series in a folder."""
    seen = set()
    for path in paths:
        if path.suffix.lower() == ".dcm":
            series = (path.parent, _series(path))
            if series in seen:
                continue
            seen.add(series)
        yield path


def _series(path: Path) -> bytes:
    """Return the DICOM series UID of a file, or nothing when its header does not show one."""
    try:
        with open(path, "rb") as file:
            header = file.read(1 << 16)
    except OSError:
        return b""
    at = header.find(SERIES_TAG)
    if at < 0:
        return b""
    start = at + len(SERIES_TAG) + 2
    length = int.from_bytes(header[start - 2 : start], "little")
    return header[start : start + length].rstrip(b"\0 ")


def _unique_names(root: Path, paths: list[Path]) -> list[str]:
    """Name each path by its stem, with as many parent folders in front, and last its suffix, as tell it from the others."""
    parts = [(*path.relative_to(root).parts[:-1], path.stem) for path in paths]
    candidates = [["_".join(part[-depth:]) for depth in range(1, len(part) + 1)] for part in parts]
    for names, path in zip(candidates, paths, strict=True):
        names.append(names[-1] + path.suffix.replace(".", "_"))
    depth = [0] * len(paths)
    while True:
        names = [options[at] for options, at in zip(candidates, depth, strict=True)]
        count = Counter(map(one_on_disk, names))
        shared = [i for i, name in enumerate(names) if count[one_on_disk(name)] > 1]
        if not shared:
            return names
        if all(depth[i] == len(candidates[i]) - 1 for i in shared):
            raise UserError(
                f"{paths[shared[0]]} and {paths[shared[1]]} would share the name {names[shared[0]]}: rename one."
            )
        for i in shared:
            depth[i] = min(depth[i] + 1, len(candidates[i]) - 1)
