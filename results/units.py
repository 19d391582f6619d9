"""The units file of a record: one row per scored tile, in one fixed form."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from results.errors import UserError

SCORE = "score_"
_FIXED = {"cluster": pa.string(), "label": pa.int32(), "predicted": pa.int32()}


def canonical_units(units: pa.Table, where: str) -> pa.Table:
    """Return the units with the columns and types of the record contract, or say what is wrong with them.

    Args:
        units: columns `unit` (tile id, integer or text), `cluster` (slide), `label`, `predicted` and at least two
            `score_<class>`. Class `i` is the i-th score column: labels and predictions index them.
        where: file or cell name for the messages.

    Returns:
        The same rows: `unit` as given, `cluster` string, `label` and `predicted` int32, scores float32.

    Raises:
        UserError: for a missing, unknown, empty-valued or wrongly typed column, a label outside the classes, a
            non-finite score, no rows at all, or a tile that appears twice.
    """
    names = units.column_names
    scores = [name for name in names if name.startswith(SCORE)]
    missing = [name for name in ("unit", *_FIXED) if name not in names]
    unknown = [name for name in names if name not in ("unit", *_FIXED, *scores)]
    if missing or unknown or len(set(names)) != len(names) or len(scores) < 2:
        raise UserError(
            f"{where}: the units need each of unit, cluster, label, predicted and two or more score_<class> once, "
            f"not the columns {', '.join(names)}."
        )
    if units.num_rows == 0:
        raise UserError(f"{where}: the units have no rows, so there is nothing to score.")
    columns = {"unit": _unit_column(units["unit"], where)}
    for name in (*_FIXED, *scores):
        columns[name] = _cast(units[name], _FIXED.get(name, pa.float32()), name, where)
    for name in ("unit", *_FIXED, *scores):
        if columns[name].null_count:
            raise UserError(f"{where}: column '{name}' of the units has {columns[name].null_count} empty value(s).")
    for name in ("label", "predicted"):
        span = pc.min_max(columns[name]).as_py()
        if span["min"] < 0 or span["max"] >= len(scores):
            raise UserError(
                f"{where}: column '{name}' of the units must index the {len(scores)} classes from 0, "
                f"but spans {span['min']} to {span['max']}."
            )
    for name in scores:
        if not np.isfinite(columns[name].to_numpy()).all():
            raise UserError(f"{where}: column '{name}' of the units has values that are not finite.")
    table = pa.table(columns)
    pairs = table.select(["cluster", "unit"]).group_by(["cluster", "unit"]).aggregate([]).num_rows
    if pairs != table.num_rows:
        raise UserError(f"{where}: {table.num_rows - pairs} row(s) of the units repeat a tile: one row a tile.")
    return table


def _unit_column(column: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    if pa.types.is_integer(column.type):
        return column
    if _is_text(column.type):
        return column.cast(pa.string())
    raise UserError(f"{where}: column 'unit' of the units must hold whole numbers or text, not {column.type}.")


def _cast(column: pa.ChunkedArray, kind: pa.DataType, name: str, where: str) -> pa.ChunkedArray:
    fits = {pa.string(): _is_text, pa.int32(): pa.types.is_integer, pa.float32(): pa.types.is_floating}[kind]
    if not fits(column.type):
        raise UserError(f"{where}: column '{name}' of the units must be {kind}, not {column.type}.")
    try:
        return column.cast(kind)
    except pa.ArrowInvalid as error:
        raise UserError(f"{where}: column '{name}' of the units does not fit into {kind} ({error}).") from error


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)
