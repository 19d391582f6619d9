"""The units file of a record: one row per scored tile, region or image, in one fixed form for each kind of task."""

import pyarrow as pa

from results.errors import UserError
from results.kinds import KINDS, detection, segmentation


def kind_of(units: pa.Table) -> str:
    """Return the kind of task that a units table's column names belong to; `classification` where nothing else fits."""
    names = units.column_names
    if any(name.startswith(segmentation.PIXELS) for name in names):
        return "segmentation"
    if any(name.startswith((detection.TRUTH, detection.FOUND)) for name in names):
        return "detection"
    return "classification"


def canonical_units(units: pa.Table, where: str, kind: str | None = None) -> pa.Table:
    """Return the units with the columns and types of the record contract, or say what is wrong with them.

    Every kind has `unit` (id within the task, integer or text) and `cluster` (slide); the rest is told by `canonical` in
    `results.kinds.classification`, `.segmentation` and `.detection`.

    Args:
        units: the table to check.
        where: file or cell name for the messages.
        kind: of the task; recognised from the column names when it is left out.

    Raises:
        UserError: for a missing, unknown, empty-valued or wrongly typed column, a value outside its range, no rows at
            all, or a unit that appears twice.
    """
    kind = kind or kind_of(units)
    if kind not in KINDS:
        raise UserError(f"{where}: task kind '{kind}' is not known: use one of {', '.join(KINDS)}.")
    return KINDS[kind].canonical(units, where)
