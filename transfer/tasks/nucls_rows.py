"""The rows of NuCLS tables: their classes, what becomes of each, and the ledger of all of them."""

import csv
import math
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from results.errors import UserError
from transfer.tasks.boxes import IGNORED

Window = tuple[int, int, int, int]

MAIN = {
    "tumor": "tumor_nonMitotic",
    "mitotic_figure": "tumor_mitotic",
    "fibroblast": "nonTILnonMQ_stromal",
    "vascular_endothelium": "nonTILnonMQ_stromal",
    "macrophage": "macrophage",
    "lymphocyte": "lymphocyte",
    "plasma_cell": "plasma_cell",
    "neutrophil": "other_nucleus",
    "eosinophil": "other_nucleus",
    "myoepithelium": "other_nucleus",
    "ductal_epithelium": "other_nucleus",
    "apoptotic_body": "AMBIGUOUS",
    "unlabeled": "AMBIGUOUS",
}
"""Raw to main class, as in the authors' configuration."""
SUPER = {
    "tumor_nonMitotic": "tumor_any",
    "tumor_mitotic": "tumor_any",
    "nonTILnonMQ_stromal": "nonTIL_stromal",
    "macrophage": "nonTIL_stromal",
    "lymphocyte": "sTIL",
    "plasma_cell": "sTIL",
    "other_nucleus": "other_nucleus",
}
"""Main to super class, likewise; AMBIGUOUS belongs to none."""
AMBIGUOUS = "AMBIGUOUS"
GROUPINGS = {
    "super": ("tumor_any", "nonTIL_stromal", "sTIL", "other_nucleus"),
    "main": tuple(SUPER),
    "one": ("nucleus",),
}
CORRECTION = "correction_"
OUTLINE = "fov"
"""How the raw name of a field's own outline begins."""

KEPT, UNSURE, SLIVER = "kept", "ignored: ambiguous class", "ignored: mostly outside the annotated window"
POINT, EMPTY, OUTSIDE = "reported: point", "reported: empty box", "reported: outside the annotated window"
FIELD, UNKNOWN, NUMBERS = "reported: outline of the field", "reported: unknown class", "reported: box is not numbers"
NO_IMAGE, NO_WINDOW = "reported: image missing", "reported: no annotated window"


class Ledger:
    """What became of every row, by table, and of every field that is not used."""

    def __init__(self) -> None:
        self.rows: dict[str, Counter[str]] = defaultdict(Counter)
        self.fields: dict[str, list[str]] = defaultdict(list)

    def leave_out(self, name: str, table: Path | None, picture: Path | None, window: Window | None) -> None:
        """Note a field that lacks its table, its image or its window, and the rows that go with it."""
        if table is not None:
            reason = NO_IMAGE if picture is None else NO_WINDOW
            self.rows[name][reason] += sum(1 for _ in read_table(table, ()))
            self.fields[f"tables with {'no image' if picture is None else 'no annotated window'}"].append(name)
        elif picture is not None:
            self.fields["images with no table"].append(name)
        else:
            self.fields["windows with neither image nor table"].append(name)

    @property
    def totals(self) -> Counter[str]:
        """Rows of all tables by what became of them."""
        return sum(self.rows.values(), Counter())

    def lines(self, images: int, folder: str) -> list[str]:
        """Account for everything in a few lines."""
        totals = self.totals
        counts = ", ".join(f"{count} {reason}" for reason, count in sorted(totals.items()))
        lines = [f"{images} images in {folder}; {totals.total()} rows: {counts}"]
        lines += [f"{len(names)} {what} (first: {names[0]})" for what, names in sorted(self.fields.items())]
        return lines


def read_table(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """Read a CSV with a header that has `columns`; a UserError names a file that is broken or has others."""
    if not path.is_file():
        raise UserError(f"{path} is no regular file: put the table there or remove it.")
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            doubled = [name for name, count in Counter(reader.fieldnames or ()).items() if name and count > 1]
            if doubled:
                raise UserError(f"{path} has the column {doubled[0]} more than once: fetch the file again.")
            missing = [name for name in columns if name not in (reader.fieldnames or ())]
            if missing:
                raise UserError(f"{path} has no column {', '.join(missing)}: fetch the file again.")
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a CSV ({error}): fetch the file again.") from error
    if any(row[name] is None for row in rows for name in columns):
        raise UserError(f"{path} has a row that breaks off: fetch the file again.")
    return rows


def boxes_of(
    path: Path, window: Window, grouping: str, min_inside: float, ledger: Ledger
) -> tuple[np.ndarray, np.ndarray]:
    """Read the nuclei of one field.

    Args:
        path: the field's table, in the published columns or the earlier form with one column `group`.
        window: the annotated window in px of the image.
        grouping: a key of `GROUPINGS`.
        min_inside: least share of a box's area in the window, or the box is ignored.
        ledger: takes one entry a row, under the field's name.

    Returns:
        Boxes float32 (n, 4) in px of the window and cut at its rim, and labels int64 (n,).
    """
    rows = read_table(path, ("type", "xmin", "ymin", "xmax", "ymax"))
    if rows and not {"raw_classification", "main_classification", "group"} & rows[0].keys():
        raise UserError(f"{path} has no column of classes (raw_classification, main_classification or group).")
    boxes, labels = [], []
    for row in rows:
        outcome, box, label = _read_row(row, window, grouping, min_inside)
        ledger.rows[path.stem][outcome] += 1
        if box is not None:
            boxes.append(box)
            labels.append(label)
    return np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64)


def _read_row(
    row: dict[str, str], window: Window, grouping: str, min_inside: float
) -> tuple[str, list[float] | None, int]:
    """Return what becomes of a row, its box in px of the window where it has one, and its label."""
    main = main_class(row)
    if main is None:
        return (FIELD if _raw(row).lower().startswith(OUTLINE) else UNKNOWN), None, IGNORED
    if row["type"].strip() == "point":
        return POINT, None, IGNORED
    corners = [row[key].strip() for key in ("xmin", "ymin", "xmax", "ymax")]
    if not all(corners):
        return EMPTY, None, IGNORED
    try:
        x0, y0, x1, y1 = (float(corner) for corner in corners)
    except ValueError:
        return NUMBERS, None, IGNORED
    if not all(math.isfinite(value) for value in (x0, y0, x1, y1)):
        return NUMBERS, None, IGNORED
    if x1 <= x0 or y1 <= y0:
        return EMPTY, None, IGNORED
    left, top = max(x0, window[0]), max(y0, window[1])
    right, bottom = min(x1, window[2]), min(y1, window[3])
    if right <= left or bottom <= top:
        return OUTSIDE, None, IGNORED
    box = [left - window[0], top - window[1], right - window[0], bottom - window[1]]
    if main == AMBIGUOUS:
        return UNSURE, box, IGNORED
    if (right - left) * (bottom - top) < min_inside * (x1 - x0) * (y1 - y0):
        return SLIVER, box, IGNORED
    return KEPT, box, label_of(main, grouping)


def main_class(row: dict[str, str]) -> str | None:
    """Return the main class of a row (`AMBIGUOUS` included), from its own column or its raw name; None when unknown."""
    main = (row.get("main_classification") or "").strip().removeprefix(CORRECTION)
    if main in SUPER or main == AMBIGUOUS:
        return main
    return MAIN.get(_raw(row))


def label_of(main: str, grouping: str) -> int:
    """Return the index of a main class in a grouping."""
    if grouping == "one":
        return 0
    return GROUPINGS[grouping].index(SUPER[main] if grouping == "super" else main)


def _raw(row: dict[str, str]) -> str:
    return (row.get("raw_classification") or row.get("group") or "").strip().removeprefix(CORRECTION)
