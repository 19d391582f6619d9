"""The files that are written, and the command that writes them."""

import csv
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from table_toys import tables_of

from results.__main__ import main
from results.render import escape_latex, latex, long_csv, markdown, write_tables

ROOT = Path(__file__).resolve().parents[2]


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
