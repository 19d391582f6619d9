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
from pretrain.tiling.receipts import receipt_id
from pretrain.tiling.reports import rows_path
from pretrain.tiling.settings import Tiling
from pretrain.tiling.tissue import RULE
from pretrain.tiling.wanted import Rebuild, file_ends
from results.errors import UserError
from results.files import replacing, value_digest, write_json
from results.provenance import git_revision, now, versions

KEPT = ("status", "reason", "tiles", "slide_digest", "bytes", "ends_digest", "canary", "size", "mpp", "mpp_source", "level",
        "downsample", "resampled", "labels_digest", "annotation")  # fmt: skip
"""What `store.json` takes over from a slide's report."""
PASSING = ("created", "versions", "git_revision")
"""Keys of `store.json` that do not make two stores different."""
ADDED = {"label_rule": None, "notes": [], "licence": "", "cite": "", "receipts": {}}
"""Keys that stores of earlier versions lack, with what their absence means."""


def store_root(work: Path, cohort: Cohort, tiling: Tiling, rebuild: Rebuild | None = None) -> Path:
    """Return the folder of a cohort's tile store: named by the cohort, and by a digest of its root and all settings.

    A cohort whose folder was moved keeps its store: where none has that name, one of the same cohort and settings is taken
    whose slides are the same files. The store of a manifest is named by the manifest, wherever the slides lie.
    """
    rest = {"tiling": asdict(tiling), "schema": STORE_SCHEMA}
    if rebuild:
        identity = rest | {"manifest": rebuild.identity}
    else:
        identity = rest | {"root": str(cohort.root.resolve()), "tissue": asdict(RULE)}
        if cohort.lesion:
            identity["lesion"] = asdict(cohort.lesion)
    name = re.sub(r"[^\w.-]+", "-", cohort.name).strip(".-") or "cohort"
    root = Path(work).resolve() / "tiles" / f"{name}-{value_digest(identity)[:12]}"
    if rebuild or (root / "slides").is_dir():
        return root
    return _moved(root.parent, name, cohort, tiling) or root


def _moved(tiles: Path, name: str, cohort: Cohort, tiling: Tiling) -> Path | None:
    """Return the finished store of an equal cohort that lay elsewhere: same settings, and slides of equal size and ends."""
    wanted = {"cohort": cohort.name, "tiling": asdict(tiling), "tissue": asdict(RULE)}
    names = {slide.name for slide in cohort.slides}
    for path in sorted(tiles.glob(f"{name}-*/store.json")):
        try:
            summary = json.loads(path.read_text(encoding="utf-8"))
            slides = {key: value for key, value in summary["slides"].items() if value["status"] != "failed"}
            rule = summary.get("label_rule")
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        fits = all(summary.get(key) == value for key, value in wanted.items()) and "manifest" not in summary
        if not (fits and rule == label_rule(cohort) and slides and slides.keys() == names):
            continue
        if all(_same_ends(slide.path, slides[slide.name]) for slide in cohort.slides):
            return path.parent
    return None


def _same_ends(path: Path, facts: Mapping[str, Any]) -> bool:
    try:
        if path.stat().st_size != facts.get("bytes"):
            return False
        return file_ends(path)["ends_digest"] == facts.get("ends_digest")
    except (OSError, ValueError):
        return False


def label_rule(cohort: Cohort) -> dict[str, Any] | None:
    """Return the rule that labels a cohort's tiles, with its parameters, or None when they get no label."""
    if cohort.lesion:
        return {"kind": "lesion outlines", **asdict(cohort.lesion)}
    return {"kind": "largest area of the code mask", "version": 1} if cohort.codes else None


def write_index(
    root: Path,
    cohort: Cohort,
    tiling: Tiling,
    reports: Mapping[str, dict[str, Any]],
    dry: bool = False,
    rebuild: Rebuild | None = None,
) -> bool:
    """Write `tiles.parquet` and `store.json`, unless they are there and equal.

    Args:
        root: folder of the store.
        cohort: its slides; others that lie in the folder are left out.
        tiling: the settings.
        reports: the report of each slide of the cohort.
        dry: only look.
        rebuild: the manifest that was rebuilt; it says what the cohort says otherwise.

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
        "labels": cohort.labels,
        "label_rule": label_rule(cohort),
        "notes": list(cohort.notes),
        "licence": cohort.licence,
        "cite": cohort.cite,
        "slides": _slides(cohort, reports),
        "receipts": {receipt_id(r["receipt"]): r["receipt"] for r in reports.values() if "receipt" in r},
        "tiles": table.num_rows,
        "digest": rows_digest(table, tiling),
    }
    if rebuild:
        slides = {**rebuild.slides, **summary["slides"]}
        slides = {name: {**rebuild.slides.get(name, {}), **entry} for name, entry in slides.items()}
        summary |= {**rebuild.summary, "slides": dict(sorted(slides.items()))}
    if _on_disk(root) == summary:
        return True
    if not dry:
        digest = {"digest": summary["digest"]}
        with replacing(root / "tiles.parquet") as temporary:
            pq.write_table(table.replace_schema_metadata(digest), temporary)
        passing = {"created": now(), "versions": versions(), "git_revision": git_revision()}
        write_json(root / "store.json", summary | passing)
    return False


def _slides(cohort: Cohort, reports: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Entries of `store.json`: what a slide's report says, and what the cohort says that changes no tile."""
    known = {slide.name: slide for slide in cohort.slides}
    entries = {}
    for name, report in sorted(reports.items()):
        entry = {key: value for key, value in report.items() if key in KEPT}
        if "receipt" in report:
            entry["receipt"] = receipt_id(report["receipt"])
        said = {key: getattr(known[name], key) for key in ("part", "remark", "slide_label") if name in known}
        entries[name] = entry | {key: value for key, value in said.items() if value}
    return entries


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
    return ADDED | {key: value for key, value in summary.items() if key not in PASSING} if whole else None
