"""What a table says: records of one task split become rows of encoders and columns of engine x metric."""

import json
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from results import statistics
from results.errors import UserError
from results.metrics import METRICS
from results.record import Record, slug
from results.statistics import Estimate, Trial

OVERLAP = ("clean", "unknown", "same hospital", "same patient", "same slide")
"""Contamination marks from harmless to worst; a row shows the worst of its records."""

PER_ENCODER = ("scale_mismatch",)
"""Engine settings that tell of one encoder, not of the engine: they make a note on the row, never a column."""

_ENGINE_ORDER = ("knn", "linear")


@dataclass(frozen=True)
class Place:
    """Where a record's trial goes: a row (an encoder name, floor or not) and an engine column."""

    floor: bool
    name: str
    engine: str

    def __str__(self) -> str:
        return f"{self.name}, {self.engine}"


@dataclass
class Cell:
    """One encoder under one engine and metric.

    `status` is `ok`, `crashed` (no trial survived) or `not run`. `done` of `planned` trials were scored; pretraining
    seeds under one name count as further trials. `tied`: the best of its column or tied with it. `inside_floor`: not
    shown to beat the best floor of its column.
    """

    status: str
    done: int = 0
    planned: int = 0
    estimate: Estimate | None = None
    tied: bool = False
    inside_floor: bool = False


@dataclass
class Row:
    """One encoder name; `cells` by (engine column, metric)."""

    name: str
    floor: bool
    overlap: str
    seeds: list[int | None]
    cells: dict[tuple[str, str], Cell] = field(default_factory=dict)


@dataclass
class Table:
    """All that is to be printed for one task version and split; `rows` in their final order."""

    task: str
    version: str
    split: str
    stem: str
    rehearsal: bool
    engines: list[str]
    metrics: list[str]
    rows: list[Row]
    trials: str
    slides: int
    tiles: int
    replicates: int
    notes: list[str]


def build_tables(
    records: Sequence[Record], replicates: int = 1000, seed: int = 0, metric: str = "balanced_accuracy"
) -> list[Table]:
    """Turn records into tables, one a task; other versions or splits of a task get tables of their own.

    Args:
        records: as from `read_records`.
        replicates: draws of the bootstrap.
        seed: of the bootstrap.
        metric: the one that orders the rows; it comes first.

    Raises:
        UserError: for an unknown metric, damaged units, metrics that the units do not give, or units of one split that
            disagree on a label or on the classes.
    """
    if metric not in METRICS:
        raise UserError(f"metric={metric} is not known: choose one of {', '.join(METRICS)}.")
    groups: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
    for record in records:
        task = record.data["task"]
        groups[task["name"], str(task["version"]), task["split_digest"]].append(record)
    kinds = Counter(task for task, _, _ in groups)
    tables = []
    for (task, version, split), members in sorted(groups.items()):
        table = _build(members, [metric, *(name for name in METRICS if name != metric)], replicates, seed)
        if kinds[task] > 1:
            table.stem = f"{table.stem}-v{slug(version)}-{slug(split)[:8]}"
            table.notes.append(
                f"{task} has records of {kinds[task]} versions or splits. Their numbers are not comparable, so each "
                f"has a table of its own; this one is version {version}, split {split[:8]}."
            )
        tables.append(table)
    if len({table.stem for table in tables}) != len(tables):
        raise UserError("two tasks or splits would write the same table name: rename one of the tasks.")
    return tables


def _build(records: Sequence[Record], metrics: list[str], replicates: int, seed: int) -> Table:
    engine_of, row_of = _engine_columns(records), _row_names(records)
    cells: dict[Place, list[Record]] = defaultdict(list)
    for record in records:
        cells[Place(*row_of[record.path], engine_of[record.path])].append(record)
    trials = {place: [_trial(record) for record in members if record.ok] for place, members in cells.items()}
    estimates = statistics.bootstrap(trials, metrics, replicates, seed)
    engines = sorted(set(engine_of.values()), key=_engine_rank)
    rows = []
    for floor, name in sorted(set(row_of.values())):
        row = _row(floor, name, [record for record in records if row_of[record.path] == (floor, name)])
        for engine in engines:
            place = Place(floor, name, engine)
            for metric in metrics:
                row.cells[engine, metric] = _cell(cells.get(place, []), estimates.get((place, metric)))
        rows.append(row)
    for engine in engines:
        for metric in metrics:
            _mark(rows, (engine, metric))
    rows.sort(key=lambda row: (row.floor, -_order(row, engines, metrics[0]), row.name))
    first = records[0].data["task"]
    slides = {name for members in trials.values() for trial in members for name in np.unique(trial.cluster).tolist()}
    return Table(
        task=first["name"],
        version=str(first["version"]),
        split=first["split_digest"],
        stem=slug(first["name"]),
        rehearsal=any(record.data["task"]["rehearsal"] for record in records),
        engines=engines,
        metrics=metrics,
        rows=rows,
        trials=_trials_in_words(rows, trials),
        slides=len(slides),
        tiles=max((estimate.tiles for estimate in estimates.values()), default=0),
        replicates=replicates,
        notes=_notes(records, rows, engine_of),
    )


def _engine_columns(records: Sequence[Record]) -> dict[Hashable, str]:
    """Return record path -> column; engines that ran with several settings show those that differ."""
    values: dict[tuple[str, str], set[str]] = defaultdict(set)
    names = {record.data["engine"]["name"] for record in records}
    keys = sorted({key for record in records for key in record.data["engine"]["settings"]} - set(PER_ENCODER))
    for record in records:
        for key in keys:
            values[record.data["engine"]["name"], key].add(_setting(record, key))
    varied = {name: [key for key in keys if len(values[name, key]) > 1] for name in names}
    columns = {}
    for record in records:
        name = record.data["engine"]["name"]
        shown = ", ".join(f"{key}={_setting(record, key)}" for key in varied[name])
        columns[record.path] = f"{name} ({shown})" if shown else name
    return columns


def _setting(record: Record, key: str) -> str:
    return json.dumps(record.data["engine"]["settings"].get(key), sort_keys=True)


def _engine_rank(column: str) -> tuple[int, str]:
    name = column.partition(" (")[0]
    return (_ENGINE_ORDER.index(name) if name in _ENGINE_ORDER else len(_ENGINE_ORDER), column)


def _row_names(records: Sequence[Record]) -> dict[Hashable, tuple[bool, str]]:
    """Return record path -> (is a floor, row name).

    Encoders of one name are pooled when they differ in the seed of their pretraining. When two of one name and seed
    have different weights, they are different encoders: each gets a row with its digest.
    """
    digests: dict[tuple[bool, str], dict[int | None, set[str]]] = defaultdict(lambda: defaultdict(set))
    for record in records:
        encoder = record.data["encoder"]
        digests[encoder["kind"] == "floor", encoder["name"]][encoder["seed"]].add(encoder["digest"])
    names = {}
    for record in records:
        encoder = record.data["encoder"]
        key = (encoder["kind"] == "floor", encoder["name"])
        ambiguous = any(len(of_seed) > 1 for of_seed in digests[key].values())
        names[record.path] = (key[0], f"{key[1]} @{encoder['digest'][:8]}") if ambiguous else key
    return names


def _trial(record: Record) -> Trial:
    """Read a record's units as a trial and hold its stated metrics against them."""
    trial = Trial.of((record.data["seed"], record.data["trial"]), record.units())
    for stated in record.data["metrics"]:
        if stated["name"] not in METRICS:
            continue
        value = METRICS[stated["name"]](trial.predictions, None)
        agrees = np.isnan(value) if stated["value"] is None else abs(stated["value"] - value) <= 1e-6
        if not agrees:
            raise UserError(
                f"{record.path}: field metrics says {stated['name']} = {stated['value']}, but {record.data['units']} "
                f"gives {value:.6f}: the two files are not of one run, delete both and run the cell again."
            )
    return trial


def _row(floor: bool, name: str, records: Sequence[Record]) -> Row:
    overlap = max((record.data["contamination"] for record in records), key=OVERLAP.index)
    seeds = {record.data["encoder"]["seed"] for record in records}
    return Row(name, floor, overlap, sorted(seeds, key=lambda seed: (seed is None, seed)))


def _cell(records: Sequence[Record], estimate: Estimate | None) -> Cell:
    if not records:
        return Cell("not run")
    planned = {(r.data["encoder"]["digest"], r.data["seed"]): r.data["trials"] for r in records}
    done = sum(record.ok for record in records)
    return Cell("ok" if done else "crashed", done, max(sum(planned.values()), len(records)), estimate)


def _mark(rows: Sequence[Row], column: tuple[str, str]) -> None:
    """Mark one column: the best and its ties among complete cells, and pretrained cells inside the floor."""
    cells = {index: row.cells[column] for index, row in enumerate(rows) if row.cells[column].estimate is not None}
    complete = {index: cell.estimate for index, cell in cells.items() if cell.done == cell.planned}
    for index in statistics.tied_with_best(complete):
        cells[index].tied = True
    floors = {index: cell.estimate for index, cell in cells.items() if rows[index].floor}
    best = statistics.best_of(floors)
    if best is None:
        return
    for index, cell in cells.items():
        if not rows[index].floor:
            cell.inside_floor = statistics.inside_floor(cell.estimate, floors[best])


def _order(row: Row, engines: Sequence[str], metric: str) -> float:
    means = [row.cells[engine, metric].estimate for engine in engines]
    means = [estimate.mean() for estimate in means if estimate is not None]
    means = [mean for mean in means if not np.isnan(mean)]
    return float(np.mean(means)) if means else -1.0


def _trials_in_words(rows: Sequence[Row], trials: Mapping[Hashable, Sequence[Trial]]) -> str:
    """Say what the trials are: folds, repeats on the same slides, and whether pretraining seeds are pooled."""
    slides: dict[Hashable, set[str]] = defaultdict(set)
    for trial in (trial for members in trials.values() for trial in members):
        slides[trial.number] |= set(np.unique(trial.cluster).tolist())
    counts = sorted({len(members) for members in trials.values() if members}) or [0]
    words = " to ".join(map(str, sorted({counts[0], counts[-1]}))) + (" trial" if counts == [1] else " trials")
    if len(slides) > 1:
        apart = sum(map(len, slides.values())) == len(set().union(*slides.values()))
        words += " (folds: every test slide in one)" if apart else " (seeds or repeats on shared test slides)"
    return words + (", pretraining seeds pooled" if any(len(row.seeds) > 1 for row in rows) else "")


def _notes(records: Sequence[Record], rows: Sequence[Row], engine_of: Mapping[Hashable, str]) -> list[str]:
    notes = []
    if not any(row.floor for row in rows):
        notes.append("No floor rows: nothing here shows what colour or untrained weights alone would reach.")
    if any(cell.estimate is not None and cell.estimate.tiles_only for row in rows for cell in row.cells.values()):
        notes.append("One test slide only: the interval shows the sampling of its tiles, not of slides.")
    for row in rows:
        if len(row.seeds) > 1:
            notes.append(f"{row.name}: pretraining seeds {', '.join(map(str, row.seeds))} are pooled as trials.")
    marks = {
        f"{record.data['encoder']['name']}: {key.replace('_', ' ')}, {_setting(record, key)}."
        for record in records
        for key in PER_ENCODER
        if key in record.data["engine"]["settings"]
    }
    notes += sorted(marks)
    stores = {record.data["task"]["store_digest"] for record in records}
    if len(stores) > 1:
        notes.append(f"The records come from {len(stores)} tile stores of the same split: pixels may differ.")
    revisions = sorted({record.data["git_revision"] for record in records})
    notes.append(f"Code: {', '.join(revision[:12] for revision in revisions)}.")
    for record in records:
        if not record.ok:
            reason = " ".join(record.data["error"].split())[:160] or "no reason given"
            cell = f"{record.data['encoder']['name']}, {engine_of[record.path]}, trial {record.data['trial']}"
            notes.append(f"crashed: {cell}: {reason} ({record.path.name})")
    return notes
