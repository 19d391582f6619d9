"""BCSS folders with something wrong, missing or too large: left out and told, or refused."""

import os
import shutil

import numpy as np
import pytest
from bcss_toys import SLIDES, TASKS, load_folder, roi_name, tissue, write_bcss, write_roi, write_table
from PIL import Image

from results.errors import UserError
from results.settings import load_yaml
from transfer.tasks import read_task, segmentation


def test_unequal_scales_are_refused(tmp_path):
    write_bcss(tmp_path)
    write_roi(tmp_path, roi_name(SLIDES[0]), *tissue(96, 100))
    with pytest.raises(UserError, match=r"A0SP.*along x.*along y"):
        load_folder(tmp_path)


def test_an_unknown_code_in_a_mask_names_the_file(tmp_path):
    write_bcss(tmp_path)
    image, codes = tissue(96, 144)
    codes[3, 4] = 22
    write_roi(tmp_path, roi_name(SLIDES[1]), image, codes)
    with pytest.raises(UserError, match=r"masks/TCGA-A2-A0SX.*code 22"):
        load_folder(tmp_path)


@pytest.mark.parametrize("row", [("tumor", 22), ("tumor", "x"), ("fat", 1)])
def test_a_foreign_code_table_names_the_file(tmp_path, row):
    write_bcss(tmp_path)
    write_table(tmp_path / "meta" / "gtruth_codes.tsv", [("label", "GT_code"), row], "\t")
    with pytest.raises(UserError, match=r"gtruth_codes\.tsv"):
        load_folder(tmp_path)


def test_what_has_no_partner_is_told(tmp_path):
    write_bcss(tmp_path)
    image, codes = tissue(40, 40)
    write_roi(tmp_path, roi_name("TCGA-S3-AA10-DX1"), image, None)
    write_roi(tmp_path, roi_name("TCGA-S3-AA11-DX1"), None, codes)
    task = load_folder(tmp_path)
    assert len(task.regions) == len(SLIDES)
    assert any("1 image(s) without mask left out: TCGA-S3-AA10" in remark for remark in task.remarks)
    assert any("1 mask(s) without image left out: TCGA-S3-AA11" in remark for remark in task.remarks)


def test_a_region_without_px_that_count_is_left_out(tmp_path):
    write_bcss(tmp_path)
    image, codes = tissue(96, 144)
    write_roi(tmp_path, roi_name(SLIDES[0]), image, np.where(codes, 7, 0).astype(np.uint8))
    task = load_folder(tmp_path)
    assert [region.slide for region in task.regions] == sorted(set(SLIDES) - {SLIDES[0]})
    assert any("A0SP" in remark and "left out" in remark for remark in task.remarks)
    assert len(load_folder(tmp_path, **load_yaml(TASKS / "bcss_reference.yaml")).regions) == len(SLIDES)


def break_sizes(root):
    write_roi(root, roi_name(SLIDES[0]), tissue(95, 144)[0], tissue(96, 144)[1])


def break_name(root):
    write_roi(root, "holiday", *tissue(40, 40))


def break_image(root):
    (root / "rgbs_colorNormalized" / f"{roi_name(SLIDES[0])}.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")


def break_mask_kind(root):
    Image.fromarray(tissue(96, 144)[0]).save(root / "masks" / f"{roi_name(SLIDES[0])}.png")


def break_bounds(root):
    write_table(root / "meta" / "roiBounds.csv", [("", "xmin", "ymin", "xmax", "ymax"), ("a", 1, 2, "x", 4)])


def break_columns(root):
    write_table(root / "meta" / "roiBounds.csv", [("slide", "left")])


def take_masks(root):
    shutil.rmtree(root / "masks")


def take_images(root):
    for path in (root / "rgbs_colorNormalized").iterdir():
        path.unlink()


def rename_first(root, name):
    for folder in ("rgbs_colorNormalized", "masks"):
        (root / folder / f"{roi_name(SLIDES[0])}.png").rename(root / folder / f"{name}.png")


def name_scale(mpp):
    return lambda root: rename_first(root, roi_name(SLIDES[0], (7, 7), mpp))


def write_bounds(*corner):
    def harm(root):
        write_table(
            root / "meta" / "roiBounds.csv", [("", "xmin", "ymin", "xmax", "ymax"), (SLIDES[0], 100, 200, *corner)]
        )

    return harm


def write_power(value):
    rows = [("", "name", "_id", "magnification"), (SLIDES[0][:12], "-", "-", value)]
    return lambda root: write_table(root / "meta" / "slide_magnifications.csv", rows)


def write_codes(*row):
    return lambda root: write_table(root / "meta" / "gtruth_codes.tsv", [("label", "GT_code"), row], "\t")


def save_as_jpeg(folder):
    def harm(root):
        path = root / folder / f"{roi_name(SLIDES[0])}.png"
        Image.open(path).save(path, format="JPEG")

    return harm


def save_16_bit(root):
    Image.fromarray(np.full((96, 144), 4000, np.uint16)).save(
        root / "rgbs_colorNormalized" / f"{roi_name(SLIDES[0])}.png"
    )


def name_in_latin_1(root):
    for folder in ("rgbs_colorNormalized", "masks"):
        path = root / folder / f"{roi_name(SLIDES[0])}.png"
        os.rename(path, os.fsencode(path.parent) + b"/S\xfcd_xmin7_ymin7_MPP-0.2500.png")


def put_fifo(folder):
    def harm(root):
        path = root / folder / f"{roi_name(SLIDES[0])}.png"
        path.unlink()
        os.mkfifo(path)

    return harm


def cut_image(root):
    path = root / "rgbs_colorNormalized" / f"{roi_name(SLIDES[0])}.png"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def shrink_all(root):
    for slide in SLIDES:
        write_roi(root, roi_name(slide), *tissue(31, 40))


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (name_scale("0.0000"), "0.0000.*um/px"),
        (name_scale("9999999.0"), "9999999.*um/px"),
        (name_scale("9" * 150 + ".0"), "um/px"),
        (write_bounds(101, 201), "along x"),
        (write_bounds(100, 300), "xmax and ymax"),
        (write_bounds(10000000, 6666766), "um/px by its row"),
        (write_bounds("271.5", 314), "271.5.*as xmax in line 2"),
        (write_bounds("9" * 5000, 314), "as xmax in line 2"),
        (write_power("0"), "magnification 0 in line 2"),
        (write_power("400"), "magnification 400"),
        (write_power("1e9"), "as magnification"),
        (write_codes("tumor"), r"gtruth_codes.*GT_code in line 2"),
        (write_codes("tumor", "1" * 5000), r"gtruth_codes.*GT_code in line 2"),
        (save_as_jpeg("masks"), "masks/.*decoded as PNG"),
        (save_as_jpeg("rgbs_colorNormalized"), "rgbs_colorNormalized/.*decoded as PNG"),
        (put_fifo("masks"), "masks/.*not a regular file"),
        (put_fifo("rgbs_colorNormalized"), "rgbs_colorNormalized/.*not a regular file"),
        (save_16_bit, "rgbs_colorNormalized/.*mode I;16.*8 bits"),
        (name_in_latin_1, "not UTF-8"),
        (cut_image, "rgbs_colorNormalized/.*decoded"),
        (shrink_all, "no mask of 32 px"),
        (break_sizes, "must agree"),
        (break_name, "holiday"),
        (break_image, "cannot be decoded"),
        (break_mask_kind, "mode RGB"),
        (break_bounds, "as xmax in line 2"),
        (break_columns, "no column"),
        (take_masks, "not a BCSS folder"),
        (take_images, "no image with a mask"),
    ],
)
def test_damage_is_told_in_one_sentence(tmp_path, harm, told):
    write_bcss(tmp_path)
    harm(tmp_path)
    with pytest.raises(UserError, match=told) as caught:
        load_folder(tmp_path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value).replace(str(tmp_path), "")) < 700


def test_small_regions_are_left_out_with_a_remark(tmp_path):
    write_bcss(tmp_path)
    write_roi(tmp_path, roi_name(SLIDES[0], (7, 7)), *tissue(31, 40))
    task = load_folder(tmp_path)
    assert len(task.regions) == len(SLIDES)
    assert any("smaller than 32 px" in remark and "xmin7_" in remark for remark in task.remarks)


def test_resampled_regions_are_bounded(tmp_path, monkeypatch):
    write_bcss(tmp_path)
    monkeypatch.setattr(segmentation, "MOST_PX", 96 * 144)
    with pytest.raises(UserError, match=r"A0SP.*at the task's 0.1 um/px"):
        load_folder(tmp_path, mpp=0.1)


def test_an_institute_in_test_and_validation_is_refused(tmp_path):
    (tmp_path / "own.yaml").write_text("name: own\nkind: bcss\ntest: [OL, E2]\nvalidation: [A1, OL]\n")
    with pytest.raises(UserError, match=r"own\.yaml: institute OL is in test and in validation"):
        read_task(str(tmp_path / "own.yaml"), "segmentation")


def test_images_are_bounded_before_they_are_decoded(tmp_path, monkeypatch):
    write_bcss(tmp_path)
    monkeypatch.setattr(segmentation, "MOST_PX", 96 * 144 - 1)
    with pytest.raises(UserError, match="million px"):
        load_folder(tmp_path)
