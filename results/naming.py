"""Names of a table's rows and engine columns."""

import json
from collections import defaultdict
from collections.abc import Hashable, Sequence

from results.record import Record

PER_ENCODER = ("scale_mismatch",)
"""Words of an encoder's coverage, or of an engine's settings, that tell of one encoder: a note on the row, never a column."""

_ENGINE_ORDER = ("knn", "linear")


def engine_columns(records: Sequence[Record]) -> dict[Hashable, str]:
    """Return record path -> column; engines that ran with several settings show those that differ."""
    values: dict[tuple[str, str], set[str]] = defaultdict(set)
    names = {record.data["engine"]["name"] for record in records}
    keys = sorted({key for record in records for key in record.data["engine"]["settings"]} - set(PER_ENCODER))
    for record in records:
        for key in keys:
            values[record.data["engine"]["name"], key].add(_setting(record, key))
    varied = {name: _telling([key for key in keys if len(values[name, key]) > 1], name, records) for name in names}
    columns = {}
    for record in records:
        name = record.data["engine"]["name"]
        shown = ", ".join(f"{key}={_setting(record, key)}" for key in varied[name])
        columns[record.path] = f"{name} ({shown})" if shown else name
    return columns


def _telling(keys: list[str], engine: str, records: Sequence[Record]) -> list[str]:
    """Return the settings that tell an engine's columns apart: the schedule's name alone where that is enough."""
    own = [record for record in records if record.data["engine"]["name"] == engine]
    if "schedule" not in keys or len({tuple(_setting(record, key) for key in keys) for record in own}) > len(
        {_setting(record, "schedule") for record in own}
    ):
        return keys
    return ["schedule"]


def _setting(record: Record, key: str) -> str:
    value = record.data["engine"]["settings"].get(key)
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def settings_in_words(record: Record) -> str:
    """Return an engine's settings as `key=value, ...`, without those that tell of one encoder."""
    keys = sorted(set(record.data["engine"]["settings"]) - set(PER_ENCODER))
    return ", ".join(f"{key}={_setting(record, key)}" for key in keys)


def engine_rank(column: str) -> tuple[int, str]:
    """Return what sorts engine columns: the frozen ones first, then by name."""
    name = column.partition(" (")[0]
    return (_ENGINE_ORDER.index(name) if name in _ENGINE_ORDER else len(_ENGINE_ORDER), column)


def row_names(records: Sequence[Record]) -> dict[Hashable, tuple[bool, str]]:
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
