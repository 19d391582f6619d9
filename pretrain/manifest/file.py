"""The manifest file: Parquet with one row a tile, and all that holds for many tiles once, in its metadata."""

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pretrain.cohorts.folder import no_name
from pretrain.tiling.settings import Tiling
from pretrain.tiling.wanted import DIGEST_BYTES
from results.errors import UserError
from results.files import replacing, value_digest

SCHEMA = 1
KEY = b"sgcl-bench manifest"
MAX_METADATA = 256 * 2**20
COLUMNS = pa.schema(
    [
        ("slide", pa.int32()),
        ("level", pa.int32()),
        ("x0", pa.int64()),
        ("y0", pa.int64()),
        ("grid_x", pa.int32()),
        ("grid_y", pa.int32()),
        ("tissue", pa.float32()),
        ("label", pa.int32()),
        ("label_share", pa.float32()),
        ("digest", pa.binary(DIGEST_BYTES)),
    ]
)
"""`slide` counts in the sorted names of slides that have tiles, `label` in the sorted labels, -1 for none; the rest is as in the
index of a tile store, `digest` its first 16 bytes."""
PACKED = {
    "compression": "zstd",
    "compression_level": 9,
    "store_schema": False,
    "write_statistics": False,
    "use_dictionary": ["slide", "level", "label", "grid_x", "grid_y", "tissue", "label_share"],
    "column_encoding": {"x0": "DELTA_BINARY_PACKED", "y0": "DELTA_BINARY_PACKED"},
}
NEEDED = (
    "cohort",
    "rehearsal",
    "tiling",
    "tissue",
    "labels",
    "label_rule",
    "slides",
    "receipts",
    "tiles",
    "store_digest",
    "id",
)
PASSING = ("created", "id", "store_versions", "git_revision", "manifest_versions")
"""What does not enter a manifest's id: it says when and by whom, not what."""


@dataclass(frozen=True, eq=False)
class Manifest:
    """A manifest in memory.

    Attributes:
        facts: the metadata; docs/manifests.md lists the keys.
        tiles: the rows, sorted by slide, grid y, grid x, with the columns of `COLUMNS`.
    """

    facts: dict[str, Any]
    tiles: pa.Table

    @property
    def slide_names(self) -> list[str]:
        """Slides that have tiles, sorted."""
        return sorted(name for name, slide in self.facts["slides"].items() if slide["tiles"])

    @property
    def tiling(self) -> Tiling:
        """The settings of the tiles.

        Raises:
            UserError: they are not those of this version.
        """
        try:
            return Tiling(**self.facts["tiling"])
        except TypeError as error:
            raise UserError(f"the manifest has tiling settings that this version does not know ({error}).") from error

    @cached_property
    def digests(self) -> np.ndarray:
        """(N, 16) uint8."""
        column = self.tiles.column("digest").combine_chunks()
        flat = np.frombuffer(column.buffers()[1], dtype=np.uint8)[column.offset * DIGEST_BYTES :]
        return flat[: len(column) * DIGEST_BYTES].reshape(-1, DIGEST_BYTES)

    def column(self, name: str) -> np.ndarray:
        """Return a column of numbers as an array (N,)."""
        return self.tiles.column(name).to_numpy()


def manifest_id(facts: dict[str, Any]) -> str:
    """Return the 64 hex digits that name a manifest: over its tiles (`store_digest`) and all metadata but `PASSING`."""
    return value_digest({key: value for key, value in facts.items() if key not in PASSING})


def write_manifest(path: Path | str, manifest: Manifest) -> None:
    """Write a manifest, whole or not at all."""
    text = json.dumps(manifest.facts, sort_keys=True, ensure_ascii=False)
    with replacing(path) as temporary, pq.ParquetWriter(temporary, COLUMNS, **PACKED) as writer:
        writer.write_table(manifest.tiles.cast(COLUMNS))
        writer.add_key_value_metadata({KEY: text, b"schema": str(SCHEMA)})


def read_manifest(path: Path | str) -> Manifest:
    """Read a manifest and check that its parts fit together.

    Raises:
        UserError: it is not there, is no manifest, of another schema, or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"manifest {path} is not there: make one with 'python -m pretrain manifest write store=... out=...'."
        )
    try:
        found = pq.read_metadata(path).metadata or {}
        text = found[KEY]
        if len(text) > MAX_METADATA:
            raise UserError(f"manifest {path} has {len(text) >> 20} MiB of metadata, more than any cohort needs.")
        schema, facts = found.get(b"schema", b"").decode(), json.loads(text)
    except KeyError:
        raise UserError(f"{path} is a Parquet file, but no manifest: give one that 'manifest write' made.") from None
    except (OSError, ValueError, RecursionError, pa.ArrowException) as error:
        raise UserError(f"manifest {path} is damaged or no Parquet file ({str(error)[:100]}).") from error
    if schema != str(SCHEMA):
        raise UserError(
            f"manifest {path} has schema {schema or 'none'}, this version reads {SCHEMA}: use the version that made it."
        )
    missing = [key for key in NEEDED if not isinstance(facts, dict) or key not in facts]
    if missing:
        raise UserError(f"manifest {path} is damaged, it lacks {', '.join(missing)}.")
    try:
        tiles = pq.read_table(path, columns=COLUMNS.names).cast(COLUMNS)
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise UserError(f"manifest {path} is damaged, its tiles cannot be read ({str(error)[:100]}).") from error
    manifest = Manifest(facts, tiles.replace_schema_metadata(None))
    _check(path, manifest)
    return manifest


def _check(path: Path, manifest: Manifest) -> None:
    facts = manifest.facts
    if wrong := _misfit(facts):
        raise UserError(f"manifest {path} is damaged: its {wrong} is not as 'manifest write' writes it.")
    if manifest_id(facts) != facts["id"]:
        raise UserError(
            f"manifest {path} was changed after it was made: its metadata do not give its id {str(facts['id'])[:12]}."
        )
    if any(manifest.tiles.column(name).null_count for name in COLUMNS.names):
        raise UserError(f"manifest {path} is damaged: a tile lacks a value.")
    names = manifest.slide_names
    counts = np.bincount(np.clip(manifest.column("slide"), 0, len(names)), minlength=len(names) + 1)
    stated = [facts["slides"][name]["tiles"] for name in names]
    labels = manifest.column("label")
    fits = counts.tolist() == [*stated, 0] and len(manifest.tiles) == facts["tiles"]
    if (
        not fits
        or (np.diff(manifest.column("slide")) < 0).any()
        or (labels < -1).any()
        or (labels >= len(facts["labels"])).any()
    ):
        raise UserError(f"manifest {path} is damaged: its tiles do not fit its slides and labels.")


def _misfit(facts: dict[str, Any]) -> str:
    """Name the first key whose value has another form than a manifest's, empty where all are right."""
    slides, receipts, labels = facts["slides"], facts["receipts"], facts["labels"]
    fits = {
        **{key: isinstance(facts[key], str) for key in ("store_digest", "id")},
        "cohort": isinstance(facts["cohort"], str) and not no_name(facts["cohort"]),
        "rehearsal": isinstance(facts["rehearsal"], bool),
        "tiles": type(facts["tiles"]) is int,
        **{key: isinstance(facts[key], dict) for key in ("tiling", "tissue")},
        **{key: facts.get(key) is None or isinstance(facts[key], dict) for key in ("label_rule", "list")},
        "labels": isinstance(labels, list) and all(isinstance(label, str) for label in labels),
        "receipts": isinstance(receipts, dict) and all(isinstance(receipt, dict) for receipt in receipts.values()),
        "slides": isinstance(slides, dict)
        and all(not no_name(name) and _is_slide(slide) for name, slide in slides.items()),
    }
    return next((key for key, right in fits.items() if not right), "")


def _is_slide(slide: Any) -> bool:
    return (
        isinstance(slide, dict)
        and type(slide.get("tiles")) is int
        and slide["tiles"] >= 0
        and isinstance(slide.get("slide_digest", ""), str)
        and (not slide["tiles"] or "slide_digest" in slide)
        and (slide.get("mpp") is None or (type(slide["mpp"]) in (int, float) and 0 < slide["mpp"] < math.inf))
    )
