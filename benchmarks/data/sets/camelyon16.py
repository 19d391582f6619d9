"""Camelyon16 in both layouts: the AWS bucket (`images/`, `annotations/`, `masks/`) and GigaDB / Google Drive (`training/`, `testing/`)."""

import re
from collections.abc import Iterator
from pathlib import Path

from benchmarks.data.dataset import Archive, DataSet, Listing, Part, Source, files_below, names_in
from benchmarks.data.headers import read_header
from benchmarks.data.report import Report, Unreadable
from benchmarks.data.tables import read_lines, read_polygons, some

BUCKET = "https://camelyon-dataset.s3.us-west-2.amazonaws.com/CAMELYON16/"
TUMOR_TESTS = (
    1, 2, 4, 8, 10, 11, 13, 16, 21, 26, 27, 29, 30, 33, 38, 40, 46, 48, 51, 52, 61, 64, 65, 66, 68, 69, 71, 73, 74, 75, 79,
    82, 84, 90, 92, 94, 97, 99, 102, 104, 105, 108, 110, 113, 114, 116, 117, 121, 122,
)  # fmt: skip
"""Test slides with a tumour, 49 of 129."""

PARTLY = frozenset(
    [f"tumor_{n:03d}" for n in (10, 15, 18, 20, 25, 29, 33, 34, 44, 46, 51, 54, 55, 56, 67, 79, 85, 92, 95, 110)]
    + ["test_114"]
)
"""Slides that hold tumour outside their polygons, as the readme of the data set lists them."""

NORMALS = tuple(f"normal_{n:03d}" for n in range(1, 161) if n != 86)
TUMORS = tuple(f"tumor_{n:03d}" for n in range(1, 112))
TESTS = tuple(f"test_{n:03d}" for n in range(1, 131) if n != 49)
SLIDES = frozenset(NORMALS + TUMORS + TESTS)
ANNOTATED = frozenset(TUMORS) | {f"test_{n:03d}" for n in TUMOR_TESTS}
OLDER = frozenset({"normal_086", "test_049"})
"""Slides of older copies: one was a tumour (now tumor_111), one shows another test slide again."""

SLIDE_FOLDERS = ("images", "training/normal", "training/tumor", "testing/images")
XML_FOLDERS = ("annotations", "training/lesion_annotations", "testing/lesion_annotations", "lesion_annotations", "")
ROOM = ("masks", "evaluation", "testing/evaluation")
PAPERS = (".txt", ".md", ".md5", ".csv", ".zip", ".pdf")
"""Folders that are not looked into, and what may lie beside the folders of slides."""

GROUPS = {"Tumor", "_0", "_1", "_2", "None", ""}
SMALLEST = 10_000
"""Least px a side at level 0: the slides have some 100,000 x 200,000."""


def parts(root: Path) -> list[Part]:
    """Count slides and annotations in whichever layout is there."""
    slides = {slide_of(name) for folder in SLIDE_FOLDERS for name in names_in(root / folder, ".tif", ".tiff")}
    drawn = {slide_of(name) for folder in XML_FOLDERS for name in names_in(root / folder, ".xml")}
    found = [Part(name, len(slides & set(own)), len(own)) for name, own in _kinds().items()]
    return [*found, Part("annotations", len(drawn & ANNOTATED), len(ANNOTATED))]


def _kinds() -> dict[str, tuple[str, ...]]:
    return {"normal slides": NORMALS, "tumor slides": TUMORS, "test slides": TESTS}


def slide_of(name: str) -> str:
    """Return the current name of a slide from a file name: `Tumor_001.tif` and `tumor_001.xml` are `tumor_001`."""
    found = re.fullmatch(r"(normal|tumor|test)_(\d{1,3})", name.rpartition(".")[0].lower())
    return f"{found[1]}_{int(found[2]):03d}" if found else ""


def verify(root: Path, report: Report) -> None:
    """Check that every slide and annotation is there once, in its folder, with a sound header."""
    slides: dict[str, str] = {}
    drawn: dict[str, str] = {}
    for path, entry in files_below(root):
        folder, _, name = path.rpartition("/")
        if folder in SLIDE_FOLDERS and name.lower().endswith((".tif", ".tiff")):
            _place(path, slide_of(name), slides, SLIDES | OLDER, report)
            _check_slide(path, entry.path, report)
        elif folder in XML_FOLDERS and name.lower().endswith(".xml"):
            _place(path, slide_of(name), drawn, ANNOTATED, report)
            _check_polygons(path, Path(entry.path), report)
        elif not (folder in ROOM or (folder in ("", "training", "testing") and name.lower().endswith(PAPERS))):
            report.problem("stray file", f"{path} belongs to neither layout of the data set")
    _count(set(slides), set(drawn), report)
    _check_labels(root, set(slides), report)


def _place(path: str, slide: str, found: dict[str, str], known: frozenset[str], report: Report) -> None:
    if slide not in known:
        report.problem("stray file", f"{path} is named after no slide of the data set that could have it")
    elif slide in found:
        report.problem("duplicate", f"{path} is {slide} once more, after {found[slide]}")
    else:
        kind = slide.partition("_")[0]
        folder = path.rpartition("/")[0]
        is_test = kind == "test"
        wrong = (folder.startswith("training") and is_test) or (folder.startswith("testing") and not is_test)
        if wrong or (folder in ("training/normal", "training/tumor") and not folder.endswith(kind)):
            report.problem("stray file", f"{path} lies in the folder of other slides")
        found[slide] = path


def _check_slide(path: str, file: str, report: Report) -> None:
    try:
        header = read_header(file)
    except (Unreadable, OSError) as error:
        report.problem(getattr(error, "kind", "unreadable"), f"{path} {error}")
        return
    if header.format != "tiff" or not header.is_tiled or (header.channels, header.bits) != (3, 8):
        report.problem("wrong size", f"{path} is no tiled TIFF of 3 channels of 8 bits, as every slide is")
    elif min(header.width, header.height) < SMALLEST:
        size = f"{header.width:,} x {header.height:,} px"
        report.problem("wrong size", f"{path} has {size}: a reduced copy, a slide has {SMALLEST:,} a side or more")


def _check_polygons(path: str, file: Path, report: Report) -> None:
    try:
        groups = read_polygons(file)
    except (Unreadable, OSError) as error:
        report.problem(getattr(error, "kind", "bad annotation"), f"{path} {error}")
        return
    if unknown := set(groups) - GROUPS:
        report.problem("bad annotation", f"{path} has the unknown groups {some(unknown)}")
    if not sum(count for group, count in groups.items() if group != "_2"):
        report.problem("bad annotation", f"{path} has no tumour polygon")


def _count(slides: set[str], drawn: set[str], report: Report) -> None:
    for name, own in _kinds().items():
        missing = set(own) - slides
        if missing == {"tumor_111"} and "normal_086" in slides:
            missing = set()
        if len(missing) == len(own):
            report.problem("missing class", f"none of the {len(own)} {name} is there")
        elif missing:
            report.each("missing slides", (f"{slide}.tif" for slide in missing))
    if older := slides & OLDER:
        report.remarks.append(
            f"an older copy: it holds {some(older)}; normal_086 shows tumour and is tumor_111 today, test_049 shows another "
            "test slide again, and both are left out of every list here"
        )
    bare = (ANNOTATED & slides) - drawn
    if bare:
        report.each("missing annotations", (f"{slide}.xml" for slide in bare))
    partly = PARTLY & slides
    if partly:
        report.remarks.append(
            f"{len(partly)} slides are only partly annotated, so no normal tile may come from them: {some(partly)}"
        )
    report.facts |= {"slides": len(slides & SLIDES), "annotations": len(drawn), "partly annotated": len(partly)}


def _check_labels(root: Path, slides: set[str], report: Report) -> None:
    """Compare `reference.csv` (no header: slide, class, ...) with the test slides that have a tumour."""
    for path in (root / "testing" / "reference.csv", root / "evaluation" / "reference.csv"):
        if not path.is_file():
            continue
        where = path.relative_to(root)
        try:
            labels = {slide_of(f"{cells[0].strip()}.tif"): cells[1].strip().lower() for cells in _pairs(path)}
        except (Unreadable, OSError) as error:
            report.problem(getattr(error, "kind", "bad table"), f"{where} {error}")
            continue
        wrong = [name for name in TESTS if name in labels and (labels[name] == "tumor") != (name in ANNOTATED)]
        if wrong:
            report.each("bad table", (f"{where} gives {slide} the other class" for slide in wrong))
        if unnamed := (slides & set(TESTS)) - set(labels):
            report.each("bad table", (f"{where} has no line for {slide}" for slide in unnamed))


def _pairs(path: Path) -> Iterator[list[str]]:
    return (cells for cells in read_lines(path) if len(cells) >= 2)


DATA_SET = DataSet(
    name="camelyon16",
    title="Camelyon16: whole slides of sentinel lymph nodes, with and without metastases of breast cancer",
    licence="CC0 1.0",
    cite="Ehteshami Bejnordi et al., JAMA 2017, doi 10.1001/jama.2017.14585; Litjens et al., GigaScience 2018, doi 10.1093/gigascience/giy065",
    home="https://camelyon17.grand-challenge.org/Data",
    size=700_000_000_000,
    folder="camelyon16",
    markers=("images/*.tif", "training", "testing", "annotations/*.xml", "checksums.md5"),
    parts=parts,
    verify=verify,
    listing=Listing(
        BUCKET, Source(f"{BUCKET}checksums.md5", "checksums.md5"), ("images/*", "annotations/*", "*.txt", "*.md")
    ),
    by_hand=(
        "The same slides lie on GigaDB (data set 100439) and on Google Drive; the links are on the home page. Keep their folders "
        "training/ and testing/ as they are, then run 'prepare' for the two lesion_annotations.zip."
    ),
    archives=(
        Archive(("training/lesion_annotations.zip",), "training/lesion_annotations", ("*.xml",), 2_000_000_000, 2000),
        Archive(("testing/lesion_annotations.zip",), "testing/lesion_annotations", ("*.xml",), 2_000_000_000, 2000),
    ),
    traps=(
        "399 slides are current; copies of 400 hold normal_086 (a tumour, now tumor_111) and test_049 (a duplicate).",
        "21 slides are only partly annotated: outside their polygons there is tumour too.",
        "PatchCamelyon is cut from these slides, and SGCL pretrains on slides it is scored on: see the contamination marks.",
    ),
)
