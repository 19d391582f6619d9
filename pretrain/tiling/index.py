"""The index of a store: the rows of all slides as one table, and the summary with the data digest."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pretrain.cohorts import Cohort
from pretrain.tiles import INDEX_SCHEMA, STORE_SCHEMA
from pretrain.tiling.job import rows_path
from pretrain.tiling.settings import Tiling
from pretrain.tiling.tissue import RULE
from results.errors import UserError
from results.files import replacing, value_digest, write_json
from results.provenance import git_revision, now, versions

KEPT = ("status", "reason", "tiles", "slide_digest", "size", "mpp", "mpp_source", "level", "downsample", "resampled")
"""What `store.json` takes over from a slide's report."""
PASSING = ("created", "versions", "git_revision")
"""Keys of `store.json` that do not make two stores different."""


def store_root(work: Path, cohort: Cohort, tiling: Tiling) -> Path:
    """Return the folder of a cohort's tile store: named by the cohort, and by a digest of its root and all settings."""
    identity = {
        "root": str(cohort.root.resolve()),
        "tiling": asdict(tiling),
        "tissue": asdict(RULE),
        "schema": STORE_SCHEMA,
    }
    name = re.sub(r"[^\w.-]+", "-", cohort.name).strip(".-") or "cohort"
    return Path(work).resolve() / "tiles" / f"{name}-{value_digest(identity)[:12]}"


def write_index(
    root: Path, cohort: Cohort, tiling: Tiling, reports: Mapping[str, dict[str, Any]], dry: bool = False
) -> bool:
    """Write `tiles.parquet` and `store.json`, unless they are there and equal.

    Args:
        root: folder of the store.
        cohort: its slides; others that lie in the folder are left out.
        tiling: the settings.
        reports: the report of each slide of the cohort.
        dry: only look.

    Returns:
        Whether the index on disk was already equal.

    Raises:
        UserError: the rows of a slide that is reported as done are not there.
    """
    done = sorted(name for name, report in reports.items() if report["status"] == "done")
    table = pa.concat_tables([INDEX_SCHEMA.empty_table(), *(_rows(root, name) for name in done)])
    summary = {
        "schema": STORE_SCHEMA,
        "cohort": cohort.name,
        "root": str(cohort.root),
        "rehearsal": cohort.rehearsal,
        "tiling": asdict(tiling),
        "tissue": asdict(RULE),
        "labels": sorted(set(cohort.codes.values())),
        "slides": {
            name: {key: value for key, value in report.items() if key in KEPT}
            for name, report in sorted(reports.items())
        },
        "tiles": table.num_rows,
        "digest": rows_digest(table, tiling),
    }
    if _on_disk(root) == summary:
        return True
    if not dry:
        digest = {"digest": summary["digest"]}
        with replacing(root / "tiles.parquet") as temporary:
            pq.write_table(table.replace_schema_metadata(digest), temporary)
        passing = {"created": now(), "versions": versions(), "git_revision": git_revision()}
        write_json(root / "store.json", summary | passing)
    return False


def rows_digest(table: pa.Table, tiling: Tiling) -> str:
    """Return the sha256 over all columns of the sorted rows, and over how tiles are encoded; 64 hex digits."""
    digest = hashlib.sha256(f"{STORE_SCHEMA} {tiling.tile} {tiling.encoding} {tiling.quality}\n".encode())
    for name in INDEX_SCHEMA.names:
        column = table.column(name).combine_chunks()
        digest.update(f"{name} {len(column)}\n".encode())
        if column.type == pa.string():
            digest.update("\0".join(column.to_pylist()).encode())
        else:
            values = column.to_numpy(zero_copy_only=False)
            digest.update(np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def _rows(root: Path, slide: str) -> pa.Table:
    path = rows_path(root, slide)
    try:
        return pq.read_table(path, schema=INDEX_SCHEMA)
    except (OSError, pa.ArrowException) as error:
        raise UserError(
            f"{path} of a tiled slide cannot be read here: workers and this process must see the same folder; "
            "if it is damaged, delete it and run again."
        ) from error


def _on_disk(root: Path) -> dict[str, Any] | None:
    """Return the summary on disk without its passing keys, or None when it or its table is not whole."""
    try:
        summary = json.loads((root / "store.json").read_text(encoding="utf-8"))
        metadata = pq.read_metadata(root / "tiles.parquet")
        whole = (metadata.metadata or {}).get(b"digest", b"").decode() == summary["digest"]
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return None
    return {key: value for key, value in summary.items() if key not in PASSING} if whole else None
