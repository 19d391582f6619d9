"""The files of a BCSS folder: which image belongs to which mask, what its tables say, and how many um a px is."""

import csv
import math
import re
from dataclasses import dataclass
from pathlib import Path

from results.errors import UserError
from transfer.tasks.schema import readable
from transfer.tasks.segmentation import image_size

CODES = (
    "outside_roi", "tumor", "stroma", "lymphocytic_infiltrate", "necrosis_or_debris", "glandular_secretions", "blood",
    "exclude", "metaplasia_NOS", "fat", "plasma_cells", "other_immune_infiltrate", "mucoid_material",
    "normal_acinus_or_duct", "lymphatics", "undetermined", "nerve", "skin_adnexa", "blood_vessel", "angioinvasion",
    "dcis", "other",
)  # fmt: skip
"""Label of every code (meta/gtruth_codes.tsv)."""

FOLDERS = ("rgbs_colorNormalized", "images", "rgbs")
"""Where images may lie: the shared drive, the authors' script, a plain sample; the first that is there is read."""

NAME = re.compile(r"(?P<slide>[^_]+)_xmin(?P<xmin>\d+)_ymin(?P<ymin>\d+)_MPP-(?P<mpp>\d+\.\d+)")
NOMINAL = (0.25, 0.5)
"""um/px of a scan at 40x and at 20x."""
FINEST, COARSEST = 0.05, 8
"""Bounds of um/px."""
SMALLEST = 32
"""px of a side; smaller regions are left out."""
NUMBERS = {"magnification": r"[0-9]{1,3}(\.[0-9]{1,9})?", "GT_code": r"[0-9]{1,3}"}
"""How numbers of the tables are written; those of other columns are whole, in base px."""


@dataclass(frozen=True)
class Pair:
    """Image and mask of one region and what their name says."""

    image: Path
    mask: Path
    slide: str
    corner: tuple[int, int]
    named_mpp: float


def check_code_table(path: Path) -> None:
    """Hold the folder's own code table, where there is one, against ours; a UserError names the first difference."""
    if not path.is_file():
        return
    for row in _rows(path, ("label", "GT_code"), "\t"):
        label, code = row["label"], row["GT_code"]
        if int(code) >= len(CODES) or CODES[int(code)] != label:
            raise UserError(
                f"{path} gives '{_shown(label)}' the code {code}, which is not in the table of BCSS: fetch the table again."
            )


def find_pairs(root: Path) -> tuple[list[Pair], list[str]]:
    """Return every image that has a mask, by name, and a remark for those that lack the other one."""
    folders = [root / name for name in FOLDERS if (root / name).is_dir()]
    if not folders or not (root / "masks").is_dir():
        raise UserError(f"{root} is not a BCSS folder: masks and one of {', '.join(FOLDERS)} are expected in it.")
    images, masks = _pngs(folders[0]), _pngs(root / "masks")
    remarks = [f"images are those of {folders[0].name}, not of {folders[1].name}"] if len(folders) > 1 else []
    for what, lacks, names in (("image", "mask", images.keys() - masks), ("mask", "image", masks.keys() - images)):
        if names:
            shown = ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
            remarks.append(f"{len(names)} {what}(s) without {lacks} left out: {shown}")
    pairs = []
    for name in sorted(images.keys() & masks):
        found = NAME.fullmatch(Path(name).stem)
        if not found:
            raise UserError(
                f"{images[name]} is not named like SLIDE_xmin0_ymin0_MPP-0.2500.png: give it its own name back."
            )
        corner = int(found["xmin"]), int(found["ymin"])
        pairs.append(Pair(images[name], masks[name], found["slide"], corner, float(found["mpp"])))
    if not pairs:
        raise UserError(f"{root} has no image with a mask of the same name: fetch both folders of the data set.")
    small = [pair for pair in pairs if min(image_size(pair.mask)) < SMALLEST]
    remarks += [f"{pair.image.name} is smaller than {SMALLEST} px a side and left out" for pair in small]
    if len(small) == len(pairs):
        raise UserError(f"{root / 'masks'} has no mask of {SMALLEST} px a side or more: fetch whole regions.")
    return [pair for pair in pairs if pair not in small], remarks


def _pngs(folder: Path) -> dict[str, Path]:
    """Return the PNG files of a folder by name; hidden ones are passed over, and what is no file is a UserError."""
    found = {path.name: path for path in folder.glob("*.png") if not path.name.startswith(".")}
    for path in found.values():
        if not path.is_file():
            raise UserError(f"{path} is not a regular file: put the PNG there, or take it out.")
        readable(path)
    return found


def resolutions(pairs: list[Pair], meta: Path) -> tuple[list[float], list[str]]:
    """Return the um/px of every image, and a remark for those whose name had to be believed.

    Images called MPP-0.2500 are about 0.30 um/px (the authors' script rounds to four decimals of a millimetre), so the scale
    comes from the region's bounds in base px (roiBounds.csv) and the image's real size. The um/px of a base px are nominal:
    0.25 at 40x, 0.5 at 20x, by slide_magnifications.csv, or without that, whichever brings the image nearer to its name.
    A region that has no row is a cut-out; its name is all there is.

    Raises:
        UserError: when an image is scaled differently along x and y, or its um/px cannot be.
    """
    bounds = {(row[""], int(row["xmin"]), int(row["ymin"])): row for row in _rows(meta / "roiBounds.csv", ("", "xmin", "ymin", "xmax", "ymax"))}  # fmt: skip
    powers = {
        row[""]: float(row["magnification"]) for row in _rows(meta / "slide_magnifications.csv", ("", "magnification"))
    }
    scales, unknown = [], []
    for pair in pairs:
        row = bounds.get((pair.slide, *pair.corner))
        if row is None:
            scales.append(_plausible(pair, pair.named_mpp, "its name"))
            unknown.append(pair.image.name)
            continue
        power = powers.get("-".join(pair.slide.split("-")[:3]))
        mpp = _resolution(pair, (int(row["xmax"]) - pair.corner[0], int(row["ymax"]) - pair.corner[1]), power)
        scales.append(_plausible(pair, mpp, f"its row in {meta / 'roiBounds.csv'}"))
    if not unknown:
        return scales, []
    shown = ", ".join(unknown[:3]) + (", ..." if len(unknown) > 3 else "")
    return scales, [
        f"{len(unknown)} image(s) have no row in roiBounds.csv, so their um/px are those of the name: {shown}"
    ]


def _plausible(pair: Pair, mpp: float, source: str) -> float:
    if not FINEST <= mpp <= COARSEST:
        raise UserError(
            f"{pair.image} has {mpp:.4g} um/px by {source}: {FINEST} to {COARSEST} are expected, mend that or take it out."
        )
    return mpp


def _resolution(pair: Pair, base: tuple[int, int], power: float | None) -> float:
    if min(base) <= 0:
        raise UserError(
            f"the row of {pair.image.name} in roiBounds.csv is {base[0]} x {base[1]} base px: xmax and ymax must exceed xmin and ymin."
        )
    across, down = (px / length for px, length in zip(image_size(pair.mask), base, strict=True))
    if abs(across / down - 1) > 0.02:
        raise UserError(
            f"{pair.mask} is {across:.3f} times its bounds in roiBounds.csv along x and {down:.3f} along y: these differ, fetch it again."
        )
    scale = (across + down) / 2
    if power:
        return 10 / power / scale
    named = _plausible(pair, pair.named_mpp, "its name")
    return min((nominal / scale for nominal in NOMINAL), key=lambda mpp: abs(math.log(mpp / named)))


def _rows(path: Path, columns: tuple[str, ...], delimiter: str = ",") -> list[dict[str, str]]:
    if not path.is_file():
        return []
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, delimiter=delimiter)
            if missing := [name for name in columns if name not in (reader.fieldnames or [])]:
                raise UserError(f"{path} has no column '{missing[0]}': fetch the table again.")
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a table ({error}): fetch it again.") from error
    for number, row in enumerate(rows, start=2):
        for name in columns[1:]:
            text = row[name] or ""
            if not re.fullmatch(NUMBERS.get(name, r"[0-9]{1,9}"), text):
                kind = "number" if name == "magnification" else "whole number"
                raise UserError(
                    f"{path} has '{_shown(text)}' as {name} in line {number}: a {kind} is expected, mend the line."
                )
            if name == "magnification" and not 1 <= float(text) <= 100:
                raise UserError(
                    f"{path} has the magnification {text} in line {number}: 1 to 100 are expected, mend it."
                )
    return rows


def _shown(text: str | None) -> str:
    return " ".join((text or "").split())[:40]
