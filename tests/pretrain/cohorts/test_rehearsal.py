"""The rehearsal cohort as a folder: repeatable, whole or not at all; its slides and masks."""

import numpy as np
import openslide
import pytest
import yaml
from PIL import Image
from rehearsal_files import SEED, SIZE, SLIDES, TISSUE_CODES, digests, pixels, slide_names, table

from pretrain.cohorts import rehearsal
from pretrain.cohorts.rehearsal import generate
from pretrain.cohorts.rehearsal.fields import Points, Window, generator
from pretrain.cohorts.rehearsal.render import render
from pretrain.cohorts.rehearsal.scene import compose
from results.errors import UserError

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
    assert [row["slide"] for row in rows] == ["RHSL-H1S5-0001-DX1", "RHSL-H2S5-0002-DX1", "RHSL-H3S5-0003-DX1"]
    for row in rows:
        fields = row["slide"].split("-")
        assert row["hospital"] == fields[1]
        assert row["patient"] == "-".join(fields[:3])
        assert float(row["mpp"]) == 0.5
        assert (cohort / row["path"]).is_file()
        assert (cohort / row["mask"]).is_file()


def test_names_of_seed_0_carry_no_seed_and_those_of_others_meet_nowhere(tmp_path):
    jobs = {seed: [rehearsal.Job(tmp_path, number, seed, SIZE) for number in range(4)] for seed in (0, 1, 11)}
    assert [(job.slide, job.patient, job.hospital) for job in jobs[0][:2]] == [
        ("RHSL-H1-0001-DX1", "RHSL-H1-0001", "H1"), ("RHSL-H2-0002-DX1", "RHSL-H2-0002", "H2"),
    ]  # fmt: skip
    assert (jobs[11][3].slide, jobs[11][3].patient) == ("RHSL-H1S11-0004-DX1", "RHSL-H1S11-0004")
    for key, count in (("slide", 12), ("patient", 12), ("hospital", 9)):
        assert len({getattr(job, key) for found in jobs.values() for job in found}) == count
    assert {job.drawn_as for job in jobs[0]} == {job.drawn_as for job in jobs[11]}
    assert [rehearsal.version(seed) for seed in (0, 1)] == [3, 4]


def test_cohort_says_that_it_is_a_rehearsal(cohort):
    card = yaml.safe_load((cohort / "cohort.yaml").read_text())
    assert card["rehearsal"] is True
    assert card["name"] == "rehearsal"
    assert card["generator"] == {"version": rehearsal.version(SEED), "seed": SEED, "slides": SLIDES, "size_px": SIZE}


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
    with openslide.OpenSlide(cohort / "slides" / f"{scene.name}.tif") as slide:
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
    mask = pixels(cohort / "masks" / f"{scene.name}.png")
    random = generator(0, "places")
    at = random.uniform(1, SIZE / 2 - 1, (2, 2000)).astype(np.float32)
    codes = scene.layout.codes(Points(*at))
    assert (codes == mask[(at[1] / 4).astype(int), (at[0] / 4).astype(int)]).mean() > 0.97
