"""Numbers, marks and what is left out."""

import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from table_toys import lines_of, tables_of

from results.errors import UserError
from results.record import write_record
from results.render import latex, markdown

NUMBER = r"\d\.\d{3} ± \d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\]"


def test_rows_columns_and_numbers(tmp_path, full):
    (table,) = tables_of(tmp_path)
    assert [row.name for row in table.rows] == ["sgcl", "npid", "histogram", "mean_rgb"]
    assert [row.floor for row in table.rows] == [False, False, True, True]
    text = markdown(table)
    rows = lines_of(text)
    assert rows["encoder"][:3] == ["pretraining overlap", "kNN balanced accuracy", "kNN accuracy"]
    assert rows["encoder"][4:7] == ["kNN macro F1", "kNN calibration error ↓", "linear balanced accuracy"]
    assert len(rows["encoder"]) == 11
    for name in ("sgcl", "npid", "histogram", "mean_rgb"):
        assert all(re.search(NUMBER, cell) for cell in rows[name][1:])
    names = list(rows)
    assert names.index("npid") < names.index("*floors, not pretrained:*") < names.index("histogram")
    assert rows["sgcl"][0] == "unknown"
    assert rows["histogram"][0] == "clean"


def test_the_best_is_bold_and_what_is_in_the_floor_has_a_dagger(tmp_path, full):
    (table,) = tables_of(tmp_path)
    rows = lines_of(markdown(table))
    assert rows["sgcl"][1].startswith("**")
    assert "†" not in rows["sgcl"][1]
    assert not rows["npid"][1].startswith("**")
    assert rows["npid"][1].endswith("†")
    assert "†" not in rows["histogram"][1]
    assert "- † inside the floor" in markdown(table)


def test_ties_are_all_bold(tmp_path, whole_row):
    whole_row("a", 0.75)
    whole_row("b", 0.755)
    whole_row("c", 0.40)
    (table,) = tables_of(tmp_path)
    rows = lines_of(markdown(table))
    assert rows["a"][1].startswith("**")
    assert rows["b"][1].startswith("**")
    assert not rows["c"][1].startswith("**")
    assert "No floor rows" in markdown(table)


def test_caption_says_what_every_spread_is(tmp_path, full):
    text = " ".join(markdown(tables_of(tmp_path)[0]).split())
    for fact in (
        "version 1", "split 555555555555", "12 test slide(s)", "360 tiles", "3 trials (folds", "standard deviation between trials",
        "drawn 200 times", "Code: aaaaaaaaaaaa.",
    ):  # fmt: skip
        assert fact in text
    assert "a" * 40 not in text


def test_code_of_a_changed_checkout_keeps_its_mark(tmp_path, cell):
    cell("npid", trial=0)
    cell("npid", trial=1, git_revision="b" * 40 + "-dirty")
    assert "Code: aaaaaaaaaaaa, bbbbbbbbbbbb-dirty." in " ".join(markdown(tables_of(tmp_path)[0]).split())


def test_rehearsal_is_marked_when_any_record_is(tmp_path, cell):
    cell("npid", trial=0)
    cell("npid", trial=1, task__rehearsal=False)
    (table,) = tables_of(tmp_path)
    assert "**rehearsal (synthetic slides)**" in markdown(table).splitlines()[0]
    assert r"\textbf{rehearsal (synthetic slides)}" in latex(table)
    assert "rehearsal (synth" not in markdown(_without_rehearsal(table))


def _without_rehearsal(table):
    table.rehearsal = False
    return table


def test_crashed_cells_are_named(tmp_path, whole_row, cell):
    whole_row("sgcl", 0.8)
    whole_row("npid", 0.6, engines=("knn",))
    for trial in range(3):
        cell("npid", engine="linear", trial=trial, crashed=True, error="ValueError: did not\nconverge")
    (table,) = tables_of(tmp_path)
    rows = lines_of(markdown(table))
    assert rows["npid"][6:] == ["crashed"] * 5
    assert "- crashed: npid, linear, trial 2: ValueError: did not converge (rehearsal-linear-npid-t2-" in markdown(
        table
    )
    assert "& crashed" in latex(table)


def test_a_partly_crashed_or_unfinished_cell_is_incomplete_and_not_the_best(tmp_path, whole_row, cell):
    whole_row("npid", 0.6, engines=("knn",))
    whole_row("worse", 0.2, engines=("knn",))
    cell("sgcl", quality=0.9, trial=0)
    cell("sgcl", quality=0.9, trial=1, crashed=True)
    cell("sgcl", quality=0.9, trial=2)
    (table,) = tables_of(tmp_path)
    rows = lines_of(markdown(table))
    assert rows["sgcl"][1].endswith("‡")
    assert not rows["sgcl"][1].startswith("**")
    assert rows["npid"][1].startswith("**")
    assert "- ‡ incomplete" in markdown(table)
    assert "crashed: sgcl, knn, trial 1" in markdown(table)


def test_a_cell_that_never_ran_is_no_hole(tmp_path, whole_row):
    whole_row("a", 0.7)
    whole_row("b", 0.7, engines=("knn",))
    rows = lines_of(markdown(tables_of(tmp_path)[0]))
    assert rows["b"][6:] == ["not run"] * 5


def test_only_crashes_still_make_a_table(tmp_path, cell):
    cell("npid", crashed=True)
    text = markdown(tables_of(tmp_path)[0])
    assert lines_of(text)["npid"][1:] == ["crashed"] * 5
    assert "0 trials" in text


def test_one_trial_has_no_plus_minus(tmp_path, cell):
    cell("npid", trials=1)
    (table,) = tables_of(tmp_path)
    rows = lines_of(markdown(table))
    assert re.fullmatch(r"\d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\]", rows["npid"][1])


def test_nothing_is_bold_where_every_row_is_tied(tmp_path, record_of, units_of):
    for trial in range(3):
        units = units_of(0.5, fold=trial)
        wrong = pa.array((units["label"].to_numpy() + 1) % 3, pa.int32())
        units = units.set_column(units.column_names.index("predicted"), "predicted", wrong)
        for name in ("a", "b"):
            write_record(tmp_path / "records", record_of(name, trial=trial, units=units), units)
    rows = lines_of(markdown(tables_of(tmp_path, metric="accuracy")[0]))
    assert [rows[name][1].partition(" [")[0] for name in ("a", "b")] == ["0.000 ± 0.000"] * 2


def test_contamination_shows_the_worst_of_a_row(tmp_path, cell):
    cell("a", trial=0, contamination="clean")
    cell("a", trial=1, contamination="same patient")
    cell("a", trial=2, contamination="same hospital")
    assert lines_of(markdown(tables_of(tmp_path)[0]))["a"][0] == "same patient"


def test_rows_follow_the_chosen_metric(tmp_path, full):
    (table,) = tables_of(tmp_path, metric="macro_auroc")
    assert table.metrics[0] == "macro_auroc"
    means = [row.cells["knn", "macro_auroc"].estimate.mean() for row in table.rows if not row.floor]
    assert means == sorted(means, reverse=True)
    with pytest.raises(UserError, match="balanced_accuracy"):
        tables_of(tmp_path, metric="dice")


def test_metrics_that_the_units_do_not_give_are_refused(tmp_path, cell, units_of):
    path = cell("npid", quality=0.9)
    pq.write_table(units_of(0.2), path.with_suffix(".parquet"))
    with pytest.raises(UserError, match=f"{path.name}: field metrics says balanced_accuracy"):
        tables_of(tmp_path)


def test_units_that_disagree_on_labels_are_refused(tmp_path, cell):
    cell("a")
    cell("b", trials=2)
    with pytest.raises(UserError, match=r"b, knn.*other labels"):
        tables_of(tmp_path)
