import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from results.__main__ import main
from results.errors import UserError
from results.record import read_records, write_record
from results.render import escape_latex, latex, long_csv, markdown, write_tables
from results.table import build_tables

ROOT = Path(__file__).resolve().parents[2]
NUMBER = r"\d\.\d{3} ± \d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\]"


def tables_of(tmp_path, **options):
    return build_tables(read_records(tmp_path / "records"), replicates=options.pop("replicates", 200), **options)


def lines_of(text):
    """Markdown table rows as name -> cells."""
    rows = [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line.startswith("| ")
    ]
    return {row[0].strip().removesuffix(", seed 0"): row[1:] for row in rows}


@pytest.fixture
def full(whole_row):
    whole_row("npid", 0.62)
    whole_row("sgcl", 0.80)
    whole_row("mean_rgb", 0.40, kind="floor")
    whole_row("histogram", 0.61, kind="floor")


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


def test_tables_of_another_naming_go_and_strangers_stay(tmp_path, whole_row):
    whole_row("a", 0.7, engines=("knn",))
    out = tmp_path / "tables"
    out.mkdir()
    (out / "notes.md").write_text("mine")
    (out / "rehearsal-v2-mine.md").write_text("mine")
    first = write_tables(tables_of(tmp_path), out)
    assert sorted(path.suffix for path in first) == [".csv", ".md", ".tex"]
    whole_row("a", 0.7, engines=("knn",), task__version=2)
    write_tables(tables_of(tmp_path), out)
    assert not (out / "rehearsal.md").exists()
    assert (out / "rehearsal-v2-55555555.md").exists()
    shutil.rmtree(tmp_path / "records")
    whole_row("a", 0.7, engines=("knn",))
    write_tables(tables_of(tmp_path), out)
    assert sorted(path.name for path in out.iterdir()) == [
        "notes.md", "rehearsal-v2-mine.md", "rehearsal.csv", "rehearsal.md", "rehearsal.tex",
    ]  # fmt: skip


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


def test_nothing_is_bold_where_every_row_is_tied(tmp_path, record_of, units_of):
    for trial in range(3):
        units = units_of(0.5, fold=trial)
        wrong = pa.array((units["label"].to_numpy() + 1) % 3, pa.int32())
        units = units.set_column(units.column_names.index("predicted"), "predicted", wrong)
        for name in ("a", "b"):
            write_record(tmp_path / "records", record_of(name, trial=trial, units=units), units)
    rows = lines_of(markdown(tables_of(tmp_path, metric="accuracy")[0]))
    assert [rows[name][1].partition(" [")[0] for name in ("a", "b")] == ["0.000 ± 0.000"] * 2


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


def test_csv_holds_every_number(tmp_path, full, cell):
    cell("broken", crashed=True)
    (table,) = tables_of(tmp_path)
    rows = list(csv.DictReader(long_csv(table).splitlines()))
    assert len(rows) == 5 * 2 * 5
    found = {(row["encoder"], row["engine"], row["metric"]): row for row in rows}
    sgcl = found["sgcl", "knn", "balanced_accuracy"]
    assert float(sgcl["low"]) < float(sgcl["mean"]) < float(sgcl["high"])
    assert float(sgcl["sd"]) > 0
    assert (sgcl["trials"], sgcl["slides"], sgcl["tiles"], sgcl["unit"]) == ("3", "12", "360", "fraction")
    assert (sgcl["best_or_tied"], sgcl["inside_floor"], sgcl["rehearsal"]) == ("true", "false", "true")
    broken = found["broken", "knn", "accuracy"]
    assert (broken["status"], broken["mean"], broken["trials"], broken["planned_trials"]) == ("crashed", "", "0", "3")


def test_latex_is_escaped_and_balanced(tmp_path, whole_row, cell):
    whole_row("100%_a&b#{$x^2~\\}", 0.7)
    cell("broken", crashed=True, error="KeyError: 'a_b' <50% & more>")
    text = latex(tables_of(tmp_path)[0])
    assert r"100\%\_a\&b\#\{\$x\textasciicircum{}2\textasciitilde{}\textbackslash{}\}" in text
    assert r"'a\_b' \textless{}50\% \& more\textgreater{}" in text
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1
    assert not re.search(r"[±†‡↓]", text)
    assert r"$\pm$" in text
    bare = re.sub(r"\\[{}]", "", text.replace("\\\\", ""))
    assert bare.count("{") == bare.count("}")
    body = text[text.index(r"\begin{tabular}") :]
    columns = {len(re.findall(r"(?<!\\)&", line)) for line in body.splitlines() if line.endswith(r" \\")}
    assert columns == {11}
    assert "toprule" not in text


def test_escape_latex_leaves_plain_text():
    assert escape_latex("kNN accuracy 0.5 [a]") == "kNN accuracy 0.5 [a]"


def test_markdown_names_cannot_break_the_table(tmp_path, cell):
    cell("a|b*c")
    text = markdown(tables_of(tmp_path)[0])
    assert r"| a\|b\*c, seed 0 |" in text


def test_command_writes_and_prints(tmp_path, full, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status = main(["table", "records=records", "out=tables", "replicates=100", "metric=accuracy"])
    printed = capsys.readouterr().out
    assert status == 0
    assert printed == (tmp_path / "tables" / "rehearsal.md").read_text(encoding="utf-8")
    assert sorted(path.name for path in (tmp_path / "tables").iterdir()) == [
        "rehearsal.csv",
        "rehearsal.md",
        "rehearsal.tex",
    ]


def test_command_gives_the_same_table_twice(tmp_path, full):
    for name in ("first", "second"):
        main(["table", f"records={tmp_path / 'records'}", f"out={tmp_path / name}", "replicates=100"])
    for suffix in (".md", ".tex", ".csv"):
        texts = {(tmp_path / name / f"rehearsal{suffix}").read_bytes() for name in ("first", "second")}
        assert len(texts) == 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "no command is given"),
        (["chart"], "write `python -m results table`"),
        (["tabel"], "did you mean 'table'?"),
        (["table", "replicate=5"], "did you mean 'replicates'?"),
        (["table", "replicates=5"], "100 or more"),
        (["table", "replicates=many"], "a whole number"),
        (["table", "seed=-1"], "0 or more"),
        (["table", "records=absent"], "absent does not exist"),
    ],
)
def test_mistakes_exit_2_and_write_nothing(tmp_path, capsys, monkeypatch, arguments, reason):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert reason in error
    assert list(tmp_path.iterdir()) == []


def test_help_is_light():
    code = "import sys; from results.__main__ import main; main(['table', '--help']); print([m for m in ('numpy', 'pyarrow', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "replicates=1000" in done.stdout
    assert done.stdout.strip().endswith("[]")


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
