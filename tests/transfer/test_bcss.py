"""BCSS as a task: layouts, resolution, groupings and splits."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from bcss_toys import (
    CODES,
    LABELS,
    SCALE,
    SLIDES,
    TASKS,
    load_folder,
    roi_name,
    tissue,
    write_bcss,
    write_roi,
    write_table,
)
from PIL import Image

from results.errors import UserError
from results.settings import load_yaml
from transfer.tasks import bcss, bcss_files, read_task, segmentation
from transfer.tasks.segmentation import IGNORE

DATA = Path(os.environ.get("SGCL_BENCH_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.fixture
def real():
    if not (DATA / "bcss").is_dir():
        pytest.skip(f"no real BCSS files: {DATA / 'bcss'} is missing; set SGCL_BENCH_REAL_DATA")
    return DATA / "bcss"


def names(task, rows):
    return [task.regions[row].institute for row in rows]


def test_official_institutes_test_and_the_named_ones_validate(tmp_path):
    task = load_folder(write_bcss(tmp_path))
    assert (task.name, task.rehearsal, task.trials) == ("bcss (sample: 4 of 151 regions)", False, 3)
    assert load_folder(tmp_path, full_set=4).name == load_folder(tmp_path, full_set=None).name == "bcss"
    assert len(set(task.splits)) == 1
    split = task.splits[0]
    assert names(task, split.test) == ["OL"]
    assert names(task, split.validation) == ["A1", "BH"]
    assert names(task, split.train) == ["A2"]
    assert any("4 of 151 regions" in remark for remark in task.remarks)


def test_every_layout_is_read_alike(tmp_path):
    found = [load_folder(write_bcss(tmp_path / folder, images=folder)) for folder in bcss_files.FOLDERS]
    outer = tmp_path / "drive"
    shutil.copytree(tmp_path / "images", outer / "0_Public-data-Amgad2019_0.25MPP")
    found.append(load_folder(outer))
    assert len({(task.split_digest, task.data_digest) for task in found}) == 1


def test_the_colour_normalised_images_go_first(tmp_path):
    write_bcss(tmp_path, images="rgbs")
    task = load_folder(write_bcss(tmp_path))
    assert {region.image.parent.name for region in task.regions} == {"rgbs_colorNormalized"}
    assert any("rgbs_colorNormalized, not of rgbs" in remark for remark in task.remarks)


def test_resolution_comes_from_the_bounds_and_not_from_the_name(tmp_path):
    assert [region.mpp for region in load_folder(write_bcss(tmp_path)).regions] == pytest.approx(
        [0.25 / SCALE] * 4, rel=0.01
    )


@pytest.mark.parametrize(("magnification", "mpp"), [(40, 0.25 / SCALE), (20, 0.5 / SCALE)])
def test_magnification_of_the_scan_is_believed(tmp_path, magnification, mpp):
    write_bcss(tmp_path)
    rows = [("", "name", "_id", "magnification"), *((slide[:12], "-", "-", magnification) for slide in SLIDES)]
    write_table(tmp_path / "meta" / "slide_magnifications.csv", rows)
    assert [region.mpp for region in load_folder(tmp_path).regions] == pytest.approx([mpp] * 4, rel=0.01)


def test_cut_outs_without_bounds_keep_the_resolution_of_their_name(tmp_path):
    write_bcss(tmp_path)
    write_roi(tmp_path, roi_name(SLIDES[0], (140, 230), "0.2480"), *tissue(40, 40))
    task = load_folder(tmp_path)
    assert [region.mpp for region in task.regions if "0.2480" in region.name] == [0.248]
    assert sum("no row in roiBounds.csv" in remark and "0.2480" in remark for remark in task.remarks) == 1


def test_groupings_follow_the_published_table():
    def classes(grouping):
        codes = bcss.code_classes(grouping)
        assert len(codes) == 256
        assert set(codes[len(LABELS) :]) == {IGNORE}
        return {label: "ignore" if c == IGNORE else bcss.CLASSES[c] for label, c in zip(LABELS, codes, strict=False)}

    clean, reference, eva = (classes(name) for name in ("clean", "reference", "eva"))
    assert bcss_files.CODES == LABELS
    expected = dict.fromkeys(LABELS, "other") | {
        "outside_roi": "ignore", "exclude": "ignore", "undetermined": "ignore", "tumor": "tumour", "angioinvasion": "tumour",
        "dcis": "tumour", "stroma": "stroma", "lymphocytic_infiltrate": "inflammatory", "plasma_cells": "inflammatory",
        "other_immune_infiltrate": "inflammatory", "necrosis_or_debris": "necrosis",
    }  # fmt: skip
    assert clean == expected
    assert reference == expected | {"exclude": "other", "undetermined": "other", "lymphatics": "inflammatory"}
    assert eva == expected | {"exclude": "other", "undetermined": "other", "tumor": "other"}


def test_groupings_are_different_tasks(tmp_path):
    write_bcss(tmp_path)
    clean, reference = load_folder(tmp_path), load_folder(tmp_path, **load_yaml(TASKS / "bcss_reference.yaml"))
    assert clean.name != reference.name
    assert clean.split_digest != reference.split_digest
    assert clean.data_digest == reference.data_digest
    with pytest.raises(UserError, match="grouping=tidy"):
        read_task("bcss", "segmentation", {"grouping": "tidy"})


def test_tables_with_a_byte_order_mark_are_read(tmp_path):
    write_bcss(tmp_path)
    path = tmp_path / "meta" / "roiBounds.csv"
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert not any("no row" in remark for remark in load_folder(tmp_path).remarks)


def test_codes_are_counted_by_bands(monkeypatch):
    mask = np.random.default_rng(0).integers(0, 256, (37, 11), dtype=np.uint8)
    monkeypatch.setattr(segmentation, "BAND", 25)
    assert segmentation.count_codes(mask).tolist() == np.bincount(mask.ravel(), minlength=256).tolist()


def test_without_official_institutes_each_is_tested_in_turn(tmp_path):
    slides = [f"RHSL-H{1 + number % 3}-{number:04d}-DX1" for number in range(6)]
    task = load_folder(write_bcss(tmp_path / "bcss", slides))
    assert task.name == "bcss-subset (sample: 6 of 151 regions)"
    assert any("every institute is tested in turn" in note for note in task.notes)
    assert [set(names(task, split.test)) for split in task.splits] == [{"H1"}, {"H2"}, {"H3"}]
    for split in task.splits:
        assert sorted(split.train + split.validation + split.test) == list(range(6))
        assert split.validation
        assert len(split.train) >= 2
    (tmp_path / "cohort.yaml").write_text("name: rehearsal\nrehearsal: true\n")
    synthetic = load_folder(tmp_path / "bcss")
    assert synthetic.name == "bcss-rehearsal"
    assert synthetic.rehearsal


def test_slides_and_then_regions_take_the_place_of_institutes(tmp_path):
    one_institute = load_folder(write_bcss(tmp_path / "a", [f"TCGA-A2-A{n:03d}-DX1" for n in range(4)]))
    for split in one_institute.splits:
        assert not {one_institute.regions[r].slide for r in split.test} & {
            one_institute.regions[r].slide for r in split.train
        }
    assert sorted(row for split in one_institute.splits for row in split.test) == [0, 1, 2, 3]
    one_slide = write_bcss(tmp_path / "b", SLIDES[1:2])
    for corner in ((1, 2), (3, 4)):
        write_roi(one_slide, roi_name(SLIDES[1], corner), *tissue(40, 40))
    task = load_folder(one_slide)
    assert any("test and training share slides" in note for note in task.notes)
    assert set(task.notes) <= set(task.remarks)
    assert all(split.train and split.validation and split.test for split in task.splits)


def test_two_regions_have_no_validation_and_one_is_refused(tmp_path):
    task = load_folder(write_bcss(tmp_path / "two", SLIDES[:2]))
    assert [(s.train, s.validation, s.test) for s in task.splits[:2]] == [((1,), (), (0,)), ((0,), (), (1,))]
    with pytest.raises(UserError, match="two or more"):
        load_folder(write_bcss(tmp_path / "one", SLIDES[:1]))


def test_digests_follow_images_masks_and_splits(tmp_path):
    write_bcss(tmp_path)
    first = load_folder(tmp_path)
    assert load_folder(tmp_path, trials=1).split_digest == first.split_digest
    turned = write_bcss(tmp_path / "turned", [f"TCGA-A2-A{n:03d}-DX1" for n in range(4)])
    assert load_folder(turned, trials=1).split_digest == load_folder(turned, trials=3).split_digest
    assert load_folder(turned, trials=1).splits == load_folder(turned, trials=3).splits[:1]
    assert load_folder(turned, trials=4).split_digest != load_folder(turned, trials=3).split_digest
    assert load_folder(tmp_path, mpp=0.4).split_digest != first.split_digest
    image, codes = tissue(96, 144, seed=9)
    write_roi(tmp_path, roi_name(SLIDES[0]), image, tissue(96, 144)[1])
    changed = load_folder(tmp_path)
    assert (changed.split_digest, changed.data_digest != first.data_digest) == (first.split_digest, True)
    codes[50, 50] = 4
    write_roi(tmp_path, roi_name(SLIDES[0]), image, codes)
    assert load_folder(tmp_path).split_digest != first.split_digest


def test_resampling_keeps_image_and_mask_on_each_other(tmp_path):
    task = load_folder(write_bcss(tmp_path))
    region = task.regions[0]
    image, labels = task.resampled(region)
    expected = (round(96 * region.mpp / 0.5), round(144 * region.mpp / 0.5))
    assert image.shape == (*expected, 3)
    assert labels.shape == expected
    assert image.dtype == labels.dtype == np.uint8
    centres = [(2 * np.arange(n) + 1) * side // (2 * n) for n, side in zip(expected, (96, 144), strict=True)]
    truth = task.truth(region)
    assert np.array_equal(labels, truth[np.ix_(*centres)])
    assert set(np.unique(truth)) == {bcss.code_classes("clean")[code] for code in (0, *CODES.values())}
    stamp = {path: path.stat().st_mtime_ns for path in task.cache.iterdir()}
    task.resampled(region)
    assert {path: path.stat().st_mtime_ns for path in task.cache.iterdir()} == stamp


def test_pixels_of_a_region_are_those_of_its_truth(tmp_path):
    task = load_folder(write_bcss(tmp_path))
    for region in task.regions:
        truth = task.truth(region)
        assert region.pixels == tuple(int((truth == c).sum()) for c in range(len(task.classes)))


def test_the_real_sample_is_read_and_split(real, tmp_path):
    task = load_folder(real, tmp_path)
    assert [region.name.split("_")[1] for region in task.regions] == [
        "xmin54046",
        "xmin54302",
        "xmin54302",
        "xmin54302",
    ]
    assert {region.mpp for region in task.regions} == {0.248}
    assert task.name == "bcss-subset (sample: 4 of 151 regions)"
    assert any("test and training share slides" in note for note in task.notes)
    assert any("1 mask(s) without image left out: TCGA-A1-A0SK" in remark for remark in task.remarks)
    assert sum(sum(region.pixels) for region in task.regions) == 4 * 256 * 256 - unsure(task)
    assert all(split.train and split.validation and split.test for split in task.splits)


def test_class_sums_of_the_real_masks(real, tmp_path):
    """Px of each group, counted from the codes of the masks alone: 1 tumour, 2 stroma, 3 inflammatory, 6 and 9 other."""
    task = load_folder(real, tmp_path)
    assert task.classes == ("tumour", "stroma", "inflammatory", "necrosis", "other")
    assert [region.pixels for region in task.regions] == [
        (1957, 63579, 0, 0, 0), (0, 13837, 15447, 0, 13654 + 22598), (0, 11964, 39333, 0, 14239), (24839, 31166, 9531, 0, 0),
    ]  # fmt: skip
    full = np.asarray(Image.open(real / "masks" / "TCGA-A1-A0SK-DX1_xmin45749_ymin25055_MPP-0.2500.png"))
    codes, counts = np.unique(full, return_counts=True)
    assert dict(zip(codes.tolist(), counts.tolist(), strict=True)) == {
        1: 3898532, 2: 1900762, 3: 5641, 4: 2526762, 9: 41301,
    }  # fmt: skip


def unsure(task):
    """Px of outside, exclude and undetermined, counted without the task."""
    return sum(int(np.isin(np.asarray(Image.open(region.mask)), (0, 7, 15)).sum()) for region in task.regions)


def test_the_real_full_mask_called_a_quarter_is_about_three_tenths(real):
    mask = real / "masks" / "TCGA-A1-A0SK-DX1_xmin45749_ymin25055_MPP-0.2500.png"
    pair = bcss_files.Pair(mask, mask, "TCGA-A1-A0SK-DX1", (45749, 25055), 0.25)
    with_table, said = bcss_files.resolutions([pair], real / "meta")
    assert said == []
    assert with_table == pytest.approx([0.30], rel=0.01)
    assert bcss_files._resolution(pair, (49789 - 45749, 27991 - 25055), None) == pytest.approx(with_table[0])
