"""`python -m results table`: records in, tables out."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields

from results.errors import UserError, meant, told


@dataclass
class TableSettings:
    """Settings of `python -m results table`."""

    records: str = "results/records"
    out: str = "results/tables"
    replicates: int = 1000
    seed: int = 0
    metric: str | None = None
    per_class: bool = False


_MEANING = {
    "records": "folder of records (JSON with parquet beside it)",
    "out": "folder for <task>.md, .tex and .csv",
    "replicates": "bootstrap draws of slides and their tiles, regions or images, 100 or more",
    "seed": "seed of the draws",
    "metric": "orders the rows, such as macro_auroc, mdice or ap50; null: the first of each kind of task",
    "per_class": "whether IoU and AP of single classes are shown",
}


def usage() -> str:
    """Return the help text, settings with their defaults."""
    lines = ["usage: python -m results table [key=value ...]", "", "Turn benchmark records into one table a task.", ""]
    lines += [f"  {f'{item.name}={_shown(item.default)}':32} {_MEANING[item.name]}" for item in fields(TableSettings)]
    return "\n".join(lines)


def _shown(value: object) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def table(arguments: Sequence[str]) -> None:
    """Write the tables and print them as Markdown.

    Raises:
        UserError: for unknown settings, and for records that are missing, damaged or contradict each other.
    """
    from omegaconf import OmegaConf

    from results.settings import compose, split_overrides

    settings = compose(OmegaConf.structured(TableSettings), [], split_overrides(arguments))
    if settings.replicates < 100:
        raise UserError(f"replicates={settings.replicates} is too few for 2.5 and 97.5 percentiles: use 100 or more.")
    if settings.replicates > 100_000:
        raise UserError(f"replicates={settings.replicates} would fill the memory for no gain: use 100000 or fewer.")
    if settings.seed < 0:
        raise UserError(f"seed={settings.seed} must be 0 or more.")

    from results.record import read_records
    from results.render import markdown, write_tables
    from results.table import build_tables

    tables = build_tables(
        read_records(settings.records), settings.replicates, settings.seed, settings.metric, settings.per_class
    )
    written = write_tables(tables, settings.out)
    print("\n".join(markdown(each) for each in tables), end="")
    print(f"wrote {', '.join(str(path) for path in written)}", file=sys.stderr)


def main(arguments: Sequence[str]) -> int:
    """Run one command and return the exit status: 0 done, 2 mistake in input or settings."""
    if any(argument in ("-h", "--help", "help") for argument in arguments):
        print(usage())
        return 0
    return told(lambda: _run(arguments))


def _run(arguments: Sequence[str]) -> int:
    if not arguments:
        raise UserError("no command is given: write `python -m results table`.")
    command = arguments[0]
    if command != "table":
        hint = meant(command, ["table"], "write `python -m results table`.")
        raise UserError(f"'{command}' is not a command of results: {hint}")
    table(arguments[1:])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
