"""The truth in the layouts of four public sets."""

import re

import numpy as np
import openslide
import pytest
from defusedxml import ElementTree
from PIL import Image, ImageDraw
from rehearsal_files import SIZE, SLIDES, pixels, slide_names, table

# NCT-CRC-HE


def test_nct_sets_hold_nine_classes_of_224_px(cohort):
    classes = ["ADI", "BACK", "DEB", "LYM", "MUC", "MUS", "NORM", "STR", "TUM"]
    for name, middle, count in (("NCT-CRC-HE-100K", "", 2), ("CRC-VAL-HE-7K", "RHSL-", 1)):
        folder = cohort / "nct-crc" / name
        assert sorted(path.name for path in folder.iterdir()) == classes
        for kind in classes:
            files = list((folder / kind).iterdir())
            assert len(files) == count
            for path in files:
                assert re.fullmatch(rf"{kind}-{middle}[A-Z]{{8}}\.tif", path.name)
                with Image.open(path) as image:
                    assert (image.mode, image.size, image.format) == ("RGB", (224, 224), "TIFF")


def test_nct_background_is_bright_and_tumour_is_not(cohort):
    for path in (cohort / "nct-crc").glob("*/BACK/*.tif"):
        assert np.median(pixels(path)) > 210
    for path in (cohort / "nct-crc").glob("*/TUM/*.tif"):
        assert np.median(pixels(path)) < 210


# NuCLS


@pytest.fixture(scope="module")
def nucls_fields(cohort):
    return table(cohort / "nucls" / "csv" / "ALL_FOV_LOCATIONS.csv")


def test_nucls_fields_are_named_and_sized_as_documented(cohort, nucls_fields):
    folder = cohort / "nucls"
    assert list(nucls_fields[0]) == ["", "fovname", "xmin", "ymin", "xmax", "ymax"]
    names = {row["fovname"] for row in nucls_fields}
    assert 2 * SLIDES <= len(names) <= 3 * SLIDES
    assert {path.stem for path in (folder / "rgb").glob("*.png")} == names
    assert {path.stem for path in (folder / "csv").glob("RHSL*.csv")} == names
    for row in nucls_fields:
        pattern = r"(RHSL-H\dS5-\d{4}-DX1)_id-[0-9a-f]{24}_left-(\d+)_top-(\d+)_bottom-(\d+)_right-(\d+)"
        slide, *corners = re.fullmatch(pattern, row["fovname"]).groups()
        left, top, bottom, right = map(int, corners)
        assert slide in slide_names(cohort)
        assert 0 <= left < right <= SIZE
        assert 0 <= top < bottom <= SIZE
        with Image.open(folder / "rgb" / f"{row['fovname']}.png") as image:
            assert image.mode == "RGB"
            assert image.size == (round((right - left) * 0.5 / 0.2), round((bottom - top) * 0.5 / 0.2))
            assert 0 < int(row["xmin"]) < int(row["xmax"]) < image.width
            assert 0 < int(row["ymin"]) < int(row["ymax"]) < image.height
            assert 314 <= int(row["xmax"]) - int(row["xmin"]) <= 323


def test_nucls_rows_lie_in_their_images_and_reach_into_the_window(cohort, nucls_fields):
    names, shapes, crossing = set(), set(), 0
    for field in nucls_fields:
        rows = table(cohort / "nucls" / "csv" / f"{field['fovname']}.csv")
        assert list(rows[0]) == [
            "", "raw_classification", "main_classification", "super_classification", "type", "xmin", "ymin", "xmax",
            "ymax", "coords_x", "coords_y",
        ]  # fmt: skip
        assert [row[""] for row in rows] == [str(number) for number in range(len(rows))]
        width, height = Image.open(cohort / "nucls" / "rgb" / f"{field['fovname']}.png").size
        left, top, right, bottom = (int(field[key]) for key in ("xmin", "ymin", "xmax", "ymax"))
        for row in rows:
            names.add(row["raw_classification"])
            shapes.add(row["type"])
            xs, ys = ([int(v) for v in row[key].split(",")] for key in ("coords_x", "coords_y"))
            assert len(xs) == len(ys)
            if row["type"] == "point":
                assert [row[key] for key in ("xmin", "ymin", "xmax", "ymax")] == [""] * 4
                continue
            box = x0, y0, x1, y1 = tuple(int(row[key]) for key in ("xmin", "ymin", "xmax", "ymax"))
            assert box == (min(xs), min(ys), max(xs), max(ys))
            assert 0 <= x0 < x1 <= width
            assert 0 <= y0 < y1 <= height
            assert x1 > left
            assert x0 < right
            assert y1 > top
            assert y0 < bottom
            crossing += x0 < left or x1 > right or y0 < top or y1 > bottom
            if row["type"] == "rectangle":
                assert (xs, ys) == ([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0])
    assert shapes >= {"rectangle", "polyline"}
    assert crossing > 10
    assert any(name.startswith("correction_") for name in names)
    assert {"tumor", "fibroblast", "lymphocyte", "plasma_cell"} <= names


def test_nucls_classes_follow_the_published_mapping(cohort, nucls_fields):
    main_of = {
        "tumor": "tumor_nonMitotic", "mitotic_figure": "tumor_mitotic", "fibroblast": "nonTILnonMQ_stromal",
        "vascular_endothelium": "nonTILnonMQ_stromal", "macrophage": "macrophage", "lymphocyte": "lymphocyte",
        "plasma_cell": "plasma_cell", "neutrophil": "other_nucleus", "apoptotic_body": "AMBIGUOUS",
        "unlabeled": "AMBIGUOUS",
    }  # fmt: skip
    super_of = {
        "tumor_nonMitotic": "tumor_any", "tumor_mitotic": "tumor_any", "nonTILnonMQ_stromal": "nonTIL_stromal",
        "macrophage": "nonTIL_stromal", "lymphocyte": "sTIL", "plasma_cell": "sTIL", "other_nucleus": "other_nucleus",
        "AMBIGUOUS": "AMBIGUOUS",
    }  # fmt: skip
    for field in nucls_fields:
        for row in table(cohort / "nucls" / "csv" / f"{field['fovname']}.csv"):
            main = main_of[row["raw_classification"].removeprefix("correction_")]
            assert (row["main_classification"], row["super_classification"]) == (main, super_of[main])


def test_nucls_boxes_lie_on_nuclei(cohort, nucls_fields):
    differences = []
    for field in nucls_fields:
        red = pixels(cohort / "nucls" / "rgb" / f"{field['fovname']}.png")[..., 0].astype(float)
        covered = np.zeros(red.shape, bool)
        hearts = []
        for row in table(cohort / "nucls" / "csv" / f"{field['fovname']}.csv"):
            if row["type"] == "point":
                continue
            x0, y0, x1, y1 = (int(row[key]) for key in ("xmin", "ymin", "xmax", "ymax"))
            covered[y0:y1, x0:x1] = True
            if row["main_classification"] in ("lymphocyte", "plasma_cell", "nonTILnonMQ_stromal"):
                hearts.append(red[(y0 + y1) // 2, (x0 + x1) // 2])
        if hearts:
            differences.append(red[10:-10, 10:-10][~covered[10:-10, 10:-10]].mean() - np.mean(hearts))
    assert np.mean(differences) > 10
    assert np.mean(np.array(differences) > 0) > 0.8


def test_nucls_folds_leave_one_hospital_out(cohort):
    slides = slide_names(cohort)
    left_out = set()
    for fold in (1, 2, 3):
        parts = {}
        for part in ("train", "test"):
            rows = table(cohort / "nucls" / "train_test_splits" / f"fold_{fold}_{part}.csv")
            assert list(rows[0]) == ["", "slide_name", "hospital", "type", "fold"]
            assert all((row["type"], row["fold"]) == (part, str(fold)) for row in rows)
            assert all(row["slide_name"].split("-")[1] == row["hospital"] for row in rows)
            parts[part] = rows
        assert sorted(row["slide_name"] for part in parts.values() for row in part) == sorted(slides)
        hospitals = {part: {row["hospital"] for row in rows} for part, rows in parts.items()}
        assert not hospitals["train"] & hospitals["test"]
        left_out |= hospitals["test"]
    assert left_out == {"H1S5", "H2S5", "H3S5"}


# BCSS


def test_bcss_images_and_masks_have_the_real_scale_of_030(cohort):
    folder = cohort / "bcss"
    codes = {int(row["GT_code"]): row["label"] for row in table(folder / "meta" / "gtruth_codes.tsv", "\t")}
    assert sorted(codes) == list(range(22))
    assert {codes[1], codes[2], codes[9], codes[20]} == {"tumor", "stroma", "fat", "dcis"}
    bounds = {row[""]: row for row in table(folder / "meta" / "roiBounds.csv")}
    assert sorted(bounds) == slide_names(cohort)
    for slide, row in bounds.items():
        assert list(row) == ["", "xmin", "ymin", "xmax", "ymax", "mask_link"]
        left, top, right, bottom = (int(row[key]) for key in ("xmin", "ymin", "xmax", "ymax"))
        assert 0 <= left < right <= SIZE
        assert 0 <= top < bottom <= SIZE
        name = f"{slide}_xmin{left}_ymin{top}_MPP-0.2500.png"
        image, mask = Image.open(folder / "rgbs_colorNormalized" / name), Image.open(folder / "masks" / name)
        assert (image.mode, mask.mode) == ("RGB", "L")
        assert image.size == mask.size
        assert (right - left) * 0.5 / image.width == pytest.approx(0.30, rel=0.002)
        assert set(np.unique(np.asarray(mask)).tolist()) <= set(codes)
        assert (np.asarray(mask) > 0).mean() > 0.7


def test_bcss_region_shows_the_slide_at_its_bounds(cohort):
    for row in table(cohort / "bcss" / "meta" / "roiBounds.csv"):
        left, top, right, bottom = (int(row[key]) for key in ("xmin", "ymin", "xmax", "ymax"))
        name = f"{row['']}_xmin{left}_ymin{top}_MPP-0.2500.png"
        side = (100, 100)
        image = Image.open(cohort / "bcss" / "rgbs_colorNormalized" / name).resize(side, Image.Resampling.BOX)
        with openslide.OpenSlide(cohort / "slides" / f"{row['']}.tif") as slide:
            region = slide.read_region((left, top), 0, (right - left, bottom - top)).convert("RGB")
        region = region.resize(side, Image.Resampling.BOX)
        assert np.corrcoef(np.asarray(image).ravel(), np.asarray(region).ravel())[0, 1] > 0.95


# Camelyon16


def test_camelyon_polygons_cover_the_tumour_of_the_mask(cohort):
    has_hole = False
    for name in slide_names(cohort):
        tree = ElementTree.parse(cohort / "camelyon16" / "annotations" / f"{name}.xml").getroot()
        assert tree.tag == "ASAP_Annotations"
        assert [group.get("Name") for group in tree.findall("AnnotationGroups/Group")] == ["Tumor", "_2"]
        canvas = Image.new("1", (SIZE, SIZE))
        pen = ImageDraw.Draw(canvas)
        annotations = tree.findall("Annotations/Annotation")
        for annotation in sorted(annotations, key=lambda one: one.get("PartOfGroup") == "_2"):
            assert annotation.get("Type") == "Polygon"
            points = annotation.findall("Coordinates/Coordinate")
            assert [int(point.get("Order")) for point in points] == list(range(len(points)))
            corners = [(float(point.get("X")), float(point.get("Y"))) for point in points]
            assert len(corners) >= 4
            assert np.min(corners) >= 0
            assert np.max(corners) <= SIZE
            has_hole |= annotation.get("PartOfGroup") == "_2"
            pen.polygon(corners, fill=annotation.get("PartOfGroup") == "Tumor")
        drawn = np.asarray(canvas)
        mask = pixels(cohort / "masks" / f"{name}.png").repeat(8, axis=0).repeat(8, axis=1) == 1
        assert drawn.sum() == pytest.approx(mask.sum(), rel=0.04)
        assert (drawn & mask).sum() / (drawn | mask).sum() > 0.9
    assert has_hole
