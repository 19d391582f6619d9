"""The store that comes out of packing: its index, its summary, and what is odd about its images."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pretrain.pack.group import ADDED, Packing
from pretrain.tiles import INDEX_SCHEMA, STORE_SCHEMA
from pretrain.tiling.index import rows_digest
from pretrain.tiling.reports import rows_path
from results.errors import UserError
from results.files import replacing, value_digest, write_json
from results.provenance import git_revision, now, versions

KIND = "images"
SAME = 1e-6
NAMED = 20


def write_store(
    root: Path, packing: Packing, facts: Mapping[str, Any], known_slides: bool, reports: list[dict[str, Any]]
) -> dict[str, Any]:
    """Write `tiles.parquet`, `sources.parquet` and, last, `store.json`; return what the latter holds.

    Args:
        root: folder of the store.
        packing: how its tiles were made.
        facts: `cohort`, `root`, `rehearsal`, `label_rule`, `notes`, `licence`, `cite`.
        known_slides: whether the groups are slides.
        reports: of all groups.

    Raises:
        UserError: no image could be packed.
    """
    reports = sorted(reports, key=lambda report: report["slide"])
    failed = {path: reason for report in reports for path, reason in report["failed"].items()}
    done = [report["slide"] for report in reports if report["tiles"]]
    if not done:
        first = sorted(failed)[0]
        raise UserError(f"none of the {len(failed)} images could be packed; {first} {failed[first]}.")
    table = pa.concat_tables([pq.read_table(rows_path(root, name)) for name in done])
    index, sources = table.select(INDEX_SCHEMA.names), table.select(["slide", "grid_x", *ADDED.names])
    tile_mpp = _common(index.column("mpp").to_numpy()) if packing.mpp else None
    summary = {
        **facts,
        "schema": STORE_SCHEMA,
        "kind": KIND,
        "coordinates": False,
        "known_slides": known_slides,
        "tiling": {**asdict(packing), "mpp": tile_mpp, "image_mpp": packing.mpp},
        "labels": sorted(set(index.column("label").to_pylist()) - {""}),
        "slides": {report["slide"]: _entry(report) for report in reports},
        "receipts": {},
        "images": {
            "packed": table.num_rows,
            "failed": dict(sorted(failed.items())),
            **{key: sum(report[key] for report in reports) for key in ("resized", "enlarged", "cropped", "kept")},
            "duplicates": duplicates(table),
        },
        "tiles": table.num_rows,
        "digest": rows_digest(index, packing),
    }
    with replacing(root / "sources.parquet") as temporary:
        pq.write_table(sources, temporary)
    with replacing(root / "tiles.parquet") as temporary:
        pq.write_table(index.replace_schema_metadata({"digest": summary["digest"]}), temporary)
    write_json(
        root / "store.json", summary | {"created": now(), "versions": versions(), "git_revision": git_revision()}
    )
    return summary


def request_digest(reports: list[dict[str, Any]], facts: Mapping[str, Any]) -> str:
    """Digest of all that a store is made of: equal where there is nothing to write."""
    return value_digest([sorted((report["slide"], report["identity"]) for report in reports), dict(facts)])


def duplicates(table: pa.Table) -> dict[str, Any]:
    """Images of the same pixels.

    Returns:
        `sets` of equal images, `images` in them, how many sets hold `other_labels`, and the `first` sets by path.
    """
    groups: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for digest, source, label in zip(
        *(table.column(key).to_pylist() for key in ("digest", "source", "label")), strict=True
    ):
        groups[digest].append((source, label))
    equal = sorted(sorted(group) for group in groups.values() if len(group) > 1)
    return {
        "sets": len(equal),
        "images": sum(len(group) for group in equal),
        "other_labels": sum(len({label for _, label in group}) > 1 for group in equal),
        "first": [[source for source, _ in group[:NAMED]] for group in equal[:NAMED]],
    }


def _entry(report: dict[str, Any]) -> dict[str, Any]:
    reason = "" if report["tiles"] else f"none of its {len(report['failed'])} images could be packed"
    return {
        "status": "done" if report["tiles"] else "failed",
        "reason": reason,
        "tiles": report["tiles"],
        "slide_digest": "",
    }


def _common(mpp: Any) -> float | None:
    """The um/px of all tiles, None where they differ."""
    return float(mpp[0]) if abs(mpp - mpp[0]).max() <= SAME * mpp[0] else None
