"""Every file of the real samples goes through its loader, and a test says what comes out."""

import os
import re
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from results.files import file_digest

TESTS = Path(__file__).parent
DATA = Path(os.environ.get("SGCL_BENCH_REAL_DATA", TESTS.parents[1] / "shared" / "data"))
NUCLS, BCSS = "transfer/test_nucls.py::", "transfer/test_bcss.py::"
HEADERS = "benchmarks/data/test_data_real_samples.py::"

ASSERTED = {
    "bcss/masks/TCGA-A1-A0SK-*.png": (
        f"{BCSS}test_class_sums_of_the_real_masks",
        f"{BCSS}test_the_real_full_mask_called_a_quarter_is_about_three_tenths",
    ),
    "bcss/masks/TCGA-A2-A0SX-*.png": (f"{BCSS}test_class_sums_of_the_real_masks",),
    "bcss/meta/gtruth_codes.tsv": (f"{BCSS}test_class_sums_of_the_real_masks", f"{HEADERS}test_bcss"),
    "bcss/meta/roiBounds.csv": (f"{HEADERS}test_bcss",),
    "bcss/meta/slide_magnifications.csv": (f"{HEADERS}test_bcss",),
    "bcss/rgbs/*.png": (f"{BCSS}test_the_real_sample_is_read_and_split",),
    "camelyon16/slide_labels.csv": (
        f"{HEADERS}test_camelyon",
        "pretrain/cohorts/test_camelyon16.py::test_labels_are_those_of_the_collected_list",
    ),
    "camelyon16/tumor_0*.xml": (
        "pretrain/test_annotations.py::test_areas_of_real_annotations_agree_with_another_rasterisation",
    ),
    "he-images/OS-1-detail.ome.tif": (
        "pretrain/pack/test_pack.py::test_real_tiles_and_a_real_crop",
        "pretrain/quality/test_quality.py::test_real_slides_in_any_mix_of_formats",
    ),
    "nct-crc/*/*/*.tif": (
        "transfer/test_image_folders.py::test_the_real_sample_runs_through_the_same_code",
        "pretrain/pack/test_pack.py::test_real_tiles_and_a_real_crop",
    ),
    "nucls/csv/ALL_FOV_LOCATIONS.csv": (f"{NUCLS}test_every_row_of_the_real_sample_is_accounted_for",),
    "nucls/csv/TCGA-*.csv": (f"{NUCLS}test_box_sums_of_the_real_sample",),
    "nucls/nucleus_GTcodes.csv": (f"{HEADERS}test_nucls",),
    "nucls/rgb/*.png": (f"{NUCLS}test_every_row_of_the_real_sample_is_accounted_for",),
    "nucls/train_test_splits/fold_1_*.csv": (f"{NUCLS}test_every_row_of_the_real_sample_is_accounted_for",),
    "wsi/CMU-1-Small-Region.svs": (
        "pretrain/tiling/test_slide_reader.py::test_real_slide",
        "pretrain/tiling/test_tiling_run.py::test_real_slides",
    ),
    "wsi/broken.svs": ("pretrain/tiling/test_slide_reader.py::test_real_slide",),
    "wsi/dicom_sm_image.dcm": (
        "pretrain/tiling/test_tiling_run.py::test_a_dicom_file_of_glass_opens_and_gives_no_tile",
    ),
}
"""Pattern of the files -> the tests that assert something on what a loader makes of them."""


@pytest.fixture(scope="module")
def listed():
    """File -> sha256, as the list of sources states it."""
    if not DATA.is_dir():
        pytest.skip(f"no real samples: {DATA} is missing; set SGCL_BENCH_REAL_DATA")
    rows = [[cell.strip() for cell in line.split("|")] for line in (DATA / "SOURCES.md").read_text().splitlines()]
    return {row[1]: row[5] for row in rows if len(row) > 6 and re.fullmatch("[0-9a-f]{64}", row[5])}


def test_the_files_are_those_of_the_list(listed):
    found = {str(path.relative_to(DATA)): path for path in DATA.rglob("*") if path.is_file()}
    del found["SOURCES.md"]
    assert {name: file_digest(path) for name, path in found.items()} == listed


def test_every_file_has_a_test_of_its_own(listed):
    assert [name for name in listed if not any(fnmatchcase(name, pattern) for pattern in ASSERTED)] == []
    assert [pattern for pattern in ASSERTED if not any(fnmatchcase(name, pattern) for name in listed)] == []


@pytest.mark.parametrize("test", sorted({test for tests in ASSERTED.values() for test in tests}))
def test_that_test_is_there(test):
    file, _, name = test.partition("::")
    assert re.search(rf"^def {name}\(", (TESTS / file).read_text(encoding="utf-8"), re.MULTILINE)
