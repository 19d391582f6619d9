"""Train, validation and test of NuCLS, and the digests that name them."""

import pytest
from nucls_toys import SLIDES, field_name, load_folder, write_fold, write_nucls
from PIL import Image

from results.errors import UserError


def slides_of(task, trial, part):
    return {image.slide for image in task.part(trial, part)}


def test_trials_follow_the_published_folds_and_wrap_around(nucls_folder):
    write_fold(nucls_folder, 999, [SLIDES[0]], [SLIDES[1], SLIDES[2]])
    task = load_folder(nucls_folder, trials=4)
    assert [slides_of(task, trial, "test") for trial in range(4)] == [{s} for s in (*SLIDES, SLIDES[0])]
    for trial in range(4):
        tested, trained, held = (slides_of(task, trial, part) for part in ("test", "train", "validation"))
        assert not tested & (trained | held)
        assert not trained & held
        assert trained
        assert held


@pytest.mark.parametrize(
    ("folds", "trials", "note"),
    [(1, 1, ""), (1, 3, "All trials test on the same images"), (2, 2, ""), (2, 3, "trial 3 tests on the images of trial 1")],
)  # fmt: skip
def test_trials_that_share_their_test_images_say_so(tmp_path, folds, trials, note):
    folder = write_nucls(tmp_path / "n", folds=False)
    for number in range(folds):
        write_fold(folder, number + 1, [slide for slide in SLIDES if slide != SLIDES[number]], [SLIDES[number]])
    notes = " ".join(load_folder(folder, trials=trials).notes)
    assert note in notes
    assert ("the images of trial 1" in notes or "same images" in notes) is bool(note)


def test_folds_that_share_test_images_say_so(nucls_folder):
    write_fold(nucls_folder, 3, [SLIDES[0]], [SLIDES[1], SLIDES[2]])
    assert "Trials 2 and 3 share test images, since their folds do." in load_folder(nucls_folder, trials=3).notes
    assert not any("share test" in note for note in load_folder(nucls_folder, trials=2).notes)
    for number in (1, 2):
        write_fold(nucls_folder, number, [SLIDES[0]], [SLIDES[1], SLIDES[2]])
    notes = load_folder(nucls_folder, trials=4).notes
    assert "Trials 1 and 2 share test images, since their folds do, and other trials as well." in notes
    assert any("trial 4 tests on the images of trial 1 again" in note for note in notes)


def test_a_slide_in_both_parts_of_a_fold_is_refused(nucls_folder):
    write_fold(nucls_folder, 2, [SLIDES[0], SLIDES[1]], [SLIDES[1]])
    with pytest.raises(UserError, match="both name slide TCGA-A2"):
        load_folder(nucls_folder)


def test_slides_that_a_fold_does_not_name_are_left_out_of_it_and_told(nucls_folder):
    write_fold(nucls_folder, 1, [SLIDES[0]], [SLIDES[1]])
    task = load_folder(nucls_folder, trials=1)
    assert SLIDES[2] not in slides_of(task, 0, "train") | slides_of(task, 0, "validation") | slides_of(task, 0, "test")
    assert any("fold 1 does not name 1 slides" in line for line in task.report)


def test_without_fitting_fold_files_folds_are_dealt_by_patient_and_told(tmp_path):
    folder = write_nucls(tmp_path / "n", folds=False)
    write_fold(folder, 1, ["TCGA-XX-XXXX-DX1"], ["TCGA-YY-YYYY-DX1"])
    task = load_folder(folder)
    assert set().union(*(slides_of(task, trial, "test") for trial in range(3))) == set(SLIDES)
    assert any("3 folds were dealt by patient" in line for line in task.report)
    assert any("fold 1 has no images" in line for line in task.report)


def test_dealt_folds_leave_hospitals_whole_where_there_are_enough(tmp_path):
    slides = [f"TCGA-H{i}-{p:04d}-DX1" for i in range(6) for p in range(2)]
    task = load_folder(write_nucls(tmp_path / "n", slides, fields=1, folds=False), trials=5)
    for trial in range(5):
        hospitals = [{image.hospital for image in task.part(trial, part)} for part in ("train", "validation", "test")]
        assert sum(map(len, hospitals)) == len(set().union(*hospitals)) == 6


def test_one_slide_to_train_on_gives_some_of_its_images_to_validation(tmp_path):
    folder = write_nucls(tmp_path / "n", SLIDES[:2], fields=4)
    task = load_folder(folder, trials=1)
    split = task.splits[0]
    assert (len(split.train), len(split.validation), len(split.test)) == (3, 1, 4)
    assert not set(split.train) & set(split.validation)
    assert "of the one patient" in split.rule
    alone = load_folder(write_nucls(tmp_path / "m", SLIDES[:2], fields=1), trials=1).splits[0]
    assert alone.train == alone.validation
    assert "the one training image" in alone.rule


def test_one_patient_is_too_few(tmp_path):
    with pytest.raises(UserError, match="one patient only"):
        load_folder(write_nucls(tmp_path / "n", SLIDES[:1], folds=False))


def test_the_seed_moves_validation_and_nothing_that_is_tested(tmp_path):
    folder = write_nucls(tmp_path / "n", fields=5)
    tasks = [load_folder(folder, seed=seed) for seed in range(4)]
    assert len({task.splits[0].test for task in tasks}) == 1
    assert len({task.splits[0].validation for task in tasks}) > 1
    assert load_folder(folder, seed=2).split_digest == tasks[2].split_digest


def test_digests_follow_truth_parts_and_pixels(nucls_folder):
    before = load_folder(nucls_folder)
    path = nucls_folder / "csv" / f"{field_name(SLIDES[0], 0)}.csv"
    text = path.read_text()
    path.write_text(text + "6,tumor,tumor_nonMitotic,tumor_any,rectangle,20,20,40,40,,\n")
    more = load_folder(nucls_folder)
    assert more.split_digest != before.split_digest
    assert more.data_digest == before.data_digest
    path.write_text(text)
    assert load_folder(nucls_folder, trials=1).split_digest == before.split_digest
    assert load_folder(nucls_folder, trials=1).splits == before.splits[:1]
    assert load_folder(nucls_folder, classes="one").split_digest != before.split_digest
    picture = nucls_folder / "rgb" / f"{field_name(SLIDES[0], 0)}.png"
    Image.open(picture).rotate(90).save(picture)
    turned = load_folder(nucls_folder)
    assert turned.split_digest == before.split_digest
    assert turned.data_digest != before.data_digest
