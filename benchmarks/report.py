"""`python -m benchmarks report SUITE`: the variants of a suite side by side, against its base, with what the auditor found."""

import json
import shlex
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.suite import Suite, load_suite, plans, run_name
from results.errors import UserError
from results.files import write_text
from results.record import Record, read_records, slug
from results.statistics import Estimate, Trial, bootstrap, difference, paired_t_interval, percentile_interval

SETS = ("spatial", "semantic", "mined")
METRIC = "balanced_accuracy"


@dataclass
class Line:
    """One variant: its runs by seed, their trials by engine, and what the auditor said of each."""

    name: str
    trials: dict[str, dict[int, list[Trial]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    audits: list[dict[str, Any]] = field(default_factory=list)


def report(spec: str, arguments: list[str]) -> Path:
    """Write the comparison of a suite's variants as Markdown and return its path.

    Every number is over the trials (folds) of all seeds; intervals come from one bootstrap over test slides and their tiles that
    all variants share, so that differences are paired. Beside each difference stand those of the single pretraining seeds and the
    interval of a paired t over them: a difference is bold when both intervals leave 0 out.

    Raises:
        UserError: when no base is named, or a run of it was not scored yet.
    """
    name, suite = load_suite(spec, arguments)
    if suite.base is None:
        raise UserError(f"suite {name} names no base to compare with: give base=ROW, one of {', '.join(plans(suite))}.")
    lines = gather(name, suite)
    engines = sorted({engine for line in lines for engine in line.trials}, key=lambda e: (e != "knn", e))
    path = Path(suite.tables) / f"{slug(name)}-variants.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    command = shlex.join(["python", "-m", "benchmarks", "report", spec, *arguments])
    write_text(path, "\n".join(page(command, suite, lines, engines)) + "\n")
    return path


def gather(name: str, suite: Suite) -> list[Line]:
    """Find the records and audits of every run of the suite."""
    of_digest: dict[str, list[Record]] = defaultdict(list)
    for record in read_records(suite.records):
        card = record.data["encoder"]["card"]
        if (
            card is not None
            and record.ok
            and (suite.task is None or record.data["task"]["name"].startswith(suite.task))
        ):
            of_digest[card["digest"]].append(record)
    lines, missing = [], []
    for plan, own in plans(suite).items():
        line = Line(plan)
        for seed in suite.seeds:
            run = Path(suite.work) / "runs" / run_name(name, suite, plan, own, seed)
            card = _json(run / "export" / "card.json")
            records = of_digest.get(card["digest"], []) if card else []
            if not records:
                missing.append(run.name)
            for record in records:
                number = (record.data["seed"], record.data["trial"])
                line.trials[record.data["engine"]["name"]][seed].append(Trial.of(number, record.units()))
            audit = _json(run / "audit" / "audit.json")
            line.audits += [audit] if audit else []
        lines.append(line)
    if missing:
        raise UserError(
            f"{len(missing)} runs of {name} are not scored yet, such as {missing[0]}: run 'python -m benchmarks run {name}' first."
        )
    return lines


def _json(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def page(command: str, suite: Suite, lines: Sequence[Line], engines: Sequence[str]) -> list[str]:
    """Return the lines of the Markdown page."""
    columns = {engine: _column(lines, suite.base, engine) for engine in engines}
    head = ["variant"]
    for engine in engines:
        head += [f"{engine} balanced accuracy", f"{engine} minus {suite.base}", "by seed", "over seeds"]
    head += [f"{kind} purity" for kind in SETS] + ["\\|S\\|"]
    rows = [head, ["---"] * len(head)]
    for line in lines:
        cells = [line.name]
        for engine in engines:
            cells += columns[engine][line.name]
        rows.append(
            [*cells, *(_purity(line, kind) for kind in SETS), _mean([_size(audit) for audit in line.audits], 1)]
        )
    return [
        f"Made by `{command}`, seeds {', '.join(map(str, suite.seeds))}. Mean over seeds and folds, ",
        "± standard deviation over seeds, [95 % interval over test slides and tiles]; differences are paired on the same draws. Over seeds:",
        "95 % interval of a paired t, which holds the luck of training and not that of the slides. Bold: both intervals leave 0 out. Nothing is",
        "corrected for the number of rows. Purity: share of a set's labelled tiles that have the anchor's label, at the last epoch, mean over seeds.",
        "",
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def _column(lines: Sequence[Line], base: str, engine: str) -> dict[str, list[str]]:
    pooled = {line.name: [t for trials in line.trials[engine].values() for t in trials] for line in lines}
    single = {(line.name, seed): trials for line in lines for seed, trials in line.trials[engine].items()}
    estimates = {row: value for (row, _), value in bootstrap({**pooled, **single}, [METRIC]).items()}
    cells = {}
    for line in lines:
        seeds = sorted(line.trials[engine])
        means = [estimates[line.name, seed].mean() for seed in seeds]
        score = _score(estimates[line.name], float(np.std(means, ddof=1)) if len(means) > 1 else float("nan"))
        if line.name == base:
            cells[line.name] = [score, "", "", ""]
            continue
        delta = estimates[line.name].mean() - estimates[base].mean()
        by_seed = [estimates[line.name, s].mean() - estimates[base, s].mean() for s in seeds if (base, s) in estimates]
        over_slides = percentile_interval(difference(estimates[line.name], estimates[base]))
        over_seeds = paired_t_interval(by_seed)
        clear = "**" if all(low > 0 or high < 0 for low, high in (over_slides, over_seeds)) else ""
        cells[line.name] = [
            score,
            f"{clear}{delta:+.3f} {_signed(over_slides)}{clear}",
            " ".join(f"{value:+.2f}" for value in by_seed),
            "-" if np.isnan(over_seeds[0]) else _signed(over_seeds),
        ]
    return cells


def _score(estimate: Estimate, spread: float) -> str:
    low, high = estimate.interval()
    return f"{estimate.mean():.3f} ± {spread:.3f} [{low:.3f}, {high:.3f}]"


def _signed(interval: tuple[float, float]) -> str:
    return f"[{interval[0]:+.3f}, {interval[1]:+.3f}]"


def _purity(line: Line, kind: str) -> str:
    found = [((audit["sets"] or {}).get(kind) or {}).get("label") for audit in line.audits]
    return _mean([label["all"]["share"] for label in found if label and label["all"]], 3)


def _size(audit: dict[str, Any]) -> float:
    found = (audit["sets"] or {}).get("semantic")
    return found["size"]["mean"] if found else float("nan")


def _mean(values: Sequence[float], digits: int) -> str:
    values = [value for value in values if value is not None and not np.isnan(value)]
    return f"{np.mean(values):.{digits}f}" if values else "-"
