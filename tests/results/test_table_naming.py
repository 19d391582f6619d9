"""What is one row, one column and one table, and how they are called."""

import csv
import json

import pytest
from table_toys import tables_of

from results.render import long_csv, markdown


def test_versions_and_splits_are_not_mixed(tmp_path, whole_row):
    whole_row("a", 0.7, engines=("knn",))
    whole_row("a", 0.7, engines=("knn",), task__split_digest="9" * 64)
    whole_row("a", 0.7, engines=("knn",), task__version=2)
    tables = tables_of(tmp_path)
    assert [table.stem for table in tables] == [
        "rehearsal-v1-55555555",
        "rehearsal-v1-99999999",
        "rehearsal-v2-55555555",
    ]
    for table in tables:
        assert "3 versions or splits" in markdown(table)
        assert table.rows[0].cells["knn", "accuracy"].done == 3


def test_pretraining_seeds_are_pooled_as_trials(tmp_path, whole_row):
    whole_row("sgcl", 0.7, engines=("knn",), encoder__seed=0, encoder__digest="first")
    whole_row("sgcl", 0.7, engines=("knn",), encoder__seed=1, encoder__digest="second")
    whole_row("rgb", 0.5, kind="floor", engines=("knn",))
    (table,) = tables_of(tmp_path)
    assert [row.name for row in table.rows] == ["sgcl", "rgb"]
    cell = table.rows[0].cells["knn", "accuracy"]
    assert (cell.done, cell.planned, len(cell.estimate.values)) == (6, 6, 6)
    assert not cell.inside_floor
    assert "pretraining seeds pooled" in markdown(table)
    assert "| sgcl, 2 seeds |" in markdown(table)
    assert "| rgb |" in markdown(table)
    assert "sgcl: 2 pretraining seeds (0, 1) are pooled as trials." in markdown(table)


def test_a_row_names_the_seed_and_the_run_that_were_scored(tmp_path, whole_row):
    whole_row("sgcl", 0.7, engines=("knn",), encoder__seed=7, encoder__run="sgcl-cohort-1")
    whole_row("npid", 0.7, engines=("knn",), encoder__seed=0, encoder__digest="first", encoder__run="npid-cohort-1")
    whole_row("npid", 0.7, engines=("knn",), encoder__seed=1, encoder__digest="second", encoder__run="npid-cohort-2")
    (table,) = tables_of(tmp_path)
    text = markdown(table)
    assert "| sgcl, seed 7 |" in text
    assert "- sgcl: run sgcl-cohort-1 (seed 7)." in text
    assert "- npid: runs npid-cohort-1 (seed 0), npid-cohort-2 (seed 1)." in text
    rows = {
        row["encoder"]: (row["pretraining_seeds"], row["runs"]) for row in csv.DictReader(long_csv(table).splitlines())
    }
    assert rows == {"sgcl": ("7", "sgcl-cohort-1"), "npid": ("0 1", "npid-cohort-1; npid-cohort-2")}


def test_notes_of_records_stand_under_the_table_once(tmp_path, whole_row):
    whole_row("sgcl", 0.7, engines=("knn",), notes=["Test and training share slides."])
    text = markdown(tables_of(tmp_path)[0])
    assert text.count("- Test and training share slides.") == 1


def test_a_call_with_fewer_trials_is_part_of_one_with_more(tmp_path, cell):
    for trial in range(3):
        cell("a", trial=trial)
    (first,) = (tmp_path / "records").glob("*-t0-*.json")
    data = json.loads(first.read_text())
    first.write_text(json.dumps({**data, "trials": 1}))
    cells = tables_of(tmp_path)[0].rows[0].cells
    assert (cells["knn", "accuracy"].done, cells["knn", "accuracy"].planned) == (3, 3)


def test_a_schedule_tells_columns_apart_by_its_name(tmp_path, whole_row):
    whole_row("a", 0.7, engines=("knn",), engine__settings={"schedule": "smoke", "steps": 4, "heads": {"b": 1}})
    whole_row("a", 0.7, engines=("knn",), engine__settings={"schedule": "short", "steps": 9, "heads": {"b": 2}})
    assert tables_of(tmp_path)[0].engines == ["knn (schedule=short)", "knn (schedule=smoke)"]


def test_other_weights_of_the_same_name_and_seed_get_their_own_row(tmp_path, whole_row):
    whole_row("sgcl", 0.7, engines=("knn",), encoder__digest="aaaaaaaa11")
    whole_row("sgcl", 0.6, engines=("knn",), encoder__digest="bbbbbbbb22")
    (table,) = tables_of(tmp_path)
    assert [row.name for row in table.rows] == ["sgcl @aaaaaaaa", "sgcl @bbbbbbbb"]


def test_engine_settings_that_differ_are_columns_and_those_of_an_encoder_are_notes(tmp_path, whole_row):
    whole_row("a", 0.7, engines=("knn",), engine__settings={"k": 20})
    whole_row("a", 0.7, engines=("knn",), engine__settings={"k": 5})
    whole_row("b", 0.7, engines=("knn",), engine__settings={"k": 5, "scale_mismatch": {"tiles": 64}})
    (table,) = tables_of(tmp_path)
    assert table.engines == ["knn (k=20)", "knn (k=5)"]
    assert "kNN (k=5) accuracy" in markdown(table)
    assert 'b: scale mismatch, {"tiles": 64}.' in markdown(table)


@pytest.mark.parametrize(
    ("schedule", "told"), [("smoke", True), ({"name": "smoke", "rounds": 1}, True), ("full", False), (None, False)]
)
def test_a_smoke_schedule_is_called_one(tmp_path, whole_row, schedule, told):
    whole_row("a", 0.7, engines=("knn",), engine__settings={"schedule": schedule} if schedule else {})
    assert ("Schedule smoke (knn)" in markdown(tables_of(tmp_path)[0])) == told


def test_slides_decoded_to_different_pixels_are_warned_of(tmp_path, whole_row):
    whole_row("a", 0.7, engines=("knn",), task__decoder="1" * 64)
    assert "decoded by" not in markdown(tables_of(tmp_path)[0])
    whole_row("b", 0.6, engines=("knn",), task__decoder="2" * 64, encoder__card={"data": {"decoder": "3" * 64}})
    text = markdown(tables_of(tmp_path)[0])
    assert "The test tiles of these rows were decoded by 2 sets of libraries" in text
    assert "pretraining tiles" not in text
