"""A table as Markdown, plain LaTeX and long-form CSV."""

import csv
import io
import math
import re
from pathlib import Path

from results.files import write_text
from results.notes import percent
from results.record import slug
from results.table import Cell, Row, Table

ENGINES = {
    "knn": "kNN",
    "fcn": "FCN",
    "upernet": "UPerNet",
    "faster_rcnn_fpn": "Faster R-CNN FPN",
    "faster_rcnn_c4": "Faster R-CNN C4",
}
LATEX_COLUMNS = 10
"""Columns of numbers that a LaTeX page has room for."""
REHEARSAL = "rehearsal (synthetic slides)"

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "''", "±": r"$\pm$", "†": r"$\dagger$", "‡": r"$\ddagger$", "–": "--", "↓": r"$\downarrow$",
    "\n": " ",
}  # fmt: skip

CSV_COLUMNS = (
    "task", "kind", "version", "split_digest", "rehearsal", "encoder", "floor", "weights_loaded", "pretraining_overlap",
    "engine", "metric", "unit", "status", "mean", "sd", "low", "high", "trials", "planned_trials", "slides", "{units}",
    "best_or_tied", "inside_floor", "pretraining_seeds", "runs",
)  # fmt: skip
"""`{units}` stands for what was scored: tiles, regions or images."""


def escape_latex(text: str) -> str:
    """Return `text` with every character that LaTeX reads as a command made literal."""
    return "".join(_LATEX.get(character, character) for character in text)


def _escape_markdown(text: str) -> str:
    return re.sub(r"([\\`*|<>])", r"\\\1", " ".join(text.split()))


def cell_text(cell: Cell) -> tuple[str, str]:
    """Return a cell's number, such as `0.612 ± 0.021 [0.570, 0.655]`, and its marks, such as `†‡`.

    Without a number it is `crashed`, `not run` or `undefined`; with a single trial there is no ±.
    """
    if cell.estimate is None:
        return cell.status, ""
    mean, sd = cell.estimate.mean(), cell.estimate.sd()
    low, high = cell.estimate.interval()
    if math.isnan(mean):
        return "undefined", ""
    spread = "" if math.isnan(sd) else f" ± {sd:.3f}"
    marks = ("†" if cell.inside_floor else "") + ("‡" if cell.done < cell.planned else "")
    return f"{mean:.3f}{spread} [{low:.3f}, {high:.3f}]", marks


def _headers(table: Table, engines: list[str]) -> list[str]:
    names = []
    for engine in engines:
        plain, bracket, settings = engine.partition(" (")
        names += [f"{ENGINES.get(plain, plain)}{bracket}{settings} {table.titles[metric]}" for metric in table.metrics]
    return names


def _name(row: Row) -> str:
    """Return a row's name with the seed of its pretraining, or how many seeds are pooled, and what was loaded of it."""
    seeds = (
        "" if row.seeds == [None] else f", seed {row.seeds[0]}" if len(row.seeds) == 1 else f", {len(row.seeds)} seeds"
    )
    return f"{row.name}{seeds}" + ("" if row.loaded >= 1 else f" ({percent(row.loaded)} loaded)")


def _cells(table: Table, row: Row, engines: list[str]) -> list[Cell]:
    return [row.cells[engine, metric] for engine in engines for metric in table.metrics]


def caption(table: Table) -> str:
    """Say in words what each number of the table is."""
    arrow = " (↓: the lowest is best)" if any("↓" in title for title in table.titles.values()) else ""
    size, drawn = (
        f"{table.slides} test slide(s), {table.units} {table.noun}",
        f"test slides, and {table.noun} within them,",
    )
    if not table.slides and table.units:
        size, drawn = f"{table.units} {table.noun}", f"{table.noun}, as no slide is known (so it is too narrow),"
    return (
        f"Task version {table.version}, split {table.split[:12]}: {size}. "
        f"Fractions, mean over {table.trials}; ± is the standard deviation between trials, not an error of the mean. "
        f"[low, high] is the 95 % interval over {drawn} drawn {table.replicates} times, "
        "the same for every row; it holds no randomness of training. Bold: the best of the column and all whose paired "
        f"difference from it may be 0{arrow}, none where that is all of them. Pretraining overlap: what the pretraining shares with the test slides."
    )


def footnotes(table: Table) -> list[str]:
    """Return the notes under the table: its marks first, then its own."""
    texts = [cell_text(cell) for row in table.rows for cell in _cells(table, row, table.engines)]
    notes = []
    if any("†" in marks for _, marks in texts):
        notes.append("† inside the floor: the paired difference from the best floor row may be 0 or is negative.")
    if any("‡" in marks for _, marks in texts):
        notes.append("‡ incomplete: fewer trials than planned, so it is not in the running for the best.")
    if any(text == "undefined" for text, _ in texts):
        notes.append(
            "undefined: no trial has what this metric needs (its classes; probabilities for a calibration error)."
        )
    return notes + table.notes


def markdown(table: Table) -> str:
    """Return the table as GitHub Markdown."""
    title = f"# {_escape_markdown(table.task)} (version {table.version})"
    if table.rehearsal:
        title += f": **{REHEARSAL}**"
    headers = ["encoder", "pretraining overlap", *_headers(table, table.engines)]
    lines = [_line(headers), _line(["---"] * len(headers))]
    in_floors = False
    for row in table.rows:
        if row.floor and not in_floors:
            lines.append(_line(["*floors, not pretrained:*"] + [""] * (len(headers) - 1)))
            in_floors = True
        cells = []
        for cell in _cells(table, row, table.engines):
            text, marks = cell_text(cell)
            cells.append((f"**{text}**" if cell.tied else text) + marks)
        lines.append(_line([_escape_markdown(_name(row)), row.overlap, *cells]))
    notes = [f"- {_escape_markdown(note)}" for note in footnotes(table)]
    return "\n".join([title, "", _escape_markdown(caption(table)), "", *lines, "", *notes]) + "\n"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def latex(table: Table) -> str:
    """Return the table as a LaTeX float that needs no package; intervals stand under their means.

    Engines that would make it too wide follow below in a tabular of their own.
    """
    title = f"{escape_latex(table.task)} (version {escape_latex(table.version)})"
    if table.rehearsal:
        title += rf": \textbf{{{REHEARSAL}}}"
    lines = [
        r"\begin{table}[t]", r"\centering\scriptsize\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{title}. {escape_latex(caption(table))}}}",
    ]  # fmt: skip
    together = max(1, LATEX_COLUMNS // len(table.metrics))
    for first in range(0, len(table.engines), together):
        lines += _tabular(table, table.engines[first : first + together])
    lines.append(r"\raggedright")
    lines += [escape_latex(note) + r"\par" for note in footnotes(table)]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def _tabular(table: Table, engines: list[str]) -> list[str]:
    headers = ["encoder", "pretraining overlap", *_headers(table, engines)]
    stacked = [_stack(escape_latex(name).split(" ", 1)) for name in headers]
    lines = [rf"\begin{{tabular}}{{ll{'c' * (len(headers) - 2)}}}", r"\hline", " & ".join(stacked) + r" \\", r"\hline"]
    above = None
    for row in table.rows:
        if above is not None and row.floor and not above.floor:
            lines.append(r"\hline")
        above = row
        cells = [_latex_cell(cell) for cell in _cells(table, row, engines)]
        lines.append(" & ".join([escape_latex(_name(row)), escape_latex(row.overlap), *cells]) + r" \\")
    return [*lines, r"\hline", r"\end{tabular}", ""]


def _latex_cell(cell: Cell) -> str:
    text, marks = cell_text(cell)
    parts = [escape_latex(part) for part in text.partition(" [")[::2]]
    parts = [parts[0], f"[{parts[1]}"] if parts[1] else parts[:1]
    parts = [rf"\textbf{{{part}}}" for part in parts] if cell.tied else parts
    return _stack([parts[0] + escape_latex(marks), *parts[1:]])


def _stack(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else rf"\shortstack{{{parts[0]}\\{{}}{parts[1]}}}"


def long_csv(table: Table) -> str:
    """Return every number as one CSV line a row, engine and metric; empty where there is none."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([name.format(units=table.noun) for name in CSV_COLUMNS])
    for row in table.rows:
        for (engine, metric), cell in row.cells.items():
            numbers = ["", "", "", ""]
            counts = ["", ""]
            if cell.estimate is not None:
                values = (cell.estimate.mean(), cell.estimate.sd(), *cell.estimate.interval())
                numbers = ["" if math.isnan(value) else f"{value:.6f}" for value in values]
                counts = [cell.estimate.slides, cell.estimate.tiles]
            writer.writerow([
                table.task, table.kind, table.version, table.split, _truth(table.rehearsal), row.name, _truth(row.floor),
                f"{row.loaded:g}", row.overlap, engine, metric, "fraction", cell.status, *numbers, cell.done, cell.planned, *counts,
                _truth(cell.tied), _truth(cell.inside_floor), " ".join(str(seed) for seed in row.seeds if seed is not None),
                "; ".join(run for run, _ in row.runs),
            ])  # fmt: skip
    return text.getvalue()


def _truth(value: bool) -> str:
    return "true" if value else "false"


def write_tables(tables: list[Table], out: Path | str) -> list[Path]:
    """Write `<stem>.md`, `.tex` and `.csv` of every table into folder `out`.

    When the splits of a task have come together or apart since the last time, its tables of the other naming are
    removed, so that no old number stays beside the new ones.
    """
    out = Path(out)
    written = []
    for table in tables:
        for suffix, render in ((".md", markdown), (".tex", latex), (".csv", long_csv)):
            path = out / f"{table.stem}{suffix}"
            write_text(path, render(table))
            written.append(path)
    for path in sorted(out.glob("*.*")):
        if path.suffix in (".md", ".tex", ".csv") and path not in written and _replaced(path.stem, tables):
            path.unlink()
    return written


def _replaced(stem: str, tables: list[Table]) -> bool:
    """Tell whether this table name is one that these tables' tasks had under other splits."""
    tasks = {slug(table.task) for table in tables}
    return stem in tasks or re.sub(r"-v[a-z0-9]+-[0-9a-f]{8}$", "", stem) in tasks
