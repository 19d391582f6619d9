"""`python -m benchmarks run SUITE`: pretrain, score, lay out, and say what it cost."""

import dataclasses
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.report import report
from benchmarks.steps import SOME_FAILED, Runner
from benchmarks.suite import Suite, audit_commands, load_suite, pretrain_commands, table_command, transfer_command
from results import provenance
from results.errors import UserError
from results.files import write_json


def run_suite(spec: str, arguments: list[str], runner: Runner | None = None) -> int:
    """Run every step of a suite; a step whose result is there already does nothing by itself.

    A step that ends with 3 (some slides or cells failed and were named) does not stop the suite; any other status but 0 does.
    `<work>/suites/<suite>-<time>/suite.json` is written in every case.

    Returns:
        0; 3 when a step ended so; the status of the step that stopped the suite; 128 + n after signal n.

    Raises:
        UserError: for an unknown suite or a wrong setting.
    """
    name, suite = load_suite(spec, arguments)
    runner = runner or Runner()
    started, start = provenance.now(), time.perf_counter()
    mistake: UserError | None = None
    with runner.forwarding():
        status = _steps(name, suite, runner)
        if suite.base is not None and status in (0, SOME_FAILED) and not runner.stopped_by:
            try:
                print(f"compared in {report(spec, arguments)}", flush=True)
            except UserError as error:  # told after what the steps cost is kept
                mistake = error
    wall = time.perf_counter() - start
    folder = _folder(Path(suite.work), name)
    write_json(
        folder / "suite.json",
        {
            "schema": 1,
            "suite": name,
            "settings": dataclasses.asdict(suite),
            "status": status,
            "wall_seconds": round(wall, 3),
            "steps": [dataclasses.asdict(step) for step in runner.steps],
            "versions": provenance.versions(),
            "hardware": provenance.hardware(),
            "git_revision": provenance.git_revision(),
            "started": started,
            "created": provenance.now(),
        },
    )
    print(summary(runner, folder / "suite.json", status, wall), flush=True)
    if mistake is not None:
        raise mistake
    return status


def _steps(name: str, suite: Suite, runner: Runner) -> int:
    pretraining = pretrain_commands(name, suite)
    stages: list[Callable[[], dict[str, tuple[str, list[str]]]]] = [
        lambda: {run.rpartition("-")[0]: ("pretrain", own) for run, own in pretraining.items()},
        lambda: {run: ("pretrain", own) for run, own in audit_commands(suite, list(pretraining)).items()},
        lambda: {"transfer": ("transfer", transfer_command(suite, list(pretraining)))},
        lambda: {"table": ("results", table_command(suite))},
    ]
    if suite.jobs > 1 and len(pretraining) > 1:  # side by side they would cut the same slides
        stages.insert(0, lambda: {"tile": ("pretrain", ["tile", *next(iter(pretraining.values()))])})
    status = 0
    for stage in stages:
        steps = runner.run_all(stage(), suite.jobs)
        stopping = [step.status for step in steps if not step.goes_on]
        if runner.stopped_by:
            return stopping[0] if stopping else 128 + runner.stopped_by
        if stopping:
            return stopping[0]
        status = max([status, *(step.status for step in steps)])
    return status


def _folder(work: Path, name: str) -> Path:
    base = f"{name}-{datetime.now(UTC).strftime('%Y%m%dT%H%M%S')}"
    folder, count = work / "suites" / base, 1
    while folder.exists():
        count += 1
        folder = work / "suites" / f"{base}.{count}"
    return folder


def summary(runner: Runner, path: Path, status: int, wall: float) -> str:
    """Return the cost of the steps as a small table, with where it is kept."""
    lines = ["", f"{'step':<20} {'wall s':>8} {'cpu s':>8} {'peak MiB':>9}  status"]
    for step in runner.steps:
        lines.append(
            f"{step.name:<20} {step.wall_seconds:>8.1f} {step.cpu_seconds:>8.1f} {step.peak_rss_mib:>9.0f}  {step.status}"
        )
    cpu = sum(step.cpu_seconds for step in runner.steps)
    peak = max((step.peak_rss_mib for step in runner.steps), default=0.0)
    lines.append(f"{'all':<20} {wall:>8.1f} {cpu:>8.1f} {peak:>9.0f}  {status}")
    lines.append(f"kept in {path}")
    return "\n".join(lines)
