"""BCSS: tissue regions of breast cancer in 151 regions of as many TCGA slides."""

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.data.dataset import Archive, DataSet, Part, files_below, names_in
from benchmarks.data.headers import Header, read_header
from benchmarks.data.report import Report, Unreadable
from benchmarks.data.tables import NAMED, read_rows, some

IMAGES = ("rgbs_colorNormalized", "rgbs", "images")
OTHER = ("meta", "logs", "annotations")
REGIONS, TESTED = 151, 45
TEST_INSTITUTES = frozenset({"OL", "LL", "E2", "EW", "GM", "S3"})
CODES = (
    "outside_roi", "tumor", "stroma", "lymphocytic_infiltrate", "necrosis_or_debris", "glandular_secretions", "blood",
    "exclude", "metaplasia_NOS", "fat", "plasma_cells", "other_immune_infiltrate", "mucoid_material",
    "normal_acinus_or_duct", "lymphatics", "undetermined", "nerve", "skin_adnexa", "blood_vessel", "angioinvasion",
    "dcis", "other",
)  # fmt: skip
NAME = re.compile(r"(TCGA-([A-Z0-9]{2})-[A-Z0-9]{4}-DX\d+)_xmin(\d+)_ymin(\d+)_MPP-\d+\.\d+")
BASE_MPP = 0.25
"""Nominal um/px of the base pixels (0.2480 to 0.2525 in the slides), to show about what the images have."""

MOST_SIDE, UNEVEN = 20_000, 0.01


@dataclass(frozen=True)
class _Region:
    slide: str
    institute: str
    xmin: int
    ymin: int

    def __str__(self) -> str:
        return f"{self.slide} at {self.xmin}, {self.ymin}"


def _region(stem: str) -> _Region | None:
    found = NAME.fullmatch(stem)
    return _Region(found[1], found[2], int(found[3]), int(found[4])) if found else None


def parts(root: Path) -> list[Part]:
    """Count images (of the fullest variant), masks and the two tables."""
    images = max(len(names_in(root / folder, ".png")) for folder in IMAGES)
    tables = [name for name in names_in(root / "meta", ".csv", ".tsv") if name in ("gtruth_codes.tsv", "roiBounds.csv")]
    masks = len(names_in(root / "masks", ".png"))
    return [Part("images", images, REGIONS), Part("masks", masks, REGIONS), Part("tables", len(tables), 2)]


def verify(root: Path, report: Report) -> None:
    """Check codes, and that every region has an image and a mask of one size at one scale.

    Of images only headers are read; masks are read whole, since a code out of the table shows nowhere else.
    """
    files: dict[str, dict[_Region, tuple[str, str]]] = {}
    odd: list[str] = []
    for path, entry in files_below(root):
        folder, _, name = path.rpartition("/")
        stem, _, suffix = name.rpartition(".")
        if folder in (*IMAGES, "masks"):
            own = files.setdefault(folder, {})
            region = _region(stem) if suffix.lower() == "png" else None
            if region is None:
                odd.append(path)
            elif region in own:
                report.problem("duplicate", f"{path} is the region of {own[region][0]} once more")
            else:
                own[region] = (path, entry.path)
        elif folder.split("/")[0] not in OTHER and (folder or suffix.lower() in ("png", "tif", "jpg")):
            report.problem("stray file", f"{path} belongs to no folder of the data set")
    _name_odd(odd, files, report)
    masks = files.pop("masks", {})
    if not files:
        report.problem("missing images", f"no image folder: one of {', '.join(IMAGES)} is expected")
    regions = set(masks).union(*files.values()) if files else set(masks)
    for folder, own in [*files.items(), ("masks", masks)]:
        if missing := regions - set(own):
            kind = "missing masks" if folder == "masks" else "missing images"
            report.each(kind, (f"{folder} has no region of {region}" for region in missing))
    _check_codes(root, report)
    _check_sizes(files, masks, _bounds(root, report), report)
    for path, file in masks.values():
        _check_mask(path, file, report)
    tested = sum(region.institute in TEST_INSTITUTES for region in regions)
    report.facts |= {"regions": len(regions), "regions of test institutes": tested}
    if (len(regions), tested) != (REGIONS, TESTED):
        text = f"{len(regions)} regions, {tested} of them of test institutes; {REGIONS} and {TESTED} are expected"
        report.problem("wrong count", text)


def _name_odd(paths: list[str], files: Mapping[str, Mapping[_Region, object]], report: Report) -> None:
    """Tell copies of regions from files that are none, once all regions are known."""
    for path in paths:
        folder, _, name = path.rpartition("/")
        copy = NAME.match(name)
        if copy and _region(copy[0]) in files[folder]:
            report.problem("duplicate", f"{path} looks like a copy")
        else:
            report.problem("stray file", f"{path} is not named <slide>_xmin<x>_ymin<y>_MPP-0.2500.png")


def _check_codes(root: Path, report: Report) -> None:
    path = root / "meta" / "gtruth_codes.tsv"
    if not path.is_file():
        report.problem("missing tables", "meta/gtruth_codes.tsv, the names of the mask codes")
        return
    try:
        rows = list(read_rows(path, ("label", "GT_code"), delimiter="\t"))
    except (Unreadable, OSError) as error:
        report.problem(getattr(error, "kind", "bad table"), f"meta/{path.name} {error}")
        return
    codes = {row["GT_code"]: row["label"] for row in rows}
    wrong = [name for code, name in enumerate(CODES) if codes.get(str(code)) != name]
    if wrong or len(rows) != len(CODES):
        report.problem(
            "bad table", f"meta/{path.name} lacks or renames {some(wrong) or 'nothing, but has other codes too'}"
        )


def _check_mask(path: str, file: str, report: Report) -> None:
    """Name codes of a mask that the table does not have; what is no mask by its header is named by `_check_sizes`."""
    from PIL import Image

    try:
        header = read_header(file, MOST_SIDE)
    except (Unreadable, OSError):
        return
    if (header.format, header.channels, header.bits) != ("png", 1, 8):
        return
    try:
        with Image.open(file, formats=("PNG",)) as mask:
            counts = mask.histogram()
    except (OSError, SyntaxError, ValueError, zlib.error, Image.DecompressionBombError) as error:
        report.problem("unreadable", f"{path} holds no whole picture ({error})")
        return
    if unknown := [code for code, count in enumerate(counts) if count and code >= len(CODES)]:
        listed = ", ".join(map(str, unknown[:NAMED])) + (", ..." if len(unknown) > NAMED else "")
        text = f"{path} holds {listed} in {sum(counts[len(CODES) :]) / sum(counts):.1%} of its px"
        report.problem("unknown code", f"{text}; codes go from 0 to {len(CODES) - 1}")


def _bounds(root: Path, report: Report) -> dict[_Region, tuple[int, int]]:
    """Return region -> width and height in base px, as roiBounds.csv says."""
    path = root / "meta" / "roiBounds.csv"
    if not path.is_file():
        report.problem("missing tables", "meta/roiBounds.csv, from which the scale of each region follows")
        return {}
    bounds: dict[_Region, tuple[int, int]] = {}
    try:
        for row in read_rows(path, ("xmin", "ymin", "xmax", "ymax")):
            slide = row.get("", "")
            x0, y0, x1, y1 = (int(float(row[key])) for key in ("xmin", "ymin", "xmax", "ymax"))
            region = _Region(slide, slide.split("-")[1] if slide.count("-") > 1 else "", x0, y0)
            if region in bounds:
                report.problem("duplicate", f"meta/{path.name} lists {slide} more than once")
            bounds[region] = (x1 - x0, y1 - y0)
    except (Unreadable, OSError) as error:
        report.problem(getattr(error, "kind", "bad table"), f"meta/{path.name} {error}")
    except (ValueError, OverflowError):
        report.problem("bad table", f"meta/{path.name} has bounds that are no numbers")
    return bounds


def _check_sizes(
    images: dict[str, dict[_Region, tuple[str, str]]],
    masks: dict[_Region, tuple[str, str]],
    bounds: dict[_Region, tuple[int, int]],
    report: Report,
) -> None:
    sizes: dict[_Region, Header] = {}
    scales: list[float] = []
    for region, header, path in _headers([*images.values(), masks], report):
        is_mask = path.startswith("masks/")
        first = sizes.setdefault(region, header)
        if (header.width, header.height) != (first.width, first.height):
            sides = f"{header.width} x {header.height} px where its image has {first.width} x {first.height}"
            report.problem("wrong size", f"{path} has {sides}")
        elif header.bits != 8 or header.channels not in ((1,) if is_mask else (3, 4)):
            kind = "a mask of one channel" if is_mask else "an RGB image"
            report.problem("wrong size", f"{path} is not {kind} of 8 bits")
        elif header is first and bounds:
            scales += _scale(region, header, path, bounds, report)
    if missing := set(bounds) - set(sizes):
        report.each("missing regions", (f"{region}, which roiBounds.csv lists" for region in missing))
    if scales:
        middle = sorted(scales)[len(scales) // 2]
        report.facts["px an image px spans"] = f"{1 / max(scales):.4f} to {1 / min(scales):.4f} base px"
        report.facts["um/px, about"] = f"{BASE_MPP / middle:.3f} (whatever the names say)"


def _headers(folders: list[dict[_Region, tuple[str, str]]], report: Report) -> list[tuple[_Region, Header, str]]:
    read = []
    for own in folders:
        for region, (path, file) in own.items():
            try:
                read.append((region, read_header(file, MOST_SIDE), path))
            except (Unreadable, OSError) as error:
                report.problem(getattr(error, "kind", "unreadable"), f"{path} {error}")
    return read


def _scale(
    region: _Region, header: Header, path: str, bounds: dict[_Region, tuple[int, int]], report: Report
) -> list[float]:
    """Return image px a base px, when the region is listed and both sides agree on it."""
    if region not in bounds:
        report.problem("stray file", f"{path} is a region that roiBounds.csv does not list")
        return []
    width, height = bounds[region]
    if width <= 0 or height <= 0:
        report.problem("bad table", f"meta/roiBounds.csv gives {region.slide} no area")
        return []
    across, down = header.width / width, header.height / height
    if abs(across / down - 1) > UNEVEN or not 0.2 < across < 2:
        ratio = f"{across:.3f} across and {down:.3f} down"
        report.problem("wrong size", f"{path} is scaled {ratio}: it is not the whole region of roiBounds.csv")
        return []
    return [across]


DATA_SET = DataSet(
    name="bcss",
    title="BCSS: tissue regions of breast cancer, 22 codes, 151 regions",
    licence="CC0 1.0 (the readme packed with older copies says CC BY 4.0: cite in any case)",
    cite="Amgad et al., Bioinformatics 2019, doi 10.1093/bioinformatics/btz083",
    home="https://github.com/PathologyDataScience/BCSS",
    size=5_000_000_000,
    folder="bcss",
    markers=("rgbs_colorNormalized", "rgbs", "images/TCGA-*.png", "masks", "0_Public-data-Amgad2019*"),
    parts=parts,
    verify=verify,
    by_hand=(
        "The files lie in a Google Drive folder, which only a browser can ask: open "
        "https://drive.google.com/drive/folders/1zqbdkQF8i5cEmZOGmbdQm-EP8dRYtvss, download 0_Public-data-Amgad2019_0.25MPP (Drive packs "
        "it into one or several zip files), save all of them into {home}."
    ),
    archives=(Archive(("0_Public-data-Amgad2019*.zip",), "", (*IMAGES, "masks", "meta"), 40_000_000_000, 20_000),),
    traps=(
        "Images named MPP-0.2500 have about 0.30 um/px: the scale follows from roiBounds.csv and the real size.",
        "Code 0 is outside of the region and is ignored, it is not 'other' (21); tumour is code 1.",
        "NuCLS fields lie inside these regions: what was tuned on one has seen the other.",
    ),
)
