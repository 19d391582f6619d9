import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from transfer_toys import TILE, write_export, write_store

from pretrain.tiles import TileStore
from results.record import read_records
from transfer import classify as module
from transfer.__main__ import main
from transfer.cells import Cell, scale_mismatch
from transfer.classify import HELP, Settings, load
from transfer.encoders.colour import MeanRgb
from transfer.engines.linear import Linear
from transfer.overlap import mark
from transfer.tasks.tile_labels import TileLabels, load_tile_task


@pytest.fixture
def work(tmp_path):
    write_store(tmp_path / "work" / "tiles" / "toy-1", per_slide=16)
    write_export(tmp_path / "work" / "runs" / "sgcl-toy-1")
    return tmp_path / "work"


def call(work, *settings):
    return main(["classify", f"work={work}", f"records={work.parent / 'records'}", "device=cpu", *settings])


def cells_of(work):
    return {
        (r.data["encoder"]["name"], r.data["engine"]["name"], r.data["trial"]): r
        for r in read_records(work.parent / "records")
    }


@pytest.mark.parametrize("encoder", ["WRONG", "latest:WRONG", "imagenet", "[random,WRONG]", "runs"])
def test_an_encoder_that_is_not_there_is_told_before_tiles_are_read(work, capsys, monkeypatch, encoder):
    monkeypatch.setattr(module, "_open_task", lambda settings: pytest.fail("the task was opened"))
    assert call(work, f"encoder={encoder if encoder != 'runs' else work / 'runs'}") == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1


def test_places_and_devices_that_are_not_there_are_told_before_tiles_are_read(work, capsys, monkeypatch):
    monkeypatch.setattr(module, "_open_task", lambda settings: pytest.fail("the task was opened"))
    (work.parent / "file").write_text("")
    file = work.parent / "file"
    for words, told in (
        ((f"records={file}",), "records="),
        ((f"work={file}", "encoder=random", f"task.root={work}", "task=nct-crc-he"), "work="),
        (("device=mps",), "device=mps"),
        ((f"imagenet={work}",), "imagenet="),
    ):
        assert call(work, "check=true", *words) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"error: {told}")
        assert said.count("\n") == 1


def test_a_name_of_digits_is_the_name_that_was_typed(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    typed = {
        "2024_11": ["2024_11"],
        "on": ["on"],
        "[random,~/a.pth]": ["random", "/home/me/a.pth"],
        "a #1.pth": ["a #1.pth"],
    }
    assert {text: load([f"encoder={text}"]).encoder for text in typed} == typed
    assert load(["engines=[knn,linear,knn]"]).engines == ["knn", "linear"]


def test_all_cheap_mistakes_are_told_at_once(work, capsys):
    assert call(work, "encoder=WRONG", "store=WRONG", "task=tiles") == 2
    said = capsys.readouterr().err
    assert said.index("encoder 'WRONG'") < said.index("And: tile store")
    assert said.count("\n") == 1
    assert call(work, "encoder=WRONG", "task=WRONG") == 2
    said = capsys.readouterr().err
    assert "encoder 'WRONG'" in said
    assert "task 'WRONG'" in said


def test_a_call_leaves_a_record_for_every_cell_and_the_next_call_has_nothing_to_do(work, capsys):
    assert call(work) == 0
    said = capsys.readouterr().out
    assert "no ImageNet row" in said
    assert "24 cells scored, 0 already there, 0 crashed" in said
    records = cells_of(work)
    names = {"sgcl on toy", f"random (resnet18, {TILE} px)", "mean RGB", "colour histogram"}
    assert set(records) == {
        (name, engine, trial) for name in names for engine in ("knn", "linear") for trial in range(3)
    }
    for (name, _, _), record in records.items():
        assert record.data["task"]["name"] == "rehearsal-tiles"
        assert record.data["task"]["rehearsal"]
        assert record.data["encoder"]["kind"] == ("run" if name.startswith("sgcl") else "floor")
        assert record.data["contamination"] == ("unknown" if name.startswith("sgcl") else "clean")
        assert record.units().num_rows > 10
    assert records["sgcl on toy", "knn", 0].data["encoder"]["coverage"]["share"] == 1
    assert records["sgcl on toy", "knn", 0].data["encoder"]["run"] == "sgcl-toy-1"
    assert "sgcl on toy: run sgcl-toy-1, seed 0" in said
    assert "knn     sgcl on toy, seed 0  trial 1/3" in said
    files = {path: path.stat().st_mtime_ns for path in (work.parent / "records").iterdir()}
    assert call(work) == 0
    assert "0 cells scored, 24 already there" in capsys.readouterr().out
    assert call(work, "trials=1") == 0
    assert "0 cells scored, 8 already there" in capsys.readouterr().out
    assert files == {path: path.stat().st_mtime_ns for path in (work.parent / "records").iterdir()}
    assert call(work, "floors=false", "seed=1", "engines=[knn]", "trials=2") == 0
    assert "2 cells scored" in capsys.readouterr().out


def test_a_check_counts_the_cells_and_scores_none(work, capsys):
    assert call(work, "check=true") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "24 cells: 24 to run"
    assert not (work.parent / "records").exists()
    assert call(work, "floors=false", "engines=[knn]") == 0
    assert call(work, "check=true", "floors=false") == 0
    assert (
        capsys.readouterr().out.splitlines()[-1] == f"6 cells, 3 of them already in {work.parent / 'records'}: 3 to run"
    )


def test_features_are_extracted_once_an_encoder_and_once_a_trial_for_untrained_weights(work, monkeypatch):
    calls = []
    monkeypatch.setattr(module, "extract", lambda encoder, *rest: calls.append(encoder.name) or extract(encoder, *rest))
    assert call(work, "max_tiles_per_slide=6") == 0
    assert sorted(calls) == ["colour histogram", "mean RGB", *[f"random (resnet18, {TILE} px)"] * 3, "sgcl on toy"]


extract = module.extract


def test_a_repeated_run_gives_the_same_units(work):
    settings = ("encoder=random", "floors=false", "trials=1")
    assert call(work, *settings) == 0
    first = {key: record.units() for key, record in cells_of(work).items()}
    for path in (work.parent / "records").iterdir():
        path.unlink()
    assert call(work, *settings, "batch_size=7") == 0
    for key, record in cells_of(work).items():
        assert record.units().drop_columns("score_bands").num_rows == first[key].num_rows
        for column in ("unit", "label", "predicted"):
            assert record.units()[column] == first[key][column]


def test_a_cell_that_crashes_is_recorded_and_the_others_go_on(work, capsys, monkeypatch):
    def fail(self, fit):
        raise ValueError("no plane\nfound")

    monkeypatch.setattr(Linear, "predict", fail)
    assert call(work, "encoder=mean_rgb", "floors=false") == 3
    shown = capsys.readouterr()
    assert "crashed: ValueError: no plane found" in shown.err
    assert "3 cells scored, 0 already there, 3 crashed" in shown.out
    assert {r.data["error"] for r in read_records(work.parent / "records") if not r.ok} == {
        "ValueError: no plane found"
    }
    monkeypatch.undo()
    assert call(work, "encoder=mean_rgb", "floors=false") == 0
    assert "3 cells scored, 3 already there" in capsys.readouterr().out
    assert all(record.ok for record in read_records(work.parent / "records"))


def test_a_damaged_shard_crashes_the_cells_of_every_encoder_but_not_the_command(work, capsys):
    shard = work / "tiles" / "toy-1" / "shards" / "slide_03.lmdb"
    shard.write_bytes(b"damage" * 2000)
    assert call(work, "encoder=[mean_rgb,colour_histogram]", "floors=false", "trials=1", "engines=[knn]") == 3
    errors = [record.data["error"] for record in read_records(work.parent / "records")]
    assert len(errors) == 2
    assert all("slide_03" in error for error in errors)


def test_test_labels_change_nothing_but_scores(store):
    task = load_tile_task(TileLabels(), store, 3, 0)
    cell = Cell(task, MeanRgb(), "linear", 0, 0)
    features = module.extract(MeanRgb(), task, 64)
    before = cell.predict(features)
    test = task.splits[0].test
    task.labels[test] = np.random.default_rng(0).permutation(task.labels[test])
    after = cell.predict(features)
    np.testing.assert_array_equal(before.scores, after.scores)
    assert before.remark == after.remark
    assert cell.units(before)["label"] == cell.units(after)["label"]


def test_units_are_the_test_tiles_with_their_slide_and_label(store):
    task = load_tile_task(TileLabels(), store, 3, 0)
    cell = Cell(task, MeanRgb(), "knn", 0, 1)
    units = cell.units(cell.predict(module.extract(MeanRgb(), task, 64)))
    ids = units["unit"].to_numpy()
    assert units["cluster"].to_pylist() == store.index["slide"][ids].tolist()
    names = [name.removeprefix("score_") for name in units.column_names if name.startswith("score_")]
    assert [names[code] for code in units["label"].to_pylist()] == store.index["label"][ids].tolist()
    assert set(ids) == set(task.tiles[task.splits[1].test])


def test_contamination_follows_the_store_of_the_card(store):
    task = load_tile_task(TileLabels(), store, 3, 0)
    tested = sorted(set(task.clusters[task.splits[0].test]))
    for data, found in [
        ({"store_digest": store.digest, "rehearsal": True}, "same slide"),
        ({"store_digest": "0", "rehearsal": True}, "unknown"),
        ({"store_digest": "0", "rehearsal": False}, "clean"),
        ({"rehearsal": True, "seen": {"slides": tested[:1], "patients": [], "hospitals": []}}, "same slide"),
    ]:
        assert mark({"data": data}, "run", task, 0) == found
    assert mark(None, "floor", task, 0) == "clean"
    assert mark(None, "file", task, 0) == "unknown"


def test_another_scale_is_warned_of_and_recorded(tmp_path, capsys):
    work = tmp_path / "work"
    store = TileStore(write_store(work / "tiles" / "fine", mpp=0.25, per_slide=16))
    write_export(work / "runs" / "r")
    assert call(work, "floors=false", "trials=1", "engines=[knn]") == 0
    assert (
        "warning: sgcl on toy was trained on tiles of 32 px at 0.5 um/px, these are 32 px at 0.25"
        in capsys.readouterr().err
    )
    (record,) = read_records(tmp_path / "records")
    expected = {"tiles": {"px": TILE, "mpp": 0.25}, "encoder": {"px": TILE, "mpp": 0.5}}
    assert record.data["encoder"]["coverage"]["scale_mismatch"] == expected
    task = load_tile_task(TileLabels(), store, 3, 0)
    encoder = MeanRgb()
    for seen, same in [
        ({"mpp": 0.26, "tile": 32}, True),
        ({"mpp": 0.25, "tile": 64}, False),
        ({"mpp": 0.25}, True),
        ({}, True),
    ]:
        encoder.card = {"input": seen}
        assert (scale_mismatch(encoder, task) is None) == same


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["encodr=latest"], "did you mean 'encoder'"),
        (["trials=many"], "trials=many"),
        (["trials=0"], "trials=0"),
        (["batch_size=0"], "batch_size=0"),
        (["engines=[svm]"], "knn, linear"),
        (["schedule=long"], "smoke, short, full"),
        (["task.root=elsewhere"], "add task=nct-crc-he"),
        (["task=rehearsal", "task.root=elsewhere"], "folders of images"),
        (["encoder=[]"], "no encoder was named"),
        (["task=nuclei"], "choose camelyon16-tiles, nct-crc-he"),
        (["store=elsewhere"], "elsewhere"),
        (["encoder=elsewhere"], "elsewhere"),
        (["max_tiles_per_slide=0"], "max_tiles_per_slide=0"),
        (["device=warp"], "device=warp"),
        (["imagenet=missing.pth"], "missing.pth"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(work, capsys, arguments, words):
    assert call(work, *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert words in error
    assert not (work.parent / "records").exists()


def test_records_that_cannot_be_written_are_found_out_first(work, capsys):
    (work.parent / "file").write_text("")
    assert call(work, f"records={work.parent / 'file' / 'records'}") == 2
    assert "cannot be made" in capsys.readouterr().err


def test_settings_have_the_documented_defaults():
    for line in HELP.splitlines():
        key, separator, text = line.strip().split(" ")[0].partition("=")
        field = key.removeprefix("task.")
        if separator and line.startswith("  ") and hasattr(Settings(), field):
            expected = load([f"{key}={text}"])
            assert getattr(expected, field) == getattr(load([]), field), line


def test_help_needs_no_torch():
    code = "import sys, transfer.__main__ as m; assert m.main(['--help']) == m.main(['classify', '--help']) == m.main([]) == 0; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")
    assert main(["decide"]) == 2


@pytest.mark.slow
def test_sigterm_ends_with_143_and_keeps_whole_records(work):
    records = work.parent / "records"
    command = [
        sys.executable,
        "-m",
        "transfer",
        "classify",
        f"work={work}",
        f"records={records}",
        "device=cpu",
        "trials=6",
    ]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 400
    while not list(records.glob("[!.]*.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=60)
    assert child.returncode == 143
    assert 0 < len(read_records(records)) < 48
    assert not [path for path in records.iterdir() if path.name.startswith(".")]
    assert json.loads(next(records.glob("[!.]*.json")).read_text())["status"] == "ok"
