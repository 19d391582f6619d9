"""Columns of a units table, checked and brought into one type; every message names where and which column."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from results.errors import UserError


def identity(units: pa.Table, noun: str, where: str) -> dict[str, pa.ChunkedArray]:
    """Return the columns that every kind has: `unit` (whole numbers or text, as given) and `cluster` (string).

    Args:
        units: any units table that holds both columns.
        noun: what one row is, such as `tile`.
        where: file or cell name for the messages.

    Raises:
        UserError: no rows, a wrong type, an empty value, or a row that appears twice.
    """
    if units.num_rows == 0:
        raise UserError(f"{where}: the units have no rows, so there is nothing to score.")
    columns = {"unit": _unit(units["unit"], where), "cluster": plain(units["cluster"], pa.string(), "cluster", where)}
    for name, column in columns.items():
        full(column, name, where)
    pairs = pa.table(columns).group_by(["cluster", "unit"]).aggregate([]).num_rows
    if pairs != units.num_rows:
        raise UserError(f"{where}: {units.num_rows - pairs} row(s) of the units repeat a {noun}: one row a {noun}.")
    return columns


def full(column: pa.ChunkedArray, name: str, where: str) -> None:
    """Refuse empty values."""
    if column.null_count:
        raise UserError(f"{where}: column '{name}' of the units has {column.null_count} empty value(s).")


def plain(column: pa.ChunkedArray, kind: pa.DataType, name: str, where: str) -> pa.ChunkedArray:
    """Return a column as `kind` (string, int32 or float32) when its own type is of that family."""
    fits = {pa.string(): _is_text, pa.int32(): pa.types.is_integer, pa.float32(): pa.types.is_floating}[kind]
    if not fits(column.type):
        raise UserError(f"{where}: column '{name}' of the units must be {kind}, not {column.type}.")
    return _cast(column, kind, name, where)


def lists(column: pa.ChunkedArray, item: pa.DataType, name: str, where: str) -> pa.ChunkedArray:
    """Return a column of lists as `list<item>` (int64 or float32) without empty values, inside the lists either."""
    fits = {pa.int64(): pa.types.is_integer, pa.float32(): pa.types.is_floating}[item]
    own = column.type
    is_list = pa.types.is_list(own) or pa.types.is_large_list(own) or pa.types.is_fixed_size_list(own)
    if not is_list or not (fits(own.value_type) or pa.types.is_null(own.value_type)):
        raise UserError(f"{where}: column '{name}' of the units must be list<{item}>, not {own}.")
    column = _cast(column, pa.list_(item), name, where)
    full(column, name, where)
    if column.combine_chunks().flatten().null_count:
        raise UserError(f"{where}: column '{name}' of the units has empty values inside its lists.")
    return column


def flat(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Return a checked list column as all its values, (M,), and the length of every row's list, (N,) int64."""
    whole = column.combine_chunks()
    lengths = np.diff(whole.offsets.to_numpy()).astype(np.int64)
    return whole.flatten().to_numpy(zero_copy_only=False), lengths


def named(names: Sequence[str], prefix: str) -> list[str]:
    """Return what follows `prefix` in the column names that start with it, in order."""
    return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]


def _unit(column: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    if pa.types.is_integer(column.type):
        return column
    if _is_text(column.type):
        return column.cast(pa.string())
    raise UserError(f"{where}: column 'unit' of the units must hold whole numbers or text, not {column.type}.")


def _cast(column: pa.ChunkedArray, kind: pa.DataType, name: str, where: str) -> pa.ChunkedArray:
    try:
        return column.cast(kind)
    except pa.ArrowInvalid as error:
        raise UserError(f"{where}: column '{name}' of the units does not fit into {kind} ({error}).") from error


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)
