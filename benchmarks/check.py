"""The settings of the runs of a suite, looked at before the first one trains."""

import subprocess
import sys

from benchmarks.suite import load_suite, plans, pretrain_commands
from results.errors import UserError


def check_runs(spec: str, arguments: list[str]) -> None:
    """Ask `python -m pretrain --settings` of every row but the first, which is looked at when it starts: no mistake costs hours of other rows.

    Raises:
        UserError: what pretrain says of the first row that it refuses.
    """
    name, suite = load_suite(spec, arguments)
    rows = list(plans(suite))
    commands = list(pretrain_commands(name, suite).values())[: len(rows)]
    for row, own in list(zip(rows, commands, strict=True))[1:]:
        command = [sys.executable, "-m", "pretrain", "--settings", *own]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace")
        if done.returncode:
            said = (done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"])[-1]
            raise UserError(f"row '{row}' of suite {name}: {said.removeprefix('error: ')}")
