"""Camelyon16 as it is published: slides in either layout, lists by rule, labels from lesion outlines."""

import csv
import re
import shlex
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pretrain.annotations import LesionRule
from pretrain.cohorts import Cohort, Slide
from results.errors import UserError
from results.settings import load_yaml

NAME = "camelyon16"
FACTS = Path(__file__).with_suffix(".yaml")
PARTS = ("train", "validation", "test")
PARTS_RULE = "camelyon16-parts-1"
"""test: the official test slides; validation: PatchCamelyon's 54 hold-out slides; train: the other 216 training slides."""
NORMAL = "normal"
PARTLY = "partly annotated: tissue outside the outlines may be tumour and has no label"
UNANNOTATED = "its annotation is not there: no tile has a label"
SLIDE_FOLDERS = ("images", "training/normal", "training/tumor", "testing/images")
ANNOTATION_PLACES = (
    "annotations", "training/lesion_annotations", "training/lesion_annotations.zip", "testing/lesion_annotations",
    "testing/lesion_annotations.zip",
)  # fmt: skip


@dataclass(frozen=True)
class SlideFacts:
    """What is publicly known of one slide; `tumor` and `partly` speak of metastases and of their outlines."""

    name: str
    part: str
    tumor: bool
    partly: bool
    hospital: str


@cache
def slide_facts() -> dict[str, SlideFacts]:
    """Return the 399 slides by name, from `camelyon16.yaml`."""
    facts = load_yaml(FACTS)
    found = {}
    for group in ("normal", "tumor", "test"):
        utrecht = _numbers(facts["utrecht"][group])
        for number in range(1, facts[group]["count"] + 1):
            if number not in facts[group]["removed"]:
                name = f"{group}_{number:03d}"
                held_out = number in facts["holdout"].get(group, ())
                found[name] = SlideFacts(
                    name,
                    part="test" if group == "test" else "validation" if held_out else "train",
                    tumor=group == "tumor" or (group == "test" and number in facts["tumor_tests"]),
                    partly=number in facts["partly"].get(group, ()),
                    hospital="UMCU" if number in utrecht else "RUMC",
                )
    return found


def _numbers(given: Any) -> set[int]:
    return set(given) if isinstance(given, list) else set(range(given["from"], given["to"] + 1))


def open_camelyon16(root: Path | str, part: str = "train", rule: LesionRule | None = None) -> Cohort:
    """Open the slides that lie below `root`, in the layout of the bucket (`images/`) or of the archive (`training/`, `testing/`).

    Args:
        root: the folder that holds either layout, or a folder `CAMELYON16` with it.
        part: `train`, `validation`, `test` or `all`.
        rule: when a tile is tumour; by default any lesion px in its middle third.

    Returns:
        A cohort whose `notes` name what is missing, removed from the data set or contradicted by `reference.csv`.

    Raises:
        UserError: the part is not known, or no slide of it is there.
    """
    if part not in (*PARTS, "all"):
        raise UserError(f"part={part} is not a list of Camelyon16: choose one of {', '.join(PARTS)} or all.")
    base = _base(Path(root).expanduser())
    wanted = {name: facts for name, facts in slide_facts().items() if part in ("all", facts.part)}
    files, strange = _slide_files(base)
    present = {name: facts for name, facts in wanted.items() if name in files}
    if not present:
        raise UserError(
            f"{base} holds no {part if part != 'all' else ''} slide of Camelyon16: expected .tif files in one of "
            f"{', '.join(SLIDE_FOLDERS)} (python -m benchmarks data prepare camelyon16 {shlex.quote(f'root={base}')})."
        )
    outlines = _annotations(base)
    slides = [_slide(facts, files[name], outlines.get(name)) for name, facts in present.items()]
    missing = sorted(set(wanted) - set(files))
    unannotated = [slide.name for slide in slides if UNANNOTATED in slide.remark]
    notes = (
        *_note(f"of {len(wanted)} slides of {part} not there", missing),
        *_note("without annotation, so without labels", unannotated),
        *strange,
        *_contradictions(base),
    )
    facts = load_yaml(FACTS)
    marked = base / "cohort.yaml"  # only synthetic slides in this layout have one
    return Cohort(
        name=NAME if part == "all" else f"{NAME}-{part}",
        root=base,
        slides=tuple(sorted(slides, key=lambda slide: slide.name)),
        rehearsal=marked.is_file() and load_yaml(marked).get("rehearsal") is True,
        lesion=rule or LesionRule(),
        notes=notes,
        licence=facts["licence"],
        cite=facts["cite"],
    )


def _base(root: Path) -> Path:
    for base in (root, root / "CAMELYON16"):
        if any((base / place).is_dir() for place in SLIDE_FOLDERS):
            return base.resolve()
    raise UserError(
        f"root={root} has neither layout of Camelyon16: expected {root}/images, or {root}/training and {root}/testing."
    )


def _slide_files(base: Path) -> tuple[dict[str, Path], list[str]]:
    """Return the file of every known slide, and notes on files that the data set no longer has."""
    found: dict[str, Path] = {}
    removed, twice = [], []
    renamed = load_yaml(FACTS)["renamed"]
    for place in SLIDE_FOLDERS:
        for path in sorted((base / place).glob("*.tif")) if (base / place).is_dir() else ():
            match = re.fullmatch(r"(normal|tumor|test)_(\d{1,3})", path.stem, re.IGNORECASE)
            name = f"{match[1].lower()}_{int(match[2]):03d}" if match else ""
            if name in found:
                twice.append(name)
            elif name in slide_facts():
                found[name] = path
            elif name:
                removed.append(f"{name}, now {renamed[name]}" if name in renamed else name)
    return found, [
        *_note("left out, the data set removed them", removed),
        *_note("there twice, the first was taken", twice),
    ]


def _annotations(base: Path) -> dict[str, Path]:
    """Return the ASAP file of each slide; `archive.zip/tumor_001.xml` for one inside a zip."""
    found: dict[str, Path] = {}
    for place in ANNOTATION_PLACES:
        path = base / place
        if path.is_dir():
            names = sorted(file.name for file in path.rglob("*.xml"))
            paths = {file.name: file for file in path.rglob("*.xml")}
        elif path.is_file():
            try:
                with zipfile.ZipFile(path) as archive:
                    names = sorted(name.rpartition("/")[2] for name in archive.namelist())
            except (OSError, zipfile.BadZipFile) as error:
                raise UserError(f"{path} is not a whole zip ({error}): download it again.") from error
            paths = {name: path / name for name in names}
        else:
            continue
        for name in names:
            if name.lower().endswith(".xml"):
                found.setdefault(name[:-4].lower(), paths[name])
    return found


def _slide(facts: SlideFacts, path: Path, annotation: Path | None) -> Slide:
    """Label rule for tissue outside outlines: normal on normal slides and on fully annotated ones, else unknown."""
    known = not facts.tumor or (annotation is not None and not facts.partly)
    remark = "" if not facts.tumor else UNANNOTATED if annotation is None else PARTLY if facts.partly else ""
    return Slide(
        facts.name,
        path,
        patient=facts.name,
        hospital=facts.hospital,
        annotation=annotation if facts.tumor else None,
        tissue_label=NORMAL if known else "",
        part=facts.part,
        remark=remark,
    )


def _contradictions(base: Path) -> list[str]:
    """Compare `testing/reference.csv` (no header; name, Normal or Tumor) with the facts."""
    path = base / "testing" / "reference.csv"
    if not path.is_file():
        return []
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = [
                (row[0].strip().lower().removesuffix(".tif"), row[1].strip().lower())
                for row in csv.reader(file)
                if len(row) > 1
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a UTF-8 CSV ({error}).") from error
    known = slide_facts()
    wrong = [name for name, label in rows if name in known and (label == "tumor") != known[name].tumor]
    return _note("labelled otherwise in reference.csv, which was not followed", wrong)


def _note(what: str, names: list[str]) -> list[str]:
    return [f"{len(names)} {what}: {', '.join(names)}"] if names else []
