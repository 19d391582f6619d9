"""NuCLS, corrected single-rater set: nuclei of breast cancer in 1,746 fields of 124 TCGA slides."""

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.data.dataset import Archive, DataSet, Part, files_below, first_folder, names_in
from benchmarks.data.headers import Header, read_header
from benchmarks.data.report import Report, Unreadable
from benchmarks.data.tables import read_rows, some

IMAGES = ("rgb", "rgbs", "rgbs_colorNormalized")
OTHER = ("mask", "masks", "visualization", "visualizations")
FIELDS, SLIDES, HOSPITALS, NUCLEI = (1746, 1744), 124, 18, (59541, 59485)
"""Counted in the released database, and as the data card says."""

NAME = re.compile(r"(TCGA-([A-Z0-9]{2})-[A-Z0-9]{4}-DX\d+)_id-[0-9a-f]+_left-\d+_top-\d+_bottom-\d+_right-\d+")
COLUMNS = ("raw_classification", "main_classification", "super_classification", "type", "xmin", "ymin", "xmax", "ymax")
MAIN = {
    "tumor": "tumor_nonMitotic", "mitotic_figure": "tumor_mitotic", "fibroblast": "nonTILnonMQ_stromal",
    "vascular_endothelium": "nonTILnonMQ_stromal", "macrophage": "macrophage", "lymphocyte": "lymphocyte",
    "plasma_cell": "plasma_cell", "neutrophil": "other_nucleus", "eosinophil": "other_nucleus",
    "myoepithelium": "other_nucleus", "ductal_epithelium": "other_nucleus", "apoptotic_body": "AMBIGUOUS",
    "unlabeled": "AMBIGUOUS",
}  # fmt: skip
SUPER = {
    "tumor_nonMitotic": "tumor_any", "tumor_mitotic": "tumor_any", "nonTILnonMQ_stromal": "nonTIL_stromal",
    "macrophage": "nonTIL_stromal", "lymphocyte": "sTIL", "plasma_cell": "sTIL", "other_nucleus": "other_nucleus",
    "AMBIGUOUS": "AMBIGUOUS",
}  # fmt: skip
MOST_SIDE, FOLDS = 4096, range(1, 6)


@dataclass
class _Found:
    """What a walk through the folder met: field -> path, by kind."""

    images: dict[str, dict[str, str]] = field(default_factory=dict)
    masks: dict[str, str] = field(default_factory=dict)
    tables: dict[str, Path] = field(default_factory=dict)
    windows: Path | None = None


def parts(root: Path) -> list[Part]:
    """Count images (of the fullest colour variant), tables and folds."""
    images = max(len(names_in(root / folder, ".png")) for folder in IMAGES)
    tables = [name for name in names_in(root / "csv", ".csv") if NAME.match(name)]
    folds = [name for name in names_in(root / "train_test_splits", ".csv") if re.match(r"fold_[1-5]_", name)]
    return [
        Part("images", images, FIELDS[0]),
        Part("tables", len(tables), FIELDS[0]),
        Part("fold files", len(folds), 10),
    ]


def verify(root: Path, report: Report) -> None:
    """Check that images, tables, windows and folds agree, and count nuclei."""
    found = _walk(root, report)
    fields = set().union(*found.images.values()) if found.images else set()
    for folder, own in sorted(found.images.items()):
        if missing := (set(found.tables) | fields) - set(own):
            report.each("missing images", (f"{folder}/{name}.png" for name in missing))
    if not found.images:
        report.problem("missing images", f"no image folder: one of {', '.join(IMAGES)} is expected")
    if bare := fields - set(found.tables):
        report.each("missing tables", (f"csv/{name}.csv" for name in bare))
    sizes = _check_images(found, report)
    _check_windows(found, sizes, fields, report)
    _check_tables(found, sizes, report)
    slides = {name.partition("_id-")[0] for name in fields}
    _check_folds(root, slides, report)
    hospitals = {slide.split("-")[1] for slide in slides}
    report.facts |= {"fields": len(fields), "slides": len(slides), "hospitals": len(hospitals)}
    for name, count, expected in (("fields", len(fields), FIELDS), ("slides", len(slides), (SLIDES,)),
                                  ("hospitals", len(hospitals), (HOSPITALS,))):  # fmt: skip
        if count not in expected:
            known = " or ".join(f"{number:,}" for number in expected)
            report.problem("wrong count", f"{count:,} {name}, {known} are expected")


def _walk(root: Path, report: Report) -> _Found:
    found, odd = _Found(), []
    for path, entry in files_below(root):
        folder, _, name = path.rpartition("/")
        stem, _, suffix = name.rpartition(".")
        is_field = NAME.fullmatch(stem)
        if folder in IMAGES and is_field and suffix.lower() == "png":
            _once(found.images.setdefault(folder, {}), stem, path, entry.path, report)
        elif folder in ("mask", "masks") and is_field and suffix.lower() == "png":
            _once(found.masks, stem, path, entry.path, report)
        elif folder == "csv" and is_field and suffix.lower() == "csv":
            found.tables[stem] = Path(entry.path)
        elif folder in ("csv", "") and name.lower() == "all_fov_locations.csv":
            found.windows = Path(entry.path)
        elif folder in IMAGES or folder == "csv":
            odd.append(path)
        elif folder not in (*OTHER, "train_test_splits", "") or (
            not folder and suffix.lower() in ("png", "tif", "jpg")
        ):
            report.problem("stray file", f"{path} belongs to no folder of the data set")
    fields = set(found.tables).union(*found.images.values())
    for path in odd:
        copy = NAME.match(path.rpartition("/")[2])
        kind, text = (
            ("duplicate", "looks like a copy")
            if copy and copy[0] in fields
            else ("stray file", "is named after no field")
        )
        report.problem(kind, f"{path} {text}")
    return found


def _once(found: dict[str, str], name: str, path: str, file: str, report: Report) -> None:
    if name in found:
        report.problem("duplicate", f"{path} is {name} once more")
    found[name] = file


def _check_images(found: _Found, report: Report) -> dict[str, Header]:
    """Return the header of every field's image; variants and masks must have the same size."""
    sizes: dict[str, Header] = {}
    for folder, own in [*sorted(found.images.items()), ("mask", found.masks)]:
        for name, file in own.items():
            try:
                header = read_header(file, MOST_SIDE)
            except (Unreadable, OSError) as error:
                report.problem(getattr(error, "kind", "unreadable"), f"{folder}/{name}.png {error}")
                continue
            first = sizes.setdefault(name, header)
            if (header.width, header.height) != (first.width, first.height):
                sides = f"{header.width} x {header.height} px where its other file has {first.width} x {first.height}"
                report.problem("wrong size", f"{folder}/{name}.png has {sides}")
            elif header.bits != 8 or header.channels not in (3, 4):
                report.problem("wrong size", f"{folder}/{name}.png is no RGB image of 8 bits")
    return sizes


def _check_windows(found: _Found, sizes: dict[str, Header], fields: set[str], report: Report) -> None:
    if not found.windows:
        report.problem("missing windows", "csv/ALL_FOV_LOCATIONS.csv, which says where each image is annotated")
        return
    try:
        rows = list(read_rows(found.windows, ("fovname", "xmin", "ymin", "xmax", "ymax")))
    except (Unreadable, OSError) as error:
        report.problem(getattr(error, "kind", "bad table"), f"{found.windows.name} {error}")
        return
    counts = Counter(row["fovname"] for row in rows)
    for name in (name for name, count in counts.items() if count > 1):
        report.problem("duplicate", f"{found.windows.name} lists {name} more than once")
    for row in rows:
        name = row["fovname"]
        try:
            x0, y0, x1, y1 = (float(row[key]) for key in ("xmin", "ymin", "xmax", "ymax"))
        except ValueError:
            report.problem("bad table", f"{found.windows.name} has no numbers for {name}")
            continue
        size = sizes.get(name)
        if size and not (0 <= x0 < x1 <= size.width and 0 <= y0 < y1 <= size.height):
            window = f"({x0:g}, {y0:g})-({x1:g}, {y1:g})"
            report.problem("wrong size", f"{name}: window {window} is not inside its {size.width} x {size.height} px")
    if unlisted := fields - set(counts):
        report.each("missing windows", (f"{found.windows.name} has no line for {name}" for name in unlisted))
    if alone := set(counts) - fields:
        report.each("missing images", (f"{name}.png, which {found.windows.name} lists" for name in alone))


def _check_tables(found: _Found, sizes: dict[str, Header], report: Report) -> None:
    seen: Counter[str] = Counter()
    for name, path in found.tables.items():
        try:
            rows = list(read_rows(path, COLUMNS))
        except (Unreadable, OSError) as error:
            report.problem(getattr(error, "kind", "bad table"), f"csv/{name}.csv {error}")
            continue
        seen["rows"] += len(rows)
        for row in rows:
            _check_row(name, row, sizes.get(name), seen, report)
    points, empty, beyond = seen["points"], seen["empty"], seen["beyond"]
    report.facts |= {"nuclei": seen["rows"], "point rows": points, "rows without a box": empty}
    report.facts |= {"corrected rows": seen["corrected"], "boxes that leave their image": beyond}
    if found.tables and seen["rows"] not in NUCLEI:
        expected = " or ".join(f"{n:,}" for n in NUCLEI)
        report.problem("wrong count", f"{seen['rows']:,} nuclei, {expected} are expected")


def _check_row(name: str, row: dict[str, str], size: Header | None, seen: Counter[str], report: Report) -> None:
    raw = row["raw_classification"]
    seen["corrected"] += raw.startswith("correction_")
    main = MAIN.get(raw.removeprefix("correction_"))
    where = f"csv/{name}.csv"
    if main is None:
        report.problem("unknown class", f"{where} has the raw class '{raw[:40]}'")
    elif (row["main_classification"], row["super_classification"]) != (main, SUPER[main]):
        given = f"{row['main_classification'][:40]} / {row['super_classification'][:40]}"
        report.problem("unknown class", f"{where} files '{raw}' under {given}, not {main} / {SUPER[main]}")
    seen["points"] += row["type"] == "point"
    box = [row[key] for key in ("xmin", "ymin", "xmax", "ymax")]
    if not all(box):
        seen["empty"] += 1
        return
    try:
        x0, y0, x1, y1 = map(float, box)
    except ValueError:
        report.problem("bad table", f"{where} has the box {', '.join(box)[:80]}")
        return
    if x1 < x0 or y1 < y0:
        report.problem("bad table", f"{where} has a box that ends before it begins ({', '.join(box)})")
    elif size:
        seen["beyond"] += x0 < 0 or y0 < 0 or x1 > size.width or y1 > size.height


def _check_folds(root: Path, slides: set[str], report: Report) -> None:
    """The folds are drawn from an unordered set and cannot be made again: the shipped files must be there and be sound."""
    folder = first_folder(root, "train_test_splits")
    for fold in FOLDS:
        sides: list[list[dict[str, str]]] = []
        for side in ("train", "test"):
            path = root / "train_test_splits" / f"fold_{fold}_{side}.csv"
            if folder is None or not path.is_file():
                report.problem("missing folds", f"train_test_splits/fold_{fold}_{side}.csv")
                continue
            try:
                sides.append(list(read_rows(path, ("slide_name", "hospital"))))
            except (Unreadable, OSError) as error:
                report.problem(getattr(error, "kind", "bad table"), f"{path.name} {error}")
        if len(sides) < 2:
            continue
        train, test = ({row["slide_name"] for row in rows} for rows in sides)
        if both := {row["hospital"] for row in sides[0]} & {row["hospital"] for row in sides[1]}:
            report.problem("bad split", f"fold {fold} has the hospitals {some(both)} on both sides")
        if left := slides - train - test:
            report.each("bad split", (f"fold {fold} leaves out {slide}" for slide in left))


DATA_SET = DataSet(
    name="nucls",
    title="NuCLS: nuclei of breast cancer with classes and boxes (corrected single-rater set)",
    licence="CC0 1.0",
    cite="Amgad et al., GigaScience 2022, doi 10.1093/gigascience/giac037",
    home="https://sites.google.com/view/nucls",
    size=0,
    folder="nucls",
    markers=("rgb", "rgbs", "rgbs_colorNormalized", "csv/*.csv", "QC*.zip"),
    parts=parts,
    verify=verify,
    by_hand=(
        "The files lie on Google Drive, which only a browser can ask: open https://sites.google.com/view/nucls, page 'Single-rater', "
        "or https://drive.google.com/file/d/1k350VQeegN5hMxRK9Vpc65fdLe3wsqYy/view, save QC.zip into {home}."
    ),
    archives=(Archive(("QC*.zip",), "", (*IMAGES, "csv"), 30_000_000_000, 50_000),),
    traps=(
        "Outside the window of ALL_FOV_LOCATIONS.csv an image is not annotated: crop to it, or ignore what lies outside.",
        "Fields lie inside BCSS regions of the same TCGA slides: what was tuned on one has seen the other.",
        "The folds cannot be made again, they come from an unordered set: use the shipped files.",
    ),
)
