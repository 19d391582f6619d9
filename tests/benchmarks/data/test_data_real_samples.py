"""Real files of each data set go through the same checks: what is wrong with the samples is only that they are few."""

import csv
import os
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.data.dataset import load
from benchmarks.data.headers import read_header
from benchmarks.data.report import Report, Unreadable
from benchmarks.data.sets import bcss, camelyon16, nucls
from benchmarks.data.tables import read_polygons, read_rows

DATA = Path(os.environ.get("SGCL_BENCH_REAL_DATA", Path(__file__).parents[4] / "shared" / "data"))

pytestmark = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"no real samples: {DATA} is missing; set SGCL_BENCH_REAL_DATA"
)


def checked(name, home):
    report = Report(name, DATA / home)
    load(name).verify(DATA / home, report)
    return report


@pytest.mark.parametrize(
    ("name", "kinds", "tiles"),
    [("nct-crc-he", {"missing tiles": 9}, 9), ("crc-val-he-7k", {"missing tiles": 2, "missing class": 1}, 3)],
)
def test_class_folders(name, kinds, tiles):
    report = checked(name, "nct-crc")
    assert {kind: len(texts) for kind, texts in report.problems.items()} == kinds
    assert report.facts["tiles"] == tiles


def test_nucls():
    report = checked("nucls", "nucls")
    assert {kind: len(texts) for kind, texts in report.problems.items()} == {
        "missing images": 3, "missing folds": 8, "wrong count": 4,
    }  # fmt: skip
    assert report.facts == {
        "nuclei": 490, "point rows": 0, "rows without a box": 0, "corrected rows": 0, "boxes that leave their image": 0,
        "fields": 12, "slides": 2, "hospitals": 2,
    }  # fmt: skip
    groups = [row["group"] for row in read_rows(DATA / "nucls" / "nucleus_GTcodes.csv", ("group", "GT_code"))]
    assert set(nucls.MAIN) <= set(groups)
    assert len(groups) == 20


def test_bcss():
    report = checked("bcss", "bcss")
    assert {kind: len(texts) for kind, texts in report.problems.items()} == {
        "missing images": 1, "stray file": 4, "missing regions": 150, "wrong count": 1,
    }  # fmt: skip
    assert report.facts["um/px, about"].startswith("0.298 ")
    regions = list(read_rows(DATA / "bcss" / "meta" / "roiBounds.csv", ("xmin", "ymin", "xmax", "ymax")))
    assert len(regions) == bcss.REGIONS
    assert sum(row[""].split("-")[1] in bcss.TEST_INSTITUTES for row in regions) == bcss.TESTED
    assert len(list(read_rows(DATA / "bcss" / "meta" / "slide_magnifications.csv", ("magnification",)))) == 151


def test_camelyon():
    report = checked("camelyon16", "camelyon16")
    assert {kind: len(texts) for kind, texts in report.problems.items()} == {"missing class": 3}
    assert report.facts["annotations"] == 2
    assert read_polygons(DATA / "camelyon16" / "tumor_001.xml") == {"Tumor": 2}
    assert read_polygons(DATA / "camelyon16" / "tumor_073.xml") == {"Tumor": 1}
    with open(DATA / "camelyon16" / "slide_labels.csv", encoding="utf-8") as file:
        labels = {row["slide_name"]: row["label"] for row in csv.DictReader(file)}
    assert set(labels) == camelyon16.SLIDES
    assert {name for name, label in labels.items() if label == "1"} == camelyon16.ANNOTATED


def test_every_image_header_agrees_with_pillow():
    images = [path for path in sorted(DATA.rglob("*")) if path.suffix in (".png", ".tif")]
    assert len(images) >= 34
    for path in images:
        header = read_header(path)
        with Image.open(path) as image:
            assert (header.width, header.height, header.channels) == (*image.size, len(image.getbands())), path


def test_slides():
    header = read_header(DATA / "wsi" / "CMU-1-Small-Region.svs")
    assert (header.width, header.height, header.channels, header.is_tiled) == (2220, 2967, 3, True)
    with pytest.raises(Unreadable, match="neither a PNG nor a TIFF"):
        read_header(DATA / "wsi" / "broken.svs")
