import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transfer_toys import tile_pixels

from results.errors import UserError
from results.record import read_records
from results.render import caption
from results.table import build_tables
from transfer.__main__ import main
from transfer.tasks import Request, image_files, load_task, read_task
from transfer.tasks.image_files import BadImage, read_image

REAL = Path(os.environ.get("SGCL_BENCH_REAL_DATA", Path(__file__).parents[3] / "shared" / "data")) / "nct-crc"
CLASSES = ("bands", "speckle", "stripes")
SIDE = 32
YAML = """
name: toy-folders
kind: image_folders
layout: toy
train: learn
test: judge
classes: [stripes, bands, speckle]
tile: 32
validation_share: 0.2
"""


def write_sets(root, learn=10, judge=4):
    """Write two sets of PNG, JPEG and TIFF tiles, one folder a class."""
    random = np.random.default_rng(2)
    for part, count in (("learn", learn), ("judge", judge)):
        for label in CLASSES:
            (root / part / label).mkdir(parents=True)
            for number in range(count):
                suffix = ("tif", "png", "jpg")[number % 3]
                image = Image.fromarray(tile_pixels(random, label))
                image.save(root / part / label / f"{label}-{number:03d}.{suffix}")
    return root


@pytest.fixture
def root(tmp_path):
    return write_sets(tmp_path / "data")


@pytest.fixture
def settings(tmp_path):
    (tmp_path / "toy.yaml").write_text(YAML)
    return read_task(str(tmp_path / "toy.yaml"))


def opened(settings, root, trials=3, seed=0):
    return load_task(settings, Request(root.parent / "work", str(root), None, trials, seed))


def test_labels_are_the_folders_and_units_the_files(settings, root):
    task = opened(settings, root)
    assert (task.name, task.kind, task.classes, task.rehearsal) == ("toy-folders", "classification", CLASSES, False)
    assert len(task.units) == 3 * (10 + 4)
    for unit, label in zip(task.units.tolist(), task.labels.tolist(), strict=True):
        assert unit.split("/")[1] == CLASSES[label]
    assert task.clusters.tolist() == task.units.tolist()
    rows = np.array([5, 0, 41])
    for row, tile in zip(rows, task.read(rows), strict=True):
        np.testing.assert_array_equal(tile, np.array(Image.open(root / task.units[row])))


def test_the_test_set_is_only_tested_on_and_validation_is_a_share_of_each_class(settings, root):
    task = opened(settings, root, trials=4)
    for split in task.splits:
        assert {task.units[row].split("/")[0] for row in split.test} == {"judge"}
        assert {task.units[row].split("/")[0] for row in [*split.train, *split.validation]} == {"learn"}
        assert len(split.test) == 12
        assert np.bincount(task.labels[split.validation]).tolist() == [2, 2, 2]
        assert sorted([*split.train, *split.validation]) == list(range(30))
    assert len({tuple(split.validation) for split in task.splits}) == 4
    again = opened(settings, root, trials=4)
    assert again.split_digest == task.split_digest
    assert opened(settings, root, trials=4, seed=1).split_digest != task.split_digest
    fewer = opened(settings, root, trials=1)
    assert fewer.split_digest == task.split_digest
    np.testing.assert_array_equal(fewer.splits[0].validation, task.splits[0].validation)


def test_a_part_of_the_data_set_goes_by_the_name_of_a_sample(settings, root):
    for published, name, notes in (
        (43, "toy-folders", 1),
        (42, "toy-folders", 0),
        (5000, "toy-folders (sample: 42 of 5,000 tiles)", 1),
    ):
        settings.full_set = published
        task = opened(settings, root)
        assert (task.name, len(task.notes)) == (name, notes)
    (root / "cohort.yaml").write_text("rehearsal: true\n")
    assert (opened(settings, root).name, opened(settings, root).notes) == ("toy-folders", ())


def test_a_class_with_one_tile_trains_and_with_two_has_one_to_choose_on(settings, tmp_path):
    for count, held in ((1, 0), (2, 1)):
        task = opened(settings, write_sets(tmp_path / f"n{count}", learn=count, judge=1), trials=1)
        assert len(task.splits[0].validation) == 3 * held
        assert len(task.splits[0].train) == 3


def test_classes_may_be_absent_from_the_test_only(settings, root):
    shutil.rmtree(root / "judge" / "bands")
    assert len(opened(settings, root).splits[0].test) == 8
    for path in (root / "learn" / "bands").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"learn has no images of bands: every class"):
        opened(settings, root)


def test_a_changed_file_changes_the_digests_and_an_unchanged_one_is_not_read_again(settings, root, monkeypatch):
    first = opened(settings, root)
    read = []
    monkeypatch.setattr(image_files, "read_image", lambda *given: read.append(given[0].name) or read_image(*given))
    again = opened(settings, root)
    assert (again.split_digest, again.data_digest, read) == (first.split_digest, first.data_digest, [])
    Image.fromarray(np.zeros((SIDE, SIDE, 3), np.uint8)).save(root / "learn" / "bands" / "bands-001.png")
    changed = opened(settings, root)
    assert read == ["bands-001.png"]
    assert changed.data_digest != first.data_digest
    assert changed.split_digest != first.split_digest
    next((root.parent / "work" / "transfer").iterdir()).write_text("{damage")
    read.clear()
    assert opened(settings, root).data_digest == changed.data_digest
    assert len(read) == 42


def test_mistakes_in_folders_are_one_sentence(settings, root):
    def message():
        with pytest.raises(UserError) as error:
            opened(settings, root)
        assert str(error.value).count("\n") == 0
        return str(error.value)

    (root / "learn" / "fibres").mkdir()
    assert "learn/fibres is none of the classes bands, speckle, stripes" in message()
    (root / "learn" / "fibres").rmdir()
    (root / "learn" / "bands" / "notes.txt").write_text("")
    assert "notes.txt is not one of .tif" in message()
    (root / "learn" / "bands" / "notes.txt").rename(root / "learn" / "bands" / ".notes")
    (root / "learn" / "bands" / "Thumbs.db").write_text("")
    opened(settings, root)
    (root / "learn" / "bands" / "gone.png").symlink_to("nowhere")
    assert "gone.png is not a regular file" in message()
    (root / "learn" / "bands" / "gone.png").unlink()
    odd = os.fsencode(root / "learn" / "bands") + b"/\xff.png"
    with open(odd, "wb"):
        assert "not UTF-8" in message()
    os.unlink(odd)
    (root / "judge").rename(root / "other")
    assert "judge is missing: give task.root=FOLDER" in message()


def test_broken_images_are_named_and_counted_before_anything_runs(settings, root):
    bands = root / "learn" / "bands"
    (bands / "bands-000.tif").write_bytes((bands / "bands-000.tif").read_bytes()[:200])
    Image.new("RGB", (SIDE, SIDE + 1)).save(bands / "bands-001.png")
    Image.new("L", (SIDE, SIDE)).save(bands / "bands-002.jpg")
    (bands / "bands-003.tif").write_bytes(b"")
    with pytest.raises(UserError) as error:
        opened(settings, root)
    said = str(error.value)
    assert "has 4 image(s) that cannot be used (learn/bands/bands-000.tif cannot be decoded" in said
    assert "bands-001.png is 32 x 33 px instead of 32 x 32" in said
    assert "bands-002.jpg is of mode L instead of 8-bit RGB" in said
    assert "bands-003" not in said


def test_large_images_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    bomb = tmp_path / "bomb.png"
    Image.new("1", (9000, 9000)).save(bomb)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(BadImage, match="is 9000 x 9000 px instead of 32 x 32"):
        read_image(bomb, SIDE)
    heavy = tmp_path / "heavy.tif"
    heavy.write_bytes(b"0" * (2**21))
    with pytest.raises(BadImage, match="2097152 bytes, too many"):
        read_image(heavy, SIDE)


def test_other_formats_under_a_known_suffix_are_refused(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (SIDE, SIDE)).save(path, format="BMP")
    with pytest.raises(BadImage, match="cannot be decoded"):
        read_image(path, SIDE)


def test_a_file_that_breaks_later_is_named(settings, root):
    task = opened(settings, root)
    (root / task.units[3]).unlink()
    with pytest.raises(UserError, match="it has changed since the start"):
        task.read(np.array([3]))


def test_the_same_folder_cannot_train_and_test(tmp_path):
    (tmp_path / "toy.yaml").write_text(YAML.replace("test: judge", "test: ./learn/"))
    with pytest.raises(UserError, match="train and test are both learn"):
        read_task(str(tmp_path / "toy.yaml"))


def test_images_in_both_sets_are_named_unless_they_are_empty(settings, root):
    for part in ("learn", "judge"):
        Image.new("RGB", (SIDE, SIDE), (240, 240, 240)).save(root / part / "bands" / "glass.png")
    opened(settings, root)
    for number in range(4):
        source = next((root / "learn" / "bands").glob(f"bands-{number:03d}.*"))
        shutil.copy(source, root / "judge" / "bands" / f"copy-{source.name}")
    with pytest.raises(UserError, match=r"copy-bands-000\.tif is learn/bands/bands-000\.tif; .*, \.\.\.\)") as error:
        opened(settings, root)
    assert "003" not in str(error.value)


@pytest.mark.parametrize("place", ["root", "parent", "name"])
def test_synthetic_folders_are_known_as_such(settings, root, place):
    if place == "name":
        path = root / "judge" / "bands" / "bands-000.tif"
        path.rename(path.with_name("bands-RHSL-000.tif"))
    else:
        folder = root if place == "root" else root.parent
        (folder / "cohort.yaml").write_text("name: toy\nrehearsal: true\n")
    assert opened(settings, root).rehearsal


def test_the_two_releases_are_two_tasks(tmp_path):
    plain, raw = read_task("nct-crc-he"), read_task("nct-crc-he-nonorm")
    assert (plain.train, raw.train, plain.test) == ("NCT-CRC-HE-100K", "NCT-CRC-HE-100K-NONORM", raw.test)
    assert plain.name != raw.name
    assert len(plain.classes) == 9
    (tmp_path / "NCT-CRC-HE-100K").mkdir()
    with pytest.raises(UserError, match="NCT-CRC-HE-100K-NONORM is missing"):
        load_task(raw, Request(tmp_path, str(tmp_path)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("train: learn", "train: ''"),
        ("classes: [stripes, bands, speckle]", "classes: [bands, bands]"),
        ("tile: 32", "tile: 100000"),
        ("tile: 32", "mpp: 0"),
        ("validation_share: 0.2", "validation_share: 1.5"),
    ],
)
def test_task_files_with_mistakes_are_refused(tmp_path, change, words):
    path = tmp_path / "toy.yaml"
    path.write_text(YAML.replace(change, words))
    with pytest.raises(UserError, match=words.partition(":")[0]):
        read_task(str(path))


def test_a_store_is_not_a_folder_of_images(settings, root):
    with pytest.raises(UserError, match=r"task\.root=FOLDER instead of store"):
        load_task(settings, Request(root, str(root), "store"))


def call(tmp_path, *settings):
    return main(["classify", f"work={tmp_path / 'work'}", f"records={tmp_path / 'records'}", "device=cpu", *settings])


@pytest.mark.slow
def test_all_engines_leave_records(settings, root, tmp_path, capsys):
    engines = "engines=[knn,linear,linear_10pct,finetune,finetune_1pct]"
    arguments = [f"task={tmp_path / 'toy.yaml'}", f"task.root={root}", "encoder=random", "trials=2", engines]
    assert call(tmp_path, *arguments) == 0
    said = capsys.readouterr().out
    assert "42 tiles, 3 classes" in said
    assert "30 tiles of learn to train and choose on, 12 of judge to test on; no slide is known" in said
    assert "mean RGB has no network to train: no finetune, finetune_1pct" in said
    assert "22 cells scored, 0 already there, 0 crashed" in said
    for record in read_records(tmp_path / "records"):
        assert record.data["task"]["kind"] == "classification"
        units = record.units()
        assert units["cluster"].to_pylist() == units["unit"].to_pylist()
        assert {"macro_f1", "calibration_error"} <= {metric["name"] for metric in record.data["metrics"]}
    assert call(tmp_path, *arguments) == 0
    assert "0 cells scored, 22 already there" in capsys.readouterr().out
    assert call(tmp_path, *arguments, "schedule=short", "engines=[knn]") == 0
    assert "0 cells scored, 6 already there" in capsys.readouterr().out


def test_a_training_that_crashes_leaves_the_others(settings, root, tmp_path, capsys, monkeypatch):
    def fail(self, fit):
        raise RuntimeError("out of memory")

    monkeypatch.setattr("transfer.engines.finetune.Finetune.predict", fail)
    arguments = [f"task={tmp_path / 'toy.yaml'}", f"task.root={root}", "encoder=random", "trials=1", "floors=false"]
    assert call(tmp_path, *arguments, "engines=[finetune,knn]") == 3
    assert "1 cells scored, 0 already there, 1 crashed" in capsys.readouterr().out
    errors = {record.data["engine"]["name"]: record.data["error"] for record in read_records(tmp_path / "records")}
    assert errors == {"finetune": "RuntimeError: out of memory", "knn": None}


def test_the_table_says_that_intervals_are_over_tiles(root, settings, tmp_path):
    arguments = [f"task={tmp_path / 'toy.yaml'}", f"task.root={root}", "encoder=mean_rgb", "floors=false", "trials=1"]
    assert call(tmp_path, *arguments, "engines=[knn]") == 0
    (table,) = build_tables(read_records(tmp_path / "records"), replicates=20)
    assert ": 12 tiles. " in caption(table)
    assert "interval over tiles, as no slide is known" in caption(table)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real tiles: {REAL} is missing; set SGCL_BENCH_REAL_DATA")
def test_the_real_sample_runs_through_the_same_code(tmp_path, capsys):
    arguments = ["task=nct-crc-he", f"task.root={REAL}", "encoder=mean_rgb", "floors=false", "trials=1"]
    assert call(tmp_path, *arguments) == 0
    said = capsys.readouterr().out
    assert "12 tiles, 9 classes" in said
    assert "synthetic" not in said
    assert "not chosen: no validation tiles" in said
    (record, _) = read_records(tmp_path / "records")
    assert not record.data["task"]["rehearsal"]
    assert record.data["task"]["name"] == "nct-crc-he (sample: 12 of 107,180 tiles)"
    assert record.data["notes"] == ["A sample, 12 of 107,180 tiles of the data set: these are no scores of nct-crc-he."]
    assert record.units().num_rows == 3


@pytest.mark.slow
def test_the_rehearsal_cohort_runs_through_the_same_code(tmp_path, capsys):
    from pretrain.cohorts import rehearsal

    rehearsal.generate(tmp_path / "work" / "cohorts" / "rehearsal", slides=3, size_px=1024)
    assert (
        call(tmp_path, "task=nct-crc-he", "encoder=random", "trials=1", "floors=false", "engines=[linear,finetune]")
        == 0
    )
    assert "(synthetic slides)" in capsys.readouterr().out
    for record in read_records(tmp_path / "records"):
        assert record.data["task"]["rehearsal"]
        assert record.data["task"]["name"] == "nct-crc-he"
        assert json.loads(json.dumps(record.data["engine"]["settings"]))
