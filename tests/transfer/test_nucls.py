"""NuCLS as a whole: COCO, the synthetic cohort and the real sample, by the same code."""

import csv
import os
from collections import Counter
from pathlib import Path

import pytest
from nucls_toys import load_folder

from transfer.tasks import nucls_rows
from transfer.tasks.boxes import IGNORED, to_coco

REAL = Path(os.environ.get("SGCL_BENCH_REAL_DATA", Path(__file__).parents[3] / "shared" / "data")) / "nucls"


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory):
    from pretrain.cohorts.rehearsal import generate

    root = tmp_path_factory.mktemp("cohort") / "small"
    return generate(root, slides=3, size_px=1024, processes=1) / "nucls"


def test_coco_json_holds_every_box_once_and_ignored_ones_under_every_class(nucls_folder, tmp_path):
    import contextlib
    import io
    import json

    from pycocotools.coco import COCO

    task = load_folder(nucls_folder)
    path = tmp_path / "all.json"
    path.write_text(json.dumps(to_coco(task.images, task.classes)))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(path))
    kept = sum(int((image.labels != IGNORED).sum()) for image in task.images)
    ignored = sum(int((image.labels == IGNORED).sum()) for image in task.images)
    assert ignored
    assert len(coco.getAnnIds(iscrowd=0)) == kept
    assert len(coco.getAnnIds(iscrowd=1)) == ignored * len(task.classes)
    for number, image in enumerate(task.images, start=1):
        found = [[*a["bbox"][:2], a["bbox"][0] + a["bbox"][2], a["bbox"][1] + a["bbox"][3]] for a in coco.loadAnns(coco.getAnnIds(number, iscrowd=0))]  # fmt: skip
        assert sorted(found) == sorted(image.boxes[image.labels != IGNORED].tolist())


def test_rehearsal_rows_are_all_accounted_for(rehearsal):
    written = Counter()
    for path in (rehearsal / "csv").glob("RHSL*.csv"):
        with open(path, newline="") as file:
            written.update(row["type"] for row in csv.DictReader(file))
    task = load_folder(rehearsal)
    assert task.rehearsal
    assert task.name == "rehearsal-nucls-super"
    assert f"{written.total()} rows" in task.report[0]
    assert f"{written['point']} {nucls_rows.POINT}" in task.report[0] or not written["point"]
    kept = sum(len(image.boxes) for image in task.images)
    outside = written.total() - written["point"] - kept
    assert (f"{outside} {nucls_rows.OUTSIDE}" in task.report[0]) == bool(outside)
    assert len(task.images) == len(list((rehearsal / "rgb").glob("*.png"))) >= 3
    for image in task.images:
        assert (image.boxes >= 0).all()
        assert (image.boxes[:, 2:] <= image.size).all()
    assert [{image.hospital for image in task.part(trial, "test")} for trial in range(3)] == [{"H1"}, {"H2"}, {"H3"}]


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real NuCLS sample: {REAL} is missing; set SGCL_BENCH_REAL_DATA")
def test_every_row_of_the_real_sample_is_accounted_for():
    rows = {}
    for path in sorted((REAL / "csv").glob("TCGA*.csv")):
        with open(path, newline="") as file:
            rows[path.stem] = list(csv.DictReader(file))
    assert len(rows) == 12
    assert sum(map(len, rows.values())) == 490
    task = load_folder(REAL)
    assert task.report[0] == f"12 images in rgb; 490 rows: 70 {nucls_rows.UNSURE}, 420 {nucls_rows.KEPT}"
    assert task.report[1].startswith("3 windows with neither image nor table")
    assert task.name == "nucls-super (sample: 12 of 1,744 fields)"
    assert task.notes == (
        "A sample, 12 of 1,744 fields of the data set: these are no scores of nucls-super.",
        "All trials test on the same images, those of the only fold, and differ in seed and validation only.",
    )
    assert not task.rehearsal
    for image in task.images:
        stated = Counter(row["super_classification"] for row in rows[image.name])
        read = Counter("AMBIGUOUS" if label == IGNORED else task.classes[label] for label in image.labels)
        assert read == stated
        assert image.size == (256, 256)
    totals = Counter(task.classes[label] for image in task.images for label in image.labels if label != IGNORED)
    assert totals == {"sTIL": 272, "nonTIL_stromal": 83, "tumor_any": 65}
    assert [len(split.test) for split in task.splits] == [2, 2, 2]


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real NuCLS sample: {REAL} is missing; set SGCL_BENCH_REAL_DATA")
def test_box_sums_of_the_real_sample():
    """Counts, sums of the four sides and areas, counted from the tables alone; by left-top of the field's name."""
    expected = {
        "7053-53967": (18, 2276, 2452, 2682, 2966, 11993), "7807-53960": (77, 9015, 9330, 10732, 11007, 38383),
        "8041-55487": (39, 5274, 4532, 6119, 5701, 25219), "8066-55998": (29, 2940, 2957, 3467, 3948, 18522),
        "8066-57037": (41, 4112, 4493, 5017, 5458, 21416), "8072-53957": (73, 8737, 8908, 10561, 10648, 44297),
        "8325-57028": (35, 3995, 4073, 4783, 4996, 21464), "8572-54214": (52, 4561, 5435, 5819, 6826, 34780),
        "8824-54717": (16, 1736, 1614, 2400, 2279, 28893), "8826-55990": (33, 3734, 3548, 4621, 4527, 27588),
        "54017-59447": (23, 2752, 3010, 3441, 3609, 19439), "54250-61025": (54, 5562, 6495, 6832, 7741, 30891),
    }  # fmt: skip
    found = {}
    for image in load_folder(REAL).images:
        parts = dict(part.split("-") for part in image.name.split("_")[2:])
        areas = (image.boxes[:, 2] - image.boxes[:, 0]) * (image.boxes[:, 3] - image.boxes[:, 1])
        sums = (len(image.boxes), *image.boxes.sum(axis=0), areas.sum())
        found[f"{parts['left']}-{parts['top']}"] = tuple(round(float(value)) for value in sums)
    assert found == expected


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real NuCLS sample: {REAL} is missing; set SGCL_BENCH_REAL_DATA")
def test_main_classes_of_the_real_sample():
    task = load_folder(REAL, classes="main")
    totals = Counter(task.classes[label] for image in task.images for label in image.labels if label != IGNORED)
    assert totals == {
        "lymphocyte": 262, "nonTILnonMQ_stromal": 77, "tumor_nonMitotic": 61, "plasma_cell": 10, "macrophage": 6, "tumor_mitotic": 4,
    }  # fmt: skip
