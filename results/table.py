"""What a table says: records of one task split become rows of encoders and columns of engine x metric."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from results import statistics
from results.errors import UserError
from results.kinds import KINDS, Kind
from results.metrics import METRICS, score_all
from results.naming import engine_columns, engine_rank, row_names
from results.notes import notes_of, trials_in_words
from results.record import Record, slug
from results.statistics import Estimate, Trial

OVERLAP = ("clean", "unknown", "same hospital", "same patient", "same slide")
"""Contamination marks from harmless to worst; a row shows the worst of its records."""


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
    seeds under one name count as further trials. `tied`: the best of its column or tied with it, where others are not.
    `inside_floor`: not shown to beat the best floor of its column.
    """

    status: str
    done: int = 0
    planned: int = 0
    estimate: Estimate | None = None
    tied: bool = False
    inside_floor: bool = False


@dataclass
class Row:
    """One encoder name; `cells` by (engine column, metric). `loaded` is the least share of weights that any record loaded.

    `seeds` are those of the pretraining (None where there was none), `runs` its run folders by seed, as far as records name them.
    """

    name: str
    floor: bool
    overlap: str
    seeds: list[int | None]
    runs: list[tuple[str, int | None]]
    loaded: float = 1.0
    cells: dict[tuple[str, str], Cell] = field(default_factory=dict)


@dataclass
class Table:
    """All that is to be printed for one task version and split; `rows` in their final order.

    `titles` are the names of `metrics` in print, `units` counts the scored tiles, regions or images (`noun`).
    """

    task: str
    kind: str
    noun: str
    version: str
    split: str
    stem: str
    rehearsal: bool
    engines: list[str]
    metrics: list[str]
    titles: dict[str, str]
    rows: list[Row]
    trials: str
    slides: int
    units: int
    replicates: int
    notes: list[str]


def build_tables(
    records: Sequence[Record],
    replicates: int = 1000,
    seed: int = 0,
    metric: str | None = None,
    per_class: bool = False,
) -> list[Table]:
    """Turn records into tables, one a task; other versions or splits of a task get tables of their own.

    Args:
        records: as from `read_records`.
        replicates: draws of the bootstrap.
        seed: of the bootstrap.
        metric: the one that orders the rows; it comes first. Tables of another kind of task keep their own order.
        per_class: whether to show the metrics of single classes, where a kind has such.

    Raises:
        UserError: for a metric that none of the records has, damaged units, metrics that the units do not give, or
            units of one split that disagree on the truth or on the classes.
    """
    if metric is not None:
        _check_metric(metric, records)
    groups: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
    for record in records:
        task = record.data["task"]
        groups[task["name"], str(task["version"]), task["split_digest"]].append(record)
    kinds = Counter(task for task, _, _ in groups)
    tables = []
    for (task, version, split), members in sorted(groups.items()):
        _check_kind(members)
        table = _build(members, metric, per_class, replicates, seed)
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


def _check_metric(metric: str, records: Sequence[Record]) -> None:
    kinds = {record.kind for record in records}
    stated = {stated["name"] for record in records for stated in record.data["metrics"]}
    if any(metric in METRICS[kind] or (metric in stated and _of_one_class(metric, kind)) for kind in kinds):
        return
    names = [name for kind in sorted(kinds) for name in METRICS[kind]]
    raise UserError(f"metric={metric} is of none of these records: choose one of {', '.join(names)}.")


def _of_one_class(metric: str, kind: str) -> bool:
    prefix = KINDS[kind].per_class_prefix
    return bool(prefix) and metric.startswith(prefix)


def _check_kind(records: Sequence[Record]) -> None:
    first = records[0]
    for record in records:
        if record.kind != first.kind:
            raise UserError(
                f"{record.path} is of {record.kind} and {first.path} of {first.kind}, under one task name, version and split: "
                "rename one of the tasks."
            )


def _shown(kind: Kind, classes: Sequence[str], metric: str | None, per_class: bool) -> dict[str, str]:
    """Return the metrics of a table in their order, name -> name in print; an arrow marks where lower is better."""
    known = kind.all_metrics(classes)
    names = [*(known if per_class else kind.metrics)]
    if metric in known:
        names = [metric, *(name for name in names if name != metric)]
    return {name: known[name].title + (" ↓" if known[name].lower_is_better else "") for name in names}


def _build(records: Sequence[Record], metric_first: str | None, per_class: bool, replicates: int, seed: int) -> Table:
    kind = KINDS[records[0].kind]
    engine_of, row_of = engine_columns(records), row_names(records)
    cells: dict[Place, list[Record]] = defaultdict(list)
    for record in records:
        cells[Place(*row_of[record.path], engine_of[record.path])].append(record)
    trials = {place: [_trial(record) for record in members if record.ok] for place, members in cells.items()}
    answers = [trial.answers for members in trials.values() for trial in members]
    titles = _shown(kind, answers[0].classes if answers else (), metric_first, per_class)
    metrics = list(titles)
    estimates = statistics.bootstrap(trials, metrics, replicates, seed)
    engines = sorted(set(engine_of.values()), key=engine_rank)
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
    slides = {
        name
        for members in trials.values()
        for trial in members
        if not np.array_equal(trial.cluster, trial.unit)  # a unit that is its own cluster: no slide is known
        for name in np.unique(trial.cluster).tolist()
    }
    return Table(
        task=first["name"],
        kind=records[0].kind,
        noun=kind.units,
        version=str(first["version"]),
        split=first["split_digest"],
        stem=slug(first["name"]),
        rehearsal=any(record.data["task"]["rehearsal"] for record in records),
        engines=engines,
        metrics=metrics,
        titles=titles,
        rows=rows,
        trials=trials_in_words(rows, trials),
        slides=len(slides),
        units=max((estimate.tiles for estimate in estimates.values()), default=0),
        replicates=replicates,
        notes=kind.remarks(answers) + notes_of(records, rows, engine_of),
    )


def _trial(record: Record) -> Trial:
    """Read a record's units as a trial and hold its stated metrics against them."""
    trial = Trial.of((record.data["seed"], record.data["trial"]), record.units())
    scored = score_all(trial.answers)
    for stated in record.data["metrics"]:
        if stated["name"] not in scored:
            continue
        value = scored[stated["name"]]
        agrees = np.isnan(value) if stated["value"] is None else abs(stated["value"] - value) <= 1e-6
        if not agrees:
            raise UserError(
                f"{record.path}: field metrics says {stated['name']} = {stated['value']}, but {record.data['units']} "
                f"gives {value:.6f}: the two files are not of one run, delete both and run the cell again."
            )
    return trial


def _row(floor: bool, name: str, records: Sequence[Record]) -> Row:
    overlap = max((record.data["contamination"] for record in records), key=OVERLAP.index)
    encoders = [record.data["encoder"] for record in records]
    seeds = {encoder["seed"] for encoder in encoders}
    runs = {(encoder["run"], encoder["seed"]) for encoder in encoders if encoder.get("run")}
    loaded = min(record.loaded for record in records)
    return Row(
        name,
        floor,
        overlap,
        sorted(seeds, key=lambda seed: (seed is None, seed)),
        sorted(runs, key=lambda run: (run[1] is None, run[1] or 0, run[0])),
        loaded,
    )


def _cell(records: Sequence[Record], estimate: Estimate | None) -> Cell:
    if not records:
        return Cell("not run")
    planned: dict[tuple[str, int], int] = defaultdict(int)
    for record in records:  # a call with fewer trials is part of one with more
        of = record.data["encoder"]["digest"], record.data["seed"]
        planned[of] = max(planned[of], record.data["trials"])
    done = sum(record.ok for record in records)
    return Cell("ok" if done else "crashed", done, max(sum(planned.values()), len(records)), estimate)


def _mark(rows: Sequence[Row], column: tuple[str, str]) -> None:
    """Mark one column: the best and its ties among complete cells, and pretrained cells inside the floor.

    Where every complete cell is tied, such as at 0, none is marked as the best.
    """
    cells = {index: row.cells[column] for index, row in enumerate(rows) if row.cells[column].estimate is not None}
    complete = {index: cell.estimate for index, cell in cells.items() if cell.done == cell.planned}
    tied = statistics.tied_with_best(complete)
    if any(index not in tied and not math.isnan(estimate.mean()) for index, estimate in complete.items()):
        for index in tied:
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
    means = [estimate.goodness() for estimate in means if estimate is not None]
    means = [mean for mean in means if not np.isnan(mean)]
    return float(np.mean(means)) if means else -math.inf
