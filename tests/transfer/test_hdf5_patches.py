"""PatchCamelyon as a task: its own split, its slides, patches read when they are asked for."""

import os
import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest
from hdf5_toys import PREFIX, hdf5, write_pcam

from results.errors import UserError
from results.record import read_records
from transfer.__main__ import main
from transfer.overlap import mark
from transfer.tasks import Request, load_task, read_task


@pytest.fixture
def root(tmp_path):
    return write_pcam(tmp_path / "pcam")


def load(root, tmp_path, **changes):
    request = Request(tmp_path / "work", str(root), None, 2, 0)
    return load_task(read_task("pcam"), replace(request, **changes))


def card(slides, patients=(), hospitals=(), **data):
    seen = {"slides": list(slides), "patients": list(patients), "hospitals": list(hospitals)}
    return {"data": {"seen": seen, "rehearsal": False, "store_digest": "x", **data}}


def test_the_published_parts_are_the_split_and_patches_are_those_of_the_files(root, tmp_path):
    task = load(root, tmp_path)
    assert (task.name, task.classes, len(task.tiles), task.trials, task.rehearsal) == (
        "pcam (sample: 48 of 327,680 patches)",
        ("normal", "tumor"),
        48,
        2,
        False,
    )
    split = task.splits[0]
    assert [len(rows) for rows in (split.train, split.validation, split.test)] == [24, 12, 12]
    assert task.units[split.test[3]] == "test/3"
    assert task.clusters[split.test[3]] == "test_002"
    assert task.clusters[split.train[0]] == "tumor_001"
    assert task.labels[:4].tolist() == [0, 0, 1, 1]
    rows = np.array([40, 2, 30, 2])
    found = task.read(rows)
    for row, tile in zip(rows, found, strict=True):
        part, number = task.units[row].split("/")
        with h5py.File(root / f"{PREFIX}{part}_x.h5") as file:
            assert (tile == file["x"][int(number)]).all()
    assert load(root.parent, tmp_path).split_digest == task.split_digest


def test_a_changed_byte_changes_the_digest_and_unchanged_files_are_not_read_again(root, tmp_path, monkeypatch):
    before = load(root, tmp_path).split_digest
    import transfer.tasks.hdf5_patches as module

    read = []
    monkeypatch.setattr(module, "file_digest", lambda path: read.append(path.name) or "0" * 64)
    assert load(root, tmp_path).split_digest == before
    assert read == []
    path = root / f"{PREFIX}valid_x.h5"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    os.utime(path, ns=(1, 1))
    assert load(root, tmp_path).split_digest != before
    assert read == [path.name]


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (card(["test_002"], ["test_002"], ["RUMC"]), "same slide"),
        (card(["Test_2.tif"]), "same slide"),
        (card(["camelyon16_test_002"]), "same slide"),
        (card(["tumor_001", "normal_004"], ["tumor_001", "normal_004"], ["RUMC", "UMCU"]), "same hospital"),
        (card(["slide_a"], ["p1"], ["elsewhere"]), "clean"),
        (card(["slide_a"]), "unknown"),
        ({"data": {"rehearsal": False, "store_digest": "x"}}, "unknown"),
        (None, "unknown"),
    ],
)
def test_an_encoder_that_saw_camelyon16_is_marked(root, tmp_path, seen, expected):
    assert mark(seen, "run", load(root, tmp_path), 0) == expected


def harm_missing(root):
    (root / f"{PREFIX}test_x.h5").unlink()


def harm_packed(root):
    os.replace(root / f"{PREFIX}valid_y.h5", root / f"{PREFIX}valid_y.h5.gz")


def harm_no_table(root):
    (root / f"{PREFIX}test_meta.csv").unlink()


def harm_short_table(root):
    path = root / f"{PREFIX}test_meta.csv"
    path.write_text("\n".join(path.read_text().split("\n")[:-3]))


def harm_long_table(root):
    path = root / f"{PREFIX}test_meta.csv"
    path.write_text(path.read_text() + "12,1,1,True,True,camelyon16_test_009\n")


def harm_other_table(root):
    path = root / f"{PREFIX}test_meta.csv"
    path.write_text(path.read_text().replace("wsi", "slide"))


def harm_nul_table(root):
    (root / f"{PREFIX}test_meta.csv").write_bytes(b"wsi\n\xff\xfe\0\n")


def harm_cut(root):
    path = root / f"{PREFIX}train_x.h5"
    os.truncate(path, path.stat().st_size - 1)


def harm_other_shape(root):
    hdf5(root / f"{PREFIX}train_x.h5", "x", np.zeros((24, 64, 64, 3)))


def harm_other_count(root):
    hdf5(root / f"{PREFIX}train_y.h5", "y", np.zeros((23, 1, 1, 1)))


def harm_other_key(root):
    hdf5(root / f"{PREFIX}train_y.h5", "z", np.zeros((24, 1, 1, 1)))


def harm_other_label(root):
    hdf5(root / f"{PREFIX}train_y.h5", "y", np.full((24, 1, 1, 1), 2))


def harm_one_class(root):
    hdf5(root / f"{PREFIX}test_y.h5", "y", np.zeros((12, 1, 1, 1)))


def harm_wide_items(root):
    hdf5(root / f"{PREFIX}train_y.h5", "y", np.zeros((24, 1, 1, 1)), np.int16)


def harm_link(root):
    (root / f"{PREFIX}train_x.h5").unlink()
    with h5py.File(root / f"{PREFIX}train_x.h5", "w") as file:
        file["x"] = h5py.ExternalLink(f"{PREFIX}test_x.h5", "/x")


def harm_bytes(root):
    path = root / f"{PREFIX}test_x.h5"
    path.write_bytes(path.read_bytes()[:8] + b"\xff" * 200)


def harm_shared_slide(root):
    path = root / f"{PREFIX}test_meta.csv"
    path.write_text(path.read_text().replace("camelyon16_test_001", "camelyon16_train_tumor_001"))


def harm_no_hdf5(root):
    (root / f"{PREFIX}test_x.h5").write_bytes(b"")


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (harm_missing, "test_x.h5 is missing: give task.root=FOLDER"),
        (harm_packed, "valid_y.h5 is still packed: unpack it with"),
        (harm_no_table, "test_meta.csv is missing: without it no slide is known"),
        (harm_short_table, "has 10 rows for 12 patches"),
        (harm_long_table, "row 14 fits no patch"),
        (harm_other_table, "has no column wsi"),
        (harm_nul_table, "cannot be read as a UTF-8 table"),
        (harm_cut, "is cut short"),
        (harm_other_shape, r"holds \(24, 64, 64, 3\) instead of \('n', 96, 96, 3\)"),
        (harm_other_count, r"holds \(23, 1, 1, 1\) instead of \(24, 1, 1, 1\)"),
        (harm_other_key, "has no data set 'y', but z"),
        (harm_other_label, "has the label 2, and there are 2 classes"),
        (harm_one_class, "has patches of fewer than 2 classes"),
        (harm_wide_items, "elements of int16, not rows of bytes"),
        (harm_link, "train_x.h5 has a link or a group under the name 'x'"),
        (harm_bytes, "test_x.h5 is a damaged HDF5 file"),
        (harm_shared_slide, "slide tumor_001 is in train and in test"),
        (harm_no_hdf5, "test_x.h5 is empty"),
    ],
)
def test_what_is_wrong_with_the_files_is_one_sentence(root, tmp_path, harm, words):
    harm(root)
    with pytest.raises(UserError, match=words) as error:
        load(root, tmp_path)
    assert "\n" not in str(error.value)


def test_a_store_or_no_folder_is_refused(root, tmp_path):
    with pytest.raises(UserError, match="instead of store="):
        load(root, tmp_path, store="work/tiles/x")
    with pytest.raises(UserError, match=r"there is no pcam data: give task\.root=FOLDER"):
        load_task(read_task("pcam"), Request(tmp_path / "work", None))


def test_a_file_that_is_cut_later_is_named(root, tmp_path):
    task = load(root, tmp_path)
    os.truncate(root / f"{PREFIX}test_x.h5", 3000)
    with pytest.raises(UserError, match=r"test_x\.h5 is cut short: 3,000 bytes"):
        task.read(np.array([47]))


def test_cells_are_scored_and_marked(root, tmp_path, capsys):
    arguments = [
        "classify",
        "task=pcam",
        f"task.root={root}",
        "encoder=mean_rgb",
        "floors=false",
        "trials=1",
        "engines=[linear]",
    ]
    assert main([*arguments, f"work={tmp_path / 'work'}", f"records={tmp_path / 'records'}"]) == 0
    assert "12 slides train, 6 validate, 6 test" in capsys.readouterr().out
    for record in read_records(tmp_path / "records"):
        assert record.data["task"]["name"] == "pcam (sample: 48 of 327,680 patches)"
        assert not record.data["task"]["rehearsal"]
        assert record.data["metrics"][0]["value"] == 1.0
        assert set(record.units()["cluster"].to_pylist()) == {f"test_{n:03d}" for n in range(1, 7)}


def test_a_copy_elsewhere_is_the_same_task(root, tmp_path):
    shutil.copytree(root, tmp_path / "other")
    assert load(tmp_path / "other", tmp_path).split_digest == load(root, tmp_path).split_digest
