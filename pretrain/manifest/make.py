"""From a tile store to a manifest, and from a manifest to the job that makes the store again."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pretrain.cohorts import Cohort, Slide
from pretrain.manifest.file import COLUMNS, Manifest, manifest_id
from pretrain.manifest.lists import choose
from pretrain.tiles import INDEX_SCHEMA, TileStore
from pretrain.tiling.index import rows_digest
from pretrain.tiling.settings import Tiling
from pretrain.tiling.wanted import DIGEST_BYTES, Rebuild, WantedTiles
from results.errors import UserError
from results.files import value_digest
from results.provenance import git_revision, now, versions

TAKEN_OVER = ("cohort", "rehearsal", "tiling", "tissue", "labels")


def from_store(store: TileStore, listed: str | None = None, licence: str = "", cite: str = "") -> Manifest:
    """Describe the tiles of a store.

    Args:
        store: a finished store.
        listed: a list by rule (`pretrain.manifest.lists`); by default every slide.
        licence, cite: of the slides, where the cohort does not say.

    Raises:
        UserError: the list does not fit the store.
    """
    summary = store.summary
    if not store.has_coordinates:
        raise UserError(
            f"{store.root} holds packed images, and a manifest tells which tiles of which slides: cite its digest instead."
        )
    slides = {name: dict(entry) for name, entry in summary["slides"].items() if entry["status"] != "failed"}
    said: dict[str, Any] | None = None
    if listed:
        names, said = choose(listed, slides)
        slides = {name: slides[name] for name in names}
    rows = pq.read_table(store.root / "tiles.parquet", schema=INDEX_SCHEMA)
    if listed:
        rows = rows.filter(pa.compute.is_in(rows.column("slide"), pa.array(sorted(slides))))
    for name, first in zip(*_first_rows(rows), strict=True):
        slides[name] |= {key: rows.column(key)[first].as_py() for key in ("patient", "hospital")}
    facts = {key: summary[key] for key in TAKEN_OVER} | {
        "label_rule": summary.get("label_rule"),
        "licence": licence or summary.get("licence", ""),
        "cite": cite or summary.get("cite", ""),
        "notes": summary.get("notes", []),
        "list": said,
        "slides": slides,
        "receipts": summary.get("receipts", {}),
        "tiles": rows.num_rows,
        "store_digest": rows_digest(rows, Tiling(**summary["tiling"])),
        "store_versions": summary.get("versions", {}),
        "manifest_versions": versions(),
        "git_revision": git_revision(),
        "created": now(),
    }
    return Manifest(facts | {"id": manifest_id(facts)}, _columns(rows, facts["labels"]))


def _first_rows(rows: pa.Table) -> tuple[list[str], list[int]]:
    coded = rows.column("slide").combine_chunks().dictionary_encode()
    return coded.dictionary.to_pylist(), np.unique(coded.indices.to_numpy(), return_index=True)[1].tolist()


def _columns(rows: pa.Table, labels: list[str]) -> pa.Table:
    """Turn index rows into manifest rows: text into positions, hex digests into their first bytes."""
    slide = rows.column("slide").combine_chunks()
    names = sorted(set(pa.compute.unique(slide).to_pylist()))
    label = pa.compute.index_in(rows.column("label"), pa.array(labels, pa.string())).fill_null(-1)
    whole = bytes.fromhex("".join(rows.column("digest").to_pylist()))
    digests = np.frombuffer(whole, dtype=np.uint8).reshape(len(rows), -1)[:, :DIGEST_BYTES]
    coded = {
        "slide": pa.compute.index_in(slide, pa.array(names, pa.string())),
        "label": label,
        "digest": pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(DIGEST_BYTES), len(rows), [None, pa.py_buffer(np.ascontiguousarray(digests).tobytes())]
        ),
    }
    return pa.table({name: coded.get(name, rows.column(name)) for name in COLUMNS.names}, schema=COLUMNS)


def rebuild_job(manifest: Manifest, cohort: Cohort) -> tuple[Cohort, Rebuild]:
    """Return the cohort's slides that the manifest names, and the tiles that must come out of them.

    A slide that the cohort lacks stays in as a file that is not there, so that it fails alone, with its name.
    """
    facts, names = manifest.facts, manifest.slide_names
    known = {slide.name: slide for slide in cohort.slides}
    slides = tuple(known.get(name) or Slide(name, cohort.root / f"{name} (not in the cohort)") for name in names)
    bounds = np.searchsorted(manifest.column("slide"), np.arange(len(names) + 1))
    wanted = {name: _wanted(manifest, name, int(bounds[i]), int(bounds[i + 1])) for i, name in enumerate(names)}
    summary = {key: facts[key] for key in (*TAKEN_OVER, "label_rule", "licence", "cite", "notes")}
    summary |= {"rehearsal": facts["rehearsal"] or cohort.rehearsal, "manifest": facts["id"]}
    kept = {name: _carried(entry) for name, entry in facts["slides"].items()}
    chosen = Cohort(name=facts["cohort"], root=cohort.root, slides=slides, rehearsal=summary["rehearsal"])
    return chosen, Rebuild(facts["id"], wanted, summary, kept)


def _carried(entry: dict[str, Any]) -> dict[str, Any]:
    """What the rebuilt store's entry of a slide takes over: all of an empty slide, of others what no pixel tells."""
    if not entry["tiles"]:
        return {key: value for key, value in entry.items() if key not in ("patient", "hospital")}
    return {key: entry[key] for key in ("part", "remark", "slide_label", "labels_digest", "annotation") if key in entry}


def _wanted(manifest: Manifest, name: str, start: int, stop: int) -> WantedTiles:
    facts = manifest.facts["slides"][name]
    rows = manifest.tiles.slice(start, stop - start)
    names = pa.array([*manifest.facts["labels"], ""], pa.string())
    label = np.where(rows.column("label").to_numpy() < 0, len(names) - 1, rows.column("label").to_numpy())
    constant = {
        "slide": name,
        "patient": facts.get("patient", ""),
        "hospital": facts.get("hospital", ""),
        "slide_digest": facts["slide_digest"],
        "mpp": float(manifest.facts["tiling"]["mpp"]),
    }
    columns = {key: [value] * len(rows) for key, value in constant.items()} | {"label": names.take(pa.array(label))}
    schema = pa.schema([column for column in INDEX_SCHEMA if column.name != "digest"])
    table = pa.table({key: columns[key] if key in columns else rows.column(key) for key in schema.names}, schema=schema)
    receipt = manifest.facts["receipts"].get(facts.get("receipt", ""))
    identity = value_digest([manifest.facts["id"], name])
    return WantedTiles(table, manifest.digests[start:stop], facts, receipt, identity)
