"""Records: one JSON (and one parquet of scored units) per benchmark cell, checked on the way in and on the way out."""

import copy
import functools
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow as pa
import pyarrow.parquet as pq

from results.errors import UserError
from results.files import replacing, value_digest
from results.units import canonical_units

SCHEMA = 2
"""What is written. Schema 1, without `task.kind`, is read too: all its records are of classification."""


@dataclass(frozen=True)
class Record:
    """One record as read: its content, the file it came from and, on demand, its units."""

    data: dict[str, Any]
    path: Path

    @property
    def ok(self) -> bool:
        """Whether the cell was scored."""
        return self.data["status"] == "ok"

    @property
    def key(self) -> str:
        """The cell key, from the record's own fields."""
        return record_key(self.data)

    def units(self) -> pa.Table | None:
        """Read the scored units (columns as in `results.units.canonical_units`); None for a crashed cell.

        Raises:
            UserError: when the file is missing, damaged or not of the contract's form.
        """
        if self.data["units"] is None:
            return None
        path = self.path.with_name(self.data["units"])
        _require_units(self.path, self.data["units"])
        try:
            table = pq.read_table(path)
        except (OSError, ValueError, pa.ArrowException) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"{path} cannot be read as parquet ({reason}): delete it and run the cell again."
            ) from error
        return canonical_units(table, str(path), self.kind)

    @property
    def kind(self) -> str:
        """The kind of task: `classification`, `segmentation` or `detection`."""
        return self.data["task"].get("kind", "classification")

    @property
    def loaded(self) -> float:
        """The share of the encoder's weights that found their place, 0 to 1; 1 where nothing was to be loaded."""
        return _share_loaded(self.data["encoder"]["coverage"])


@functools.cache
def _validator() -> jsonschema.Draft202012Validator:
    schema = json.loads(resources.files("results").joinpath("record.schema.json").read_text(encoding="utf-8"))
    return jsonschema.Draft202012Validator(schema)


def validate(record: Any, where: str) -> None:
    """Hold `record` against `record.schema.json`.

    Args:
        record: the decoded JSON.
        where: file or cell name for the message.

    Raises:
        UserError: names `where`, the offending field and what was expected; a newer schema version says so.
    """
    version = record.get("schema") if isinstance(record, Mapping) else None
    if isinstance(version, int) and version > SCHEMA:
        raise UserError(
            f"{where} has record schema {version}, newer than schema {SCHEMA} that this version reads: update SGCL Bench."
        )
    error = jsonschema.exceptions.best_match(_validator().iter_errors(record))
    if error is not None:
        field = ".".join(str(part) for part in error.absolute_path) or "the record"
        message = error.message if len(error.message) < 300 else f"...{error.message[-297:]}"
        raise UserError(
            f"{where} is not a record of schema {SCHEMA}: in {field}, {message}; take it out of the folder, or mend it."
        )
    field = _not_finite(record)
    if field:
        raise UserError(f"{where} is not a record of schema {SCHEMA}: {field} is not a finite number (write null).")
    if record["trial"] >= record["trials"]:
        raise UserError(
            f"{where}: trial {record['trial']} cannot be one of {record['trials']} counted from 0; take it out of the folder, or mend it."
        )


def _not_finite(value: Any, field: str = "") -> str | None:
    if isinstance(value, float) and not math.isfinite(value):
        return field
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        found = _not_finite(child, f"{field}.{key}" if field else str(key))
        if found:
            return found
    return None


def cell_key(
    task_name: str,
    task_version: int | str,
    split_digest: str,
    encoder_digest: str,
    engine_name: str,
    engine_settings: Mapping[str, Any],
    seed: int,
    trial: int,
) -> str:
    """Return the sha256 (64 hex digits) of all that decides a cell's number: the same key means the same cell."""
    return value_digest(
        {
            "task": [task_name, task_version, split_digest],
            "encoder": encoder_digest,
            "engine": [engine_name, engine_settings],
            "seed": seed,
            "trial": trial,
        }
    )


def record_key(record: Mapping[str, Any]) -> str:
    """Return the `cell_key` of a valid record."""
    task, encoder, engine = record["task"], record["encoder"], record["engine"]
    return cell_key(
        task["name"], task["version"], task["split_digest"], encoder["digest"], engine["name"], engine["settings"],
        record["seed"], record["trial"],
    )  # fmt: skip


def write_record(folder: Path | str, record: Mapping[str, Any], units: pa.Table | None) -> Path:
    """Write one cell's record, its units first; an earlier record of the same cell is replaced, but never a scored one by a crash.

    Args:
        folder: usually `results/records`; made when missing.
        record: the fields of the schema; `schema` and `units` are filled in here.
        units: one row a scored tile, region or image (see `results.units.canonical_units`); None for a crashed cell.

    Returns:
        The JSON's path, `<task>-<engine>-<encoder>-t<trial>-<8 hex of the cell key>.json`; that of the scored record where one is kept.

    Raises:
        UserError: when the record or its units break the contract; nothing is written then.
    """
    folder = Path(folder)
    data = {**copy.deepcopy(dict(record)), "schema": SCHEMA, "units": None if units is None else "pending.parquet"}
    validate(data, "the record to write")
    stem = _stem(data)
    path, units_path = folder / f"{stem}.json", folder / f"{stem}.parquet"
    if units is None:
        kept = _kept(folder, record_key(data))
        if kept is not None:
            return kept
    else:
        units = canonical_units(units, stem, data["task"]["kind"])
        data["units"] = units_path.name
    text = json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    stale = _files_of(folder, record_key(data), but=path)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
        if units is not None:
            with replacing(units_path) as temporary_units:
                pq.write_table(units, temporary_units, compression="zstd")
    for old in stale:
        old.unlink(missing_ok=True)
        old.with_suffix(".parquet").unlink(missing_ok=True)
    if units is None:
        units_path.unlink(missing_ok=True)
    return path


def _kept(folder: Path, key: str) -> Path | None:
    """Return the scored record of a cell, which a crash does not replace."""
    try:
        found = find_record(folder, key)
    except UserError:  # damaged: nothing to keep
        return None
    return found.path if found is not None and found.ok else None


def _stem(record: Mapping[str, Any]) -> str:
    parts = (record["task"]["name"], record["engine"]["name"], record["encoder"]["name"])
    return "-".join([*(slug(part) for part in parts), f"t{record['trial']}", record_key(record)[:8]])


def slug(text: str) -> str:
    """Return `text` as a short piece of a file name: lower-case letters, digits, `_` and `-`, at most 48 characters."""
    return re.sub(r"[^a-z0-9_]+", "-", text.lower()).strip("-")[:48].strip("-") or "x"


def _listing(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith(".") and path.is_file())


def _files_of(folder: Path, key: str, but: Path | None = None) -> list[Path]:
    """Return the record files of one cell: the name carries 8 digits of the key, the content decides."""
    named = [path for path in _listing(folder, f"*-{key[:8]}.json") if path != but]
    return [path for path in named if _read(path).key == key]


def _read(path: Path) -> Record:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(data, ensure_ascii=False).encode()  # half a character, as JSON allows it, fails here
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be read as JSON ({reason}): delete it and run its cell again.") from error
    validate(data, str(path))
    return Record(data, path)


def _share_loaded(coverage: Any) -> float:
    if isinstance(coverage, Mapping):
        coverage = coverage.get("share")
    return 1.0 if coverage is None else float(coverage)


def _require_units(path: Path, name: str | None) -> None:
    if name is not None and not path.with_name(name).is_file():
        raise UserError(f"{path}: field units names {name}, which is not beside it: run the cell again.")


def find_record(folder: Path | str, key: str) -> Record | None:
    """Return the record of the cell with this key, or None when there is none (or no folder yet).

    A record whose units are missing or cannot be read counts as none, so that its cell is run again.

    Raises:
        UserError: when the record itself is there but damaged.
    """
    for path in _files_of(Path(folder), key):
        record = _read(path)
        try:
            record.units()
        except UserError:
            continue
        return record
    return None


def read_records(folder: Path | str) -> list[Record]:
    """Read and check every record of a folder, sorted by file name.

    Raises:
        UserError: names the file and the field of a damaged record, of units that are missing, or of a cell that is
            there twice; a folder that is missing or empty says which command makes records.
    """
    folder = Path(folder)
    paths = _listing(folder, "*.json") if folder.is_dir() else []
    if not paths:
        state = "holds no records" if folder.is_dir() else "does not exist"
        raise UserError(f"{folder} {state}: `python -m transfer classify` and `python -m benchmarks run` make them.")
    records, seen = [], {}
    for path in paths:
        record = _read(path)
        _require_units(path, record.data["units"])
        twin = seen.setdefault(record.key, path)
        if twin != path:
            raise UserError(f"{path} and {twin} are records of the same cell: delete one of them.")
        records.append(record)
    return records
