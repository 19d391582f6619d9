import csv
import os
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from nucls_toys import COLUMNS, SLIDES, field_name, row, write_fold, write_nucls, write_rows
from PIL import Image

from results.errors import UserError
from transfer.tasks import nucls_rows
from transfer.tasks.boxes import IGNORED, to_coco
from transfer.tasks.nucls import barcode, load_nucls
from transfer.tasks.nucls_rows import Ledger, boxes_of
from transfer.tasks.schema import read_task

REAL = Path(os.environ.get("SGCL_BENCH_REAL_DATA", Path(__file__).parents[3] / "shared" / "data")) / "nucls"


@pytest.fixture
def folder(tmp_path):
    return write_nucls(tmp_path / "nucls")


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory):
    from pretrain.cohorts.rehearsal import generate

    root = tmp_path_factory.mktemp("cohort") / "small"
    return generate(root, slides=3, size_px=1024, processes=1) / "nucls"


def load(root, classes="super", trials=3, seed=0, **changes):
    settings = read_task("nucls", "detection", {"classes": classes})
    for name, value in changes.items():
        setattr(settings, name, value)
    return load_nucls(settings, root, trials, seed)


def read_rows(path, rows, window=(0, 0, 100, 100), grouping="super", columns=COLUMNS, min_inside=0.25):
    write_rows(path, rows, columns)
    ledger = Ledger()
    boxes, labels = boxes_of(path, window, grouping, min_inside, ledger)
    return boxes, labels, ledger.totals


# rows


@pytest.mark.parametrize(
    ("one", "outcome"),
    [
        (row("tumor", (10, 10, 30, 30)), nucls_rows.KEPT),
        (row("tumor", (10, 10, 30, 30), shape="polyline"), nucls_rows.KEPT),
        (row("correction_tumor", (10, 10, 30, 30)), nucls_rows.KEPT),
        (row("correction_tumor", (10, 10, 30, 30), main="correction_tumor_mitotic"), nucls_rows.KEPT),
        (row("unlabeled", (10, 10, 30, 30)), nucls_rows.UNSURE),
        (row("apoptotic_body", (10, 10, 30, 30), main=""), nucls_rows.UNSURE),
        (row("tumor", (90, 10, 130, 30)), nucls_rows.KEPT),
        (row("tumor", (98, 10, 130, 30)), nucls_rows.SLIVER),
        (row("tumor", (100, 10, 130, 30)), nucls_rows.OUTSIDE),
        (row("tumor", ("", "", "", ""), shape="point"), nucls_rows.POINT),
        (row("tumor", ("", "", "", "")), nucls_rows.EMPTY),
        (row("tumor", (30, 10, 30, 20)), nucls_rows.EMPTY),
        (row("tumor", ("a", 10, 30, 20)), nucls_rows.NUMBERS),
        (row("tumor", ("nan", 10, 30, 20)), nucls_rows.NUMBERS),
        (row("fov_basic", (0, 0, 100, 100)), nucls_rows.FIELD),
        (row("correction_FOV_reviewed", (0, 0, 100, 100)), nucls_rows.FIELD),
        (row("adipocyte", (10, 10, 30, 30)), nucls_rows.UNKNOWN),
    ],
)
def test_every_row_has_an_outcome(tmp_path, one, outcome):
    boxes, labels, totals = read_rows(tmp_path / "field.csv", [one])
    assert totals == {outcome: 1}
    assert len(boxes) == len(labels) == (not outcome.startswith("reported"))
    assert ((labels == IGNORED) == outcome.startswith("ignored")).all()


def test_boxes_are_shifted_into_the_window_and_cut_at_its_rim(tmp_path):
    rows = [row("tumor", (20, 30, 40, 60)), row("lymphocyte", (95, 5, 115, 25))]
    boxes, labels, _ = read_rows(tmp_path / "field.csv", rows, window=(10, 10, 110, 90))
    assert boxes.tolist() == [[10, 20, 30, 50], [85, 0, 100, 15]]
    assert labels.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("grouping", "expected"), [("super", [0, 0, 1, 1, 2, 2, 3]), ("main", [0, 1, 2, 3, 4, 5, 6]), ("one", [0] * 7)]
)
def test_groupings(tmp_path, grouping, expected):
    raws = ["tumor", "mitotic_figure", "vascular_endothelium", "macrophage", "lymphocyte", "plasma_cell", "eosinophil"]
    _, labels, _ = read_rows(tmp_path / "f.csv", [row(raw, (1, 1, 9, 9), main="") for raw in raws], grouping=grouping)
    assert labels.tolist() == expected


def test_every_raw_class_has_a_main_and_a_super_class(tmp_path):
    for raw, main in nucls_rows.MAIN.items():
        _, labels, totals = read_rows(tmp_path / "f.csv", [row(raw, (1, 1, 9, 9), main=main)])
        assert totals == {nucls_rows.UNSURE if main == "AMBIGUOUS" else nucls_rows.KEPT: 1}
        if main != "AMBIGUOUS":
            assert nucls_rows.GROUPINGS["super"][labels[0]] == nucls_rows.SUPER[main]


def test_the_earlier_form_with_one_column_group_is_read(tmp_path):
    columns = ("", "group", "type", "xmin", "ymin", "xmax", "ymax")
    rows = [[0, "correction_plasma_cell", "rectangle", 1, 2, 9, 9], [1, "unlabeled", "polyline", 1, 2, 9, 9]]
    _, labels, _ = read_rows(tmp_path / "f.csv", rows, columns=columns)
    assert labels.tolist() == [2, IGNORED]


def test_a_table_without_classes_is_refused(tmp_path):
    with pytest.raises(UserError, match="no column of classes"):
        read_rows(
            tmp_path / "f.csv", [[0, "rectangle", 1, 2, 9, 9]], columns=("", "type", "xmin", "ymin", "xmax", "ymax")
        )


# files


def test_the_window_is_what_is_read(folder):
    image = load(folder).images[0]
    assert image.size == (80, 80)
    whole = np.asarray(Image.open(image.path).convert("RGB"))
    assert np.array_equal(image.pixels(), whole[8:88, 8:88])


@pytest.mark.parametrize("images", ["rgb", "rgbs", "rgbs_colorNormalized"])
def test_image_folders(tmp_path, images):
    task = load(write_nucls(tmp_path / "n", images=images))
    whole = "nucls-super-normalised" if images == "rgbs_colorNormalized" else "nucls-super"
    assert task.name == f"{whole} (sample: 6 of 1,744 fields)"
    assert f"A sample, 6 of 1,744 fields of the data set: these are no scores of {whole}." in task.notes
    assert len(task.images) == 6


def test_the_table_of_windows_may_be_lower_case_or_beside_the_tables(folder):
    (folder / "csv" / "ALL_FOV_LOCATIONS.csv").rename(folder / "all_fov_locations.csv")
    assert len(load(folder).images) == 6
    (folder / "all_fov_locations.csv").unlink()
    with pytest.raises(UserError, match=r"ALL_FOV_LOCATIONS\.csv"):
        load(folder)


def test_fields_that_lack_a_file_are_reported_with_their_rows(folder):
    names = [field_name(SLIDES[0], 0), field_name(SLIDES[1], 10), field_name(SLIDES[2], 20)]
    (folder / "rgb" / f"{names[0]}.png").unlink()
    (folder / "csv" / f"{names[1]}.csv").unlink()
    path = folder / "csv" / "ALL_FOV_LOCATIONS.csv"
    path.write_text("\n".join(line for line in path.read_text().splitlines() if names[2] not in line) + "\n")
    task = load(folder)
    assert len(task.images) == 3
    text = "\n".join(task.report)
    assert f"6 {nucls_rows.NO_IMAGE}" in text
    assert f"6 {nucls_rows.NO_WINDOW}" in text
    assert "1 images with no table" in text
    assert "30 rows" in text


def test_broken_files_are_refused_by_name(folder):
    name = field_name(SLIDES[0], 0)
    (folder / "rgb" / f"{name}.png").write_bytes(b"not an image")
    with pytest.raises(UserError, match=name):
        load(folder)
    write_nucls(folder)
    (folder / "csv" / f"{name}.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=name):
        load(folder)


def test_an_image_too_large_for_a_field_is_refused_before_it_is_decoded(folder, monkeypatch):
    monkeypatch.setattr("transfer.tasks.boxes.MOST_PX", 96 * 96)
    assert load(folder).images
    monkeypatch.setattr("transfer.tasks.boxes.MOST_PX", 96 * 96 - 1)
    with pytest.raises(UserError, match=r"96 x 96 px, more than 0\.00921 million"):
        load(folder)


def _png(path, mode="RGB", size=(96, 96), **options):
    Image.new(mode, size).save(path, "PNG", **options)


def _png_16_bit_rgb(path):
    import struct
    import zlib

    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 96, 96, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress((b"\0" + b"\x12\x34" * 3 * 96) * 96)),
        (b"IEND", b""),
    ]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    )


def _bomb(path):
    import struct
    import zlib

    _png(path)
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 60000, 60000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)


def _pipe(path):
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        *((lambda path, mode=mode: _png(path, mode), "8-bit RGB") for mode in ("L", "1", "P", "RGBA", "LA", "I;16")),
        (lambda path: _png(path, transparency=(0, 0, 0)), "8-bit RGB"),
        (_png_16_bit_rgb, "has 16 bits"),
        (lambda path: Image.new("CMYK", (96, 96)).save(path, "TIFF"), "as a PNG"),
        (lambda path: Image.new("RGB", (96, 96)).save(path, "EPS"), "as a PNG"),
        (lambda path: path.write_bytes(path.read_bytes()[:-3000]), "as a PNG"),
        (_bomb, r"more than 67\.1 million"),
        (_pipe, "no regular file"),
        (lambda path: _png(path, size=(85, 96)), r"is 85 x 96 px and its annotated window \(8, 8, 88, 88\)"),
    ],
)
def test_images_of_another_kind_are_refused_by_name(folder, spoil, message):
    name = field_name(SLIDES[0], 0)
    spoil(folder / "rgb" / f"{name}.png")
    with pytest.raises(UserError, match=f"{name}.*{message}"):
        load(folder)


def test_a_window_may_reach_beyond_its_image_by_rounding(folder):
    _png(folder / "rgb" / f"{field_name(SLIDES[0], 0)}.png", size=(86, 96))
    assert load(folder).images[0].size == (78, 80)


def test_an_image_too_large_for_pillow_is_refused_where_warnings_are_errors(folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 96 * 96 - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load(folder).images[0].pixels().shape == (80, 80, 3)


@pytest.mark.parametrize("table", [f"csv/{field_name(SLIDES[0], 0)}.csv", "csv/ALL_FOV_LOCATIONS.csv"])
@pytest.mark.parametrize("fault", ["pipe", "doubled"])
def test_tables_of_another_kind_are_refused_by_name(folder, table, fault):
    path = folder / table
    if fault == "pipe":
        _pipe(path)
    else:
        path.write_text(path.read_text().replace("ymin", "xmin", 1))
    with pytest.raises(
        UserError, match=f"{path.name} {'is no regular file' if fault == 'pipe' else 'has the column xmin'}"
    ):
        load(folder)


def test_a_field_with_two_windows_is_refused(folder):
    path, name = folder / "csv" / "ALL_FOV_LOCATIONS.csv", field_name(SLIDES[0], 0)
    path.write_text(f"{path.read_text()}9,{name},8,8,88,88\n")
    assert len(load(folder).images) == 6
    path.write_text(f"{path.read_text()}9,{name}.png,0,0,50,50\n")
    with pytest.raises(UserError, match=f"ALL_FOV_LOCATIONS.csv names {name} more than once"):
        load(folder)


@pytest.mark.parametrize(
    ("slides", "part"), [(SLIDES[:1], "test part of trial 1"), (SLIDES[1:], "train part of trial 1")]
)
@pytest.mark.parametrize("rows", [[], [row("unlabeled", (30, 30, 40, 40))]])
def test_a_trial_without_a_nucleus_is_refused(folder, slides, part, rows):
    for path in (folder / "csv").glob("TCGA*.csv"):
        if path.name.startswith(slides):
            write_rows(path, rows)
    with pytest.raises(UserError, match=part):
        load(folder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nucls", "detection", {"classes": "seven"}), "super, main, one"),
        (("missing.yaml", "detection"), "missing.yaml"),
    ],
)
def test_settings_are_checked(arguments, message):
    with pytest.raises(UserError, match=message):
        read_task(*arguments)


def test_a_folder_that_is_not_nucls_is_refused(tmp_path):
    with pytest.raises(UserError, match="no folder of images"):
        load(tmp_path)


def test_names_give_slide_patient_and_hospital():
    assert barcode("TCGA-A1-A0SP-DX1_id-5ea_left-1", Path("x")) == ("TCGA-A1-A0SP-DX1", "TCGA-A1-A0SP", "A1")
    with pytest.raises(UserError, match="barcode"):
        barcode("picture", Path("picture.png"))


# parts


def slides_of(task, trial, part):
    return {image.slide for image in task.part(trial, part)}


def test_trials_follow_the_published_folds_and_wrap_around(folder):
    write_fold(folder, 999, [SLIDES[0]], [SLIDES[1], SLIDES[2]])
    task = load(folder, trials=4)
    assert [slides_of(task, trial, "test") for trial in range(4)] == [{s} for s in (*SLIDES, SLIDES[0])]
    for trial in range(4):
        tested, trained, held = (slides_of(task, trial, part) for part in ("test", "train", "validation"))
        assert not tested & (trained | held)
        assert not trained & held
        assert trained
        assert held


def test_a_slide_in_both_parts_of_a_fold_is_refused(folder):
    write_fold(folder, 2, [SLIDES[0], SLIDES[1]], [SLIDES[1]])
    with pytest.raises(UserError, match="both name slide TCGA-A2"):
        load(folder)


def test_slides_that_a_fold_does_not_name_are_left_out_of_it_and_told(folder):
    write_fold(folder, 1, [SLIDES[0]], [SLIDES[1]])
    task = load(folder, trials=1)
    assert SLIDES[2] not in slides_of(task, 0, "train") | slides_of(task, 0, "validation") | slides_of(task, 0, "test")
    assert any("fold 1 does not name 1 slides" in line for line in task.report)


def test_without_fitting_fold_files_folds_are_dealt_by_patient_and_told(tmp_path):
    folder = write_nucls(tmp_path / "n", folds=False)
    write_fold(folder, 1, ["TCGA-XX-XXXX-DX1"], ["TCGA-YY-YYYY-DX1"])
    task = load(folder)
    assert set().union(*(slides_of(task, trial, "test") for trial in range(3))) == set(SLIDES)
    assert any("3 folds were dealt by patient" in line for line in task.report)
    assert any("fold 1 has no images" in line for line in task.report)


def test_dealt_folds_leave_hospitals_whole_where_there_are_enough(tmp_path):
    slides = [f"TCGA-H{i}-{p:04d}-DX1" for i in range(6) for p in range(2)]
    task = load(write_nucls(tmp_path / "n", slides, fields=1, folds=False), trials=5)
    for trial in range(5):
        hospitals = [{image.hospital for image in task.part(trial, part)} for part in ("train", "validation", "test")]
        assert sum(map(len, hospitals)) == len(set().union(*hospitals)) == 6


def test_one_slide_to_train_on_gives_some_of_its_images_to_validation(tmp_path):
    folder = write_nucls(tmp_path / "n", SLIDES[:2], fields=4)
    task = load(folder, trials=1)
    split = task.splits[0]
    assert (len(split.train), len(split.validation), len(split.test)) == (3, 1, 4)
    assert not set(split.train) & set(split.validation)
    assert "of the one patient" in split.rule
    alone = load(write_nucls(tmp_path / "m", SLIDES[:2], fields=1), trials=1).splits[0]
    assert alone.train == alone.validation
    assert "the one training image" in alone.rule


def test_one_patient_is_too_few(tmp_path):
    with pytest.raises(UserError, match="one patient only"):
        load(write_nucls(tmp_path / "n", SLIDES[:1], folds=False))


def test_the_seed_moves_validation_and_nothing_that_is_tested(tmp_path):
    folder = write_nucls(tmp_path / "n", fields=5)
    tasks = [load(folder, seed=seed) for seed in range(4)]
    assert len({task.splits[0].test for task in tasks}) == 1
    assert len({task.splits[0].validation for task in tasks}) > 1
    assert load(folder, seed=2).split_digest == tasks[2].split_digest


def test_digests_follow_truth_parts_and_pixels(folder):
    before = load(folder)
    path = folder / "csv" / f"{field_name(SLIDES[0], 0)}.csv"
    text = path.read_text()
    path.write_text(text + "6,tumor,tumor_nonMitotic,tumor_any,rectangle,20,20,40,40,,\n")
    more = load(folder)
    assert more.split_digest != before.split_digest
    assert more.data_digest == before.data_digest
    path.write_text(text)
    assert load(folder, trials=1).split_digest == before.split_digest
    assert load(folder, trials=1).splits == before.splits[:1]
    assert load(folder, classes="one").split_digest != before.split_digest
    picture = folder / "rgb" / f"{field_name(SLIDES[0], 0)}.png"
    Image.open(picture).rotate(90).save(picture)
    turned = load(folder)
    assert turned.split_digest == before.split_digest
    assert turned.data_digest != before.data_digest


# COCO


def test_coco_json_holds_every_box_once_and_ignored_ones_under_every_class(folder, tmp_path):
    import contextlib
    import io
    import json

    from pycocotools.coco import COCO

    task = load(folder)
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


# the synthetic cohort and the real sample, by the same code


def test_rehearsal_rows_are_all_accounted_for(rehearsal):
    written = Counter()
    for path in (rehearsal / "csv").glob("RHSL*.csv"):
        with open(path, newline="") as file:
            written.update(row["type"] for row in csv.DictReader(file))
    task = load(rehearsal)
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
    task = load(REAL)
    assert task.report[0] == f"12 images in rgb; 490 rows: 70 {nucls_rows.UNSURE}, 420 {nucls_rows.KEPT}"
    assert task.report[1].startswith("3 windows with neither image nor table")
    assert task.name == "nucls-super (sample: 12 of 1,744 fields)"
    assert task.notes == ("A sample, 12 of 1,744 fields of the data set: these are no scores of nucls-super.",)
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
    for image in load(REAL).images:
        parts = dict(part.split("-") for part in image.name.split("_")[2:])
        areas = (image.boxes[:, 2] - image.boxes[:, 0]) * (image.boxes[:, 3] - image.boxes[:, 1])
        sums = (len(image.boxes), *image.boxes.sum(axis=0), areas.sum())
        found[f"{parts['left']}-{parts['top']}"] = tuple(round(float(value)) for value in sums)
    assert found == expected


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real NuCLS sample: {REAL} is missing; set SGCL_BENCH_REAL_DATA")
def test_main_classes_of_the_real_sample():
    task = load(REAL, classes="main")
    totals = Counter(task.classes[label] for image in task.images for label in image.labels if label != IGNORED)
    assert totals == {
        "lymphocyte": 262, "nonTILnonMQ_stromal": 77, "tumor_nonMitotic": 61, "plasma_cell": 10, "macrophage": 6, "tumor_mitotic": 4,
    }  # fmt: skip
