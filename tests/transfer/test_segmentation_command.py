import pytest
from bcss_toys import write_bcss

from results.errors import UserError
from results.record import read_records
from transfer.dense import open_dense
from transfer.engines.mmseg import MmsegEngine
from transfer.segment import Settings, load, segment

TINY = {
    "iterations": 1,
    "batch": 2,
    "crop": 32,
    "tile": 64,
    "warmup": 0,
    "validate_every": 1,
    "window": 64,
    "overlap": 8,
}


def settings(root, **changes):
    own = {
        "encoder": ["random"],
        "root": str(root / "bcss"),
        "work": str(root / "work"),
        "records": str(root / "records"),
    }
    return Settings(**{**own, "device": "cpu", "trials": 2, "options": TINY, **changes})


def opened(settings):
    return open_dense(settings, "segmentation", "bcss", lambda: MmsegEngine("fcn", "smoke"))[0]


@pytest.mark.slow
def test_cells_and_the_majority_class_are_recorded_once(tmp_path, capsys):
    write_bcss(tmp_path / "bcss")
    assert segment(settings(tmp_path)) == 0
    records = read_records(tmp_path / "records")
    assert sorted((r.data["encoder"]["name"] == "majority class", r.data["trial"]) for r in records) == [
        (False, 0), (False, 1), (True, 0), (True, 1),
    ]  # fmt: skip
    for record in records:
        assert record.ok
        assert record.data["task"]["kind"] == "segmentation"
        assert record.data["engine"]["name"] == "fcn"
        assert record.data["encoder"]["kind"] == "floor"
        assert record.units().num_rows == 1
    said = capsys.readouterr().out
    assert "4 of 151 regions" in said
    assert "majority class, fcn, trial 2 of 2" in said
    assert said.splitlines()[-1].startswith("4 cells scored, 0 already there, 0 crashed")
    assert "iteration 1 of 1, loss" in said
    assert "predicting 1 test regions" in said
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "records").iterdir()}
    assert segment(settings(tmp_path)) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "records").iterdir()} == written


def test_a_transformer_is_refused_before_anything_is_written(tmp_path):
    write_bcss(tmp_path / "bcss")
    with pytest.raises(UserError, match="vit_small cannot be used for segmentation"):
        segment(settings(tmp_path, backbone="vit_small"))
    assert not (tmp_path / "records").exists()


def test_arguments_are_read_and_the_unknown_is_told():
    read = load(["task.root=somewhere", "engine=upernet", "schedule=full", "encoder=[latest,random]"])
    assert (read.root, read.engine, read.schedule, read.encoder) == (
        "somewhere",
        "upernet",
        "full",
        ["latest", "random"],
    )
    for wrong in ("shedule=full", "schedule=long", "trials=0"):
        with pytest.raises(UserError):
            load([wrong])


def test_a_task_is_a_yaml_of_ones_own(tmp_path):
    write_bcss(tmp_path / "bcss")
    own = tmp_path / "own.yaml"
    own.write_text("name: mine\nversion: 3\nkind: bcss\ngrouping: eva\nmpp: 0.6\ntest: [OL]\nvalidation: []\n")
    task = opened(settings(tmp_path, task=str(own)))
    assert (task.name, task.version, task.mpp, len(task.splits)) == ("mine", 3, 0.6, 2)
    assert task.splits[0].validation == ()
    for text, told in (("kind: pannuke\n", "kind 'pannuke'"), ("kind: tile_labels\n", "kind 'tile_labels'"), ("kind: bcss\nmmp: 1\n", "mmp")):  # fmt: skip
        own.write_text(text)
        with pytest.raises(UserError, match=told):
            opened(settings(tmp_path, task=str(own)))
    with pytest.raises(UserError, match="task 'bcsss'"):
        opened(settings(tmp_path, task="bcsss"))
