import csv
import re

import numpy as np
import openslide
import pytest
import yaml
from defusedxml import ElementTree
from PIL import Image, ImageDraw

from pretrain.cohorts import rehearsal
from pretrain.cohorts.rehearsal import generate
from pretrain.cohorts.rehearsal.contours import area, rings
from pretrain.cohorts.rehearsal.fields import Cells, Noise, Points, Raster, Window, generator
from pretrain.cohorts.rehearsal.render import render, stains
from pretrain.cohorts.rehearsal.scene import compose
from results.errors import UserError
from results.files import file_digest

SEED, SLIDES, SIZE = 5, 3, 1024
TISSUE_CODES = {1, 2, 3, 4, 9}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("rehearsal") / "cohort", SEED, SLIDES, SIZE)


@pytest.fixture(scope="module")
def scene():
    return compose(SEED, 0, "RHSL-H1-0001-DX1", "H1", SIZE / 2, SIZE / 2)


def table(path, delimiter=","):
    with open(path, newline="") as file:
        return list(csv.DictReader(file, delimiter=delimiter))


def digests(root):
    return {str(path.relative_to(root)): file_digest(path) for path in sorted(root.rglob("*")) if path.is_file()}


def pixels(path):
    return np.asarray(Image.open(path))


def slide_names(cohort):
    return [row["slide"] for row in table(cohort / "cohort.csv")]


# The folder as a whole


def test_same_seed_gives_same_bytes_in_any_number_of_processes(cohort, tmp_path):
    assert digests(generate(tmp_path / "again", SEED, SLIDES, SIZE, processes=1)) == digests(cohort)


def test_other_seed_gives_other_slides():
    window = Window(100.0, 100.0, 64, 64, 0.5)
    first, second = (render(compose(seed, 0, "RHSL-H1-0001-DX1", "H1", 512, 512), window) for seed in (0, 1))
    assert (first != second).mean() > 0.5


def test_finished_cohort_is_returned_at_once(cohort, monkeypatch):
    monkeypatch.setattr(rehearsal, "_write_cohort", lambda *_: pytest.fail("made again"))
    assert generate(cohort, SEED, SLIDES, SIZE) == cohort


def test_cohort_with_other_parameters_is_refused_and_left_alone(cohort):
    before = digests(cohort)
    with pytest.raises(UserError, match="something else"):
        generate(cohort, SEED + 1, SLIDES, SIZE)
    assert digests(cohort) == before


def test_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(UserError, match="something else"):
        generate(tmp_path, SEED, SLIDES, SIZE)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_damaged_cohort_is_refused(tmp_path):
    (tmp_path / "cohort.yaml").write_text("{broken")
    with pytest.raises(UserError, match=r"cohort\.yaml"):
        generate(tmp_path, SEED, SLIDES, SIZE)


def test_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(root, *_):
        root.mkdir(parents=True)
        (root / "half").write_text("written")
        raise RuntimeError("disk")

    monkeypatch.setattr(rehearsal, "_write_cohort", fail)
    with pytest.raises(RuntimeError, match="disk"):
        generate(tmp_path / "cohort", SEED, SLIDES, SIZE)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"slides": 2}, {"size_px": 1000}, {"size_px": 512}])
def test_parameters_out_of_range_are_refused(tmp_path, wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        generate(tmp_path / "cohort", **wrong)
    assert not list(tmp_path.iterdir())


def test_cohort_table_names_slides_patients_and_hospitals(cohort):
    rows = table(cohort / "cohort.csv")
    assert list(rows[0]) == ["slide", "path", "patient", "hospital", "mpp", "mask"]
    assert [row["slide"] for row in rows] == ["RHSL-H1-0001-DX1", "RHSL-H2-0002-DX1", "RHSL-H3-0003-DX1"]
    for row in rows:
        fields = row["slide"].split("-")
        assert row["hospital"] == fields[1]
        assert row["patient"] == "-".join(fields[:3])
        assert float(row["mpp"]) == 0.5
        assert (cohort / row["path"]).is_file()
        assert (cohort / row["mask"]).is_file()


def test_cohort_says_that_it_is_a_rehearsal(cohort):
    card = yaml.safe_load((cohort / "cohort.yaml").read_text())
    assert card["rehearsal"] is True
    assert card["name"] == "rehearsal"
    assert card["generator"] == {"version": rehearsal.VERSION, "seed": SEED, "slides": SLIDES, "size_px": SIZE}


def test_labels_name_every_code_of_the_masks(cohort):
    rows = table(cohort / "labels.csv")
    assert {(row["label"], int(row["code"])) for row in rows if row["kind"] == "tissue"} == {
        ("tumour", 1), ("stroma", 2), ("inflammatory", 3), ("necrosis", 4), ("fat", 9),
    }  # fmt: skip
    assert [row["code"] for row in rows if row["kind"] == "background"] == ["0"]
    found = set()
    for name in slide_names(cohort):
        found |= set(np.unique(pixels(cohort / "masks" / f"{name}.png")).tolist())
    assert found == TISSUE_CODES | {0}


# Slides


def test_openslide_sees_levels_and_scale(cohort):
    for row in table(cohort / "cohort.csv"):
        with openslide.OpenSlide(cohort / row["path"]) as slide:
            assert slide.properties["openslide.vendor"] == "generic-tiff"
            assert float(slide.properties["openslide.mpp-x"]) == 0.5
            assert float(slide.properties["openslide.mpp-y"]) == 0.5
            assert slide.level_dimensions == ((1024, 1024), (256, 256), (64, 64))
            assert slide.level_downsamples == (1, 4, 16)


def test_openslide_gives_the_pixels_that_were_rendered(cohort, scene):
    window = Window(100.0, 150.0, 256, 256, 0.5)
    # JPEG and the noise, which belongs to a window, spoil single px: means over 16 x 16 px of level 0 are compared.
    expected = render(scene, window).reshape(16, 16, 16, 16, 3).mean(axis=(1, 3))
    with openslide.OpenSlide(cohort / "slides" / f"{scene.slide}.tif") as slide:
        for level, downsample in enumerate((1, 4)):
            side = 256 // downsample
            found = np.asarray(slide.read_region((200, 300), level, (side, side)).convert("RGB"), float)
            found = found.reshape(16, side // 16, 16, side // 16, 3).mean(axis=(1, 3))
            assert np.abs(found - expected).mean() < 2.5
            assert np.abs((found - expected).mean(axis=(0, 1))).max() < 1


def test_mask_tells_tissue_from_glass(cohort):
    for row in table(cohort / "cohort.csv"):
        mask = pixels(cohort / row["mask"])
        assert mask.dtype == np.uint8
        assert mask.shape == (128, 128)
        assert 0.54 < (mask > 0).mean() < 0.66
        with openslide.OpenSlide(cohort / row["path"]) as slide:
            region = (
                slide.read_region((0, 0), 0, slide.dimensions).convert("RGB").resize((128, 128), Image.Resampling.BOX)
            )
        colour = np.asarray(region, float)
        is_bright = colour.min(axis=2) > 200
        is_enemy = (
            (colour.max(axis=2) < 60) | (colour.max(axis=2) - colour.min(axis=2) > 60) | (colour.min(axis=2) < 130)
        )
        assert is_bright[mask > 0].mean() < 0.15
        assert (is_bright | is_enemy)[mask == 0].mean() > 0.9


def test_mask_agrees_with_the_scene(cohort, scene):
    mask = pixels(cohort / "masks" / f"{scene.slide}.png")
    random = generator(0, "places")
    at = random.uniform(1, SIZE / 2 - 1, (2, 2000)).astype(np.float32)
    codes = scene.layout.codes(Points(*at))
    assert (codes == mask[(at[1] / 4).astype(int), (at[0] / 4).astype(int)]).mean() > 0.97


# Scenes


@pytest.mark.parametrize("field", [Noise(generator(1, "n"), 7.0), Raster(generator(1, "r").random((20, 20)), 4.0)])
def test_field_at_points_is_the_field_at_a_window(field):
    window = Window(3.0, 5.0, 12, 9, 0.7)
    x, y = np.broadcast_arrays(window.x, window.y)
    np.testing.assert_allclose(field(Points(x.ravel(), y.ravel())).reshape(9, 12), field(window), atol=1e-5)


def test_noise_has_mean_0_and_variance_1():
    values = Noise(generator(1, "n"), 1.0)(Window(0, 0, 512, 512, 0.25))
    assert abs(values.mean()) < 0.1
    assert abs(values.var() - 1) < 0.15


def test_cells_know_their_two_nearest_centres():
    cells = Cells(generator(1, "c"), 10.0, nodes=8)
    window = Window(20.0, 20.0, 40, 30, 1.0)
    first, second = cells(window)
    lattice = np.stack(np.meshgrid(np.arange(8), np.arange(8)), 0) + 0.5 + cells.jitter
    centres = 10 * lattice.reshape(2, -1)
    distance = np.sort(np.hypot(window.x[..., None] - centres[0], window.y[..., None] - centres[1]), axis=-1)
    np.testing.assert_allclose(first, distance[..., 0], atol=1e-3)
    np.testing.assert_allclose(second, distance[..., 1], atol=1e-3)


def test_scene_is_the_same_at_every_resolution(scene):
    fine, coarse = Window(150.0, 150.0, 400, 400, 0.25), Window(150.0, 150.0, 100, 100, 1.0)
    assert (scene.layout.codes(fine)[2::4, 2::4] == scene.layout.codes(coarse)).mean() > 0.98
    for small, large in zip(stains(scene, fine), stains(scene, coarse), strict=True):
        small = small.reshape(100, 4, 100, 4).mean(axis=(1, 3))
        assert np.corrcoef(small.ravel(), large.ravel())[0, 1] > 0.9


def test_window_is_a_part_of_the_whole(scene):
    whole, part = Window(100.0, 100.0, 300, 300, 0.5), Window(125.0, 140.0, 100, 100, 0.5)
    for large, small in zip(stains(scene, whole), stains(scene, part), strict=True):
        np.testing.assert_allclose(large[80:180, 50:150], small, atol=1e-3)


def test_most_neighbours_share_their_tissue():
    same = total = 0
    for number in range(4):
        layout = compose(0, number, f"RHSL-H1-{number:04d}-DX1", "H1", 1024, 1024).layout
        codes = layout.codes(Window(0, 0, 32, 32, 32.0)).astype(int)
        for dy in range(4):
            for dx in range(-3 if dy else 1, 4):
                here = codes[: 32 - dy, max(0, -dx) : 32 - max(0, dx)]
                there = codes[dy:, max(0, dx) : 32 + min(0, dx)]
                is_tissue = (here > 0) & (there > 0)
                total += is_tissue.sum()
                same += (is_tissue & (here == there)).sum()
    assert same / total > 0.65


def test_tissues_hold_alike_amounts_of_stain():
    amounts = {code: [] for code in TISSUE_CODES}
    for number in range(2):
        scene = compose(0, number, f"RHSL-H1-{number:04d}-DX1", "H1", 1024, 1024)
        window = Window(0, 0, 1024, 1024, 1.0)
        maps, codes = stains(scene, window), scene.layout.codes(window)
        for code in TISSUE_CODES & set(np.unique(codes).tolist()):
            amounts[code].append([amount[codes == code].mean() for amount in maps])
    means = np.array([np.mean(values, axis=0) for values in amounts.values()])
    assert (means.max(axis=0) / means.min(axis=0) < 1.4).all()


# Contours


def test_rings_of_a_square_with_a_hole():
    mask = np.zeros((12, 12), bool)
    mask[1:11, 2:11] = True
    mask[4:7, 5:9] = False
    outer, hole = sorted(rings(mask), key=area, reverse=True)
    assert area(outer) == pytest.approx(90, rel=0.03)
    assert area(hole) == pytest.approx(-12, rel=0.06)
    assert outer.min(axis=0).tolist() == [2, 1]
    assert outer.max(axis=0).tolist() == [11, 11]


def test_rings_keep_diagonal_px_apart_and_drop_specks():
    mask = np.eye(3, dtype=bool)
    assert len(rings(mask)) == 3
    assert rings(mask, smallest=2) == []
    assert rings(np.zeros((4, 4), bool)) == []


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
        pattern = r"(RHSL-H\d-\d{4}-DX1)_id-[0-9a-f]{24}_left-(\d+)_top-(\d+)_bottom-(\d+)_right-(\d+)"
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
    assert left_out == {"H1", "H2", "H3"}


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
