"""A cohort on disk: a folder of slides, or a CSV with `labels.csv` and `cohort.yaml` beside it."""

import csv
import difflib
import math
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pretrain.cohorts import Cohort, Slide
from results.errors import UserError
from results.settings import load_yaml

SUFFIXES = (".svs", ".tif", ".tiff", ".ndpi", ".vms", ".vmu", ".scn", ".mrxs", ".svslide", ".bif", ".dcm", ".czi")
"""File suffixes of the formats that OpenSlide 4 reads."""

REQUIRED = ("slide", "path")
OPTIONAL = ("patient", "hospital", "mpp", "mask")
KINDS = ("tissue", "background", "ignore")
NAME_BYTES = 200
"""Longest slide name in bytes: shard names and their temporary names must fit the 255 bytes of a file name."""

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
    return Cohort(root=root, slides=slides, **_facts(root, root.name))


def from_table(table: Path) -> Cohort:
    """Read a CSV with the columns `slide, path` and, optional, `patient, hospital, mpp, mask`; paths are relative to it."""
    table = table.resolve()
    root = table.parent
    slides = [_slide(table, line, row) for line, row in _rows(table, REQUIRED, OPTIONAL)]
    if not slides:
        raise UserError(f"{table} lists no slide: write one line a slide under the header slide,path.")
    for kind, values in (("slide", [s.name for s in slides]), ("path", [str(s.path) for s in slides])):
        twice = [value for value, count in Counter(values).items() if count > 1]
        if twice:
            raise UserError(
                f"{table} lists the {kind} {twice[0]} more than once ({len(twice)} such): keep one line each."
            )
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
        **_facts(root, root.name if table.stem == "cohort" else table.stem),
    )


def _facts(root: Path, name: str) -> dict[str, str | bool]:
    """What `cohort.yaml` says of the cohort: its name, and whether its slides are synthetic."""
    path = root / "cohort.yaml"
    facts = {"name": name or "cohort", "rehearsal": False}
    if path.is_file():
        said = load_yaml(path)
        facts |= {key: said[key] for key in facts if said.get(key) is not None}
    if isinstance(facts["name"], (dict, list)):
        raise UserError(f"{path}: name must be text, not {facts['name']!r}.")
    facts["name"] = str(facts["name"])
    if not isinstance(facts["rehearsal"], bool):
        raise UserError(f"{path}: rehearsal must be true or false, not {facts['rehearsal']!r}.")
    _check_name(facts["name"], str(path))
    return facts


def _rows(table: Path, required: tuple[str, ...], optional: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line number, stripped cells) of a CSV; unknown columns pass unless they look like a misspelt known one."""
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restkey="")
            header = [(name or "").strip() for name in reader.fieldnames or []]
            missing = [name for name in required if name not in header]
            if missing:
                raise UserError(
                    f"{table} needs the column{'s' * (len(missing) > 1)} {', '.join(missing)}; its header is {','.join(header) or 'empty'}."
                )
            absent = [name for name in optional if name not in header]
            for name in header:
                near = difflib.get_close_matches(name.lower(), absent, n=1, cutoff=0.8)
                if name not in required + optional and near:
                    raise UserError(f"{table} has the column '{name}': did you mean '{near[0]}'?")
            reader.fieldnames = header
            for row in reader:
                if row.get(""):
                    raise UserError(f"{table} line {reader.line_num} has more cells than the header has columns.")
                cells = {name: (value or "").strip() for name, value in row.items() if name}
                if any(cells.values()):
                    yield reader.line_num, cells
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{table} cannot be read as a UTF-8 CSV ({error}).") from error


def _slide(table: Path, line: int, row: dict[str, str]) -> Slide:
    where = f"{table} line {line}"
    for column in REQUIRED:
        if not row[column]:
            raise UserError(f"{where} has an empty {column}.")
    _check_name(row["slide"], where)
    mpp = None
    if row.get("mpp"):
        try:
            mpp = float(row["mpp"])
        except ValueError:
            mpp = math.nan
        if not (math.isfinite(mpp) and mpp > 0):
            raise UserError(f"{where}: mpp '{row['mpp']}' is not a number of um/px above 0.")
    mask = table.parent / row["mask"] if row.get("mask") else None
    return Slide(
        row["slide"], table.parent / row["path"], row.get("patient", ""), row.get("hospital", ""), mpp=mpp, mask=mask
    )


def _check_name(name: str, where: str) -> None:
    if re.search(r"[/\\\x00-\x1f]", name) or name.startswith(".") or len(name.encode()) > NAME_BYTES:
        raise UserError(
            f"{where}: the name '{name[:80]}' cannot name a file: no slash, no leading dot, at most {NAME_BYTES} bytes."
        )


def _labels(path: Path) -> tuple[dict[int, str], dict[int, str]]:
    """Return {tissue code: label} and {code: kind}."""
    codes: dict[int, str] = {}
    kinds: dict[int, str] = {}
    for line, row in _rows(path, ("code", "label", "kind"), ()):
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
        count = Counter(names)
        shared = [i for i, name in enumerate(names) if count[name] > 1]
        if not shared:
            return names
        if all(depth[i] == len(candidates[i]) - 1 for i in shared):
            raise UserError(
                f"{paths[shared[0]]} and {paths[shared[1]]} would share the name {names[shared[0]]}: rename one."
            )
        for i in shared:
            depth[i] = min(depth[i] + 1, len(candidates[i]) - 1)
