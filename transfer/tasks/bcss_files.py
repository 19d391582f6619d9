"""The files of a BCSS folder: which image belongs to which mask, what its tables say, and how many um a px is."""

import csv
import math
import re
from dataclasses import dataclass
from pathlib import Path

from results.errors import UserError
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
        if not code.isdecimal() or int(code) >= len(CODES) or CODES[int(code)] != label:
            raise UserError(
                f"{path} gives '{label}' the code {code}, which is not in the table of BCSS: fetch the table again."
            )


def find_pairs(root: Path) -> tuple[list[Pair], list[str]]:
    """Return every image that has a mask, by name, and a remark for those that lack the other one."""
    folders = [root / name for name in FOLDERS if (root / name).is_dir()]
    if not folders or not (root / "masks").is_dir():
        raise UserError(f"{root} is not a BCSS folder: masks and one of {', '.join(FOLDERS)} are expected in it.")
    images = {path.name: path for path in folders[0].glob("*.png") if not path.name.startswith(".")}
    masks = {path.name: path for path in (root / "masks").glob("*.png") if not path.name.startswith(".")}
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
    return pairs, remarks


def resolutions(pairs: list[Pair], meta: Path) -> tuple[list[float], list[str]]:
    """Return the um/px of every image, and a remark for those whose name had to be believed.

    Images called MPP-0.2500 are about 0.30 um/px (the authors' script rounds to four decimals of a millimetre), so the scale
    comes from the region's bounds in base px (roiBounds.csv) and the image's real size. The um/px of a base px are nominal:
    0.25 at 40x, 0.5 at 20x, by slide_magnifications.csv, or without that, whichever brings the image nearer to its name.
    A region that has no row is a cut-out; its name is all there is.

    Raises:
        UserError: when an image is scaled differently along x and y.
    """
    bounds = {(row[""], int(row["xmin"]), int(row["ymin"])): row for row in _rows(meta / "roiBounds.csv", ("", "xmin", "ymin", "xmax", "ymax"))}  # fmt: skip
    powers = {
        row[""]: float(row["magnification"]) for row in _rows(meta / "slide_magnifications.csv", ("", "magnification"))
    }
    scales, unknown = [], []
    for pair in pairs:
        row = bounds.get((pair.slide, *pair.corner))
        if row is None:
            scales.append(pair.named_mpp)
            unknown.append(pair.image.name)
            continue
        power = powers.get("-".join(pair.slide.split("-")[:3]))
        scales.append(_resolution(pair, (int(row["xmax"]) - pair.corner[0], int(row["ymax"]) - pair.corner[1]), power))
    if not unknown:
        return scales, []
    shown = ", ".join(unknown[:3]) + (", ..." if len(unknown) > 3 else "")
    return scales, [
        f"{len(unknown)} image(s) have no row in roiBounds.csv, so their um/px are those of the name: {shown}"
    ]


def _resolution(pair: Pair, base: tuple[int, int], power: float | None) -> float:
    across, down = (px / length for px, length in zip(image_size(pair.mask), base, strict=True))
    if min(base) <= 0 or abs(across / down - 1) > 0.02:
        raise UserError(
            f"{pair.mask} is {across:.3f} times its bounds in roiBounds.csv along x and {down:.3f} along y: these differ, fetch it again."
        )
    scale = (across + down) / 2
    if power:
        return 10 / power / scale
    return min((nominal / scale for nominal in NOMINAL), key=lambda mpp: abs(math.log(mpp / pair.named_mpp)))


def _rows(path: Path, columns: tuple[str, ...], delimiter: str = ",") -> list[dict[str, str]]:
    if not path.is_file():
        return []
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, delimiter=delimiter)
            if missing := [name for name in columns if name not in (reader.fieldnames or [])]:
                raise UserError(f"{path} has no column '{missing[0]}': fetch the table again.")
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a table ({error}): fetch it again.") from error
    for number, row in enumerate(rows, start=2):
        for name in columns[1:]:
            if name != "GT_code" and not re.fullmatch(r"\d+(\.\d+)?", row[name] or ""):
                raise UserError(
                    f"{path} has '{row[name]}' as {name} in line {number}: a number is expected, mend the line."
                )
    return rows
