"""One group of images, one idempotent job: shard, rows, and last the report that says it is done."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pretrain.pack.images import BadImage, encode, read_tile
from pretrain.pack.sources import Source
from pretrain.tiles import INDEX_SCHEMA, STORE_SCHEMA, shard_path, tile_key
from pretrain.tiling.reports import report_path, rows_path
from pretrain.tiling.shards import new_shard
from results.files import file_digest, replacing, value_digest, write_json

VERSION = 1
APART = 1000
"""Step of the numbers that stand for grid coordinates: no two packed images are neighbours under any sensible radius."""
ADDED = pa.schema(
    [("source", pa.string()), ("width", pa.int32()), ("height", pa.int32()), ("source_digest", pa.string())]
)
"""What `sources.parquet` says of a tile beside `slide` and `grid_x`: path below the folder, px, sha256 of the file."""
COMMIT_EVERY = 256


@dataclass(frozen=True)
class Packing:
    """What changes a packed tile; `mpp` is um/px of the images as they are."""

    tile: int
    mpp: float | None
    encoding: str
    quality: int
    strict: bool


@dataclass(frozen=True)
class Group:
    """The images of one shard, sorted by path, of the folder `source`, for the store at `root`."""

    name: str
    images: tuple[Source, ...]
    source: Path
    root: Path
    packing: Packing

    def identity(self) -> str:
        """Digest of files (by size and time), what is said of them, and settings."""
        files = []
        for image in self.images:
            try:
                status = (self.source / image.path).stat()
                files.append([*asdict(image).values(), status.st_size, status.st_mtime_ns])
            except OSError:
                files.append([*asdict(image).values(), None])
        return value_digest([VERSION, STORE_SCHEMA, asdict(self.packing), files])


def finished(group: Group) -> dict[str, Any] | None:
    """Return the report of an equal job, or None; a group with a file that could not be read is tried again."""
    try:
        report = json.loads(report_path(group.root, group.name).read_text(encoding="utf-8"))
        shard = shard_path(group.root, group.name)
        whole = not report["tiles"] or (
            shard.stat().st_size == report["shard_bytes"] and rows_path(group.root, group.name).is_file()
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return report if whole and not report.get("again") and report.get("identity") == group.identity() else None


def pack_group(group: Group) -> dict[str, Any]:
    """Pack the images of a group that is not done yet; return its report, as in `slides/<name>.json`.

    Nothing is raised for an image that cannot be packed: the report names it under `failed`, with its reason.
    """
    identity = group.identity()
    rows, failed, again = [], {}, False
    counts = {"resized": 0, "enlarged": 0, "cropped": 0, "kept": 0}
    path = shard_path(group.root, group.name)
    bound = len(group.images) * (2 * group.packing.tile**2 * 3 + 2**17) + 2**24
    with new_shard(path, bound) as environment:
        for start in range(0, len(group.images), COMMIT_EVERY):
            with environment.begin(write=True) as transaction:
                for image in group.images[start : start + COMMIT_EVERY]:
                    try:
                        rows.append(_pack(group, image, len(rows) * APART, transaction, counts))
                    except BadImage as error:
                        failed[image.path] = str(error)
                    except OSError as error:
                        failed[image.path], again = f"cannot be read ({error.strerror or error})", True
    report = {"slide": group.name, "identity": identity, "tiles": len(rows), "failed": failed, "again": again, **counts}
    if rows:
        schema = pa.schema([*INDEX_SCHEMA, *ADDED])
        with replacing(rows_path(group.root, group.name)) as temporary:
            pq.write_table(pa.Table.from_pylist(rows, schema=schema), temporary)
        report |= {"shard_bytes": path.stat().st_size, "shard_digest": file_digest(path)}
    else:
        path.unlink()
        rows_path(group.root, group.name).unlink(missing_ok=True)
    write_json(report_path(group.root, group.name), report)
    return report


def _pack(
    group: Group, image: Source, number: int, transaction: lmdb.Transaction, counts: dict[str, int]
) -> dict[str, Any]:
    packing = group.packing
    path = group.source / image.path
    tile = read_tile(path, packing.tile, packing.strict)
    transaction.put(tile_key(number, 0), encode(tile, packing.encoding, packing.quality))
    counts["resized"] += tile.scale != 1
    counts["enlarged"] += tile.scale < 1
    counts["cropped"] += tile.size[0] != tile.size[1]
    counts["kept"] += packing.encoding == "jpeg" and tile.jpeg is not None
    return {
        "slide": group.name,
        "patient": image.patient,
        "hospital": image.hospital,
        "slide_digest": "",
        "level": 0,
        "x0": 0,
        "y0": 0,
        "grid_x": number,
        "grid_y": 0,
        "mpp": np.nan if packing.mpp is None else packing.mpp * tile.scale,
        "tissue": np.nan,
        "label": image.label,
        "label_share": float(bool(image.label)),
        "digest": hashlib.sha256(tile.pixels.tobytes()).hexdigest(),
        "source": image.path,
        "width": tile.size[0],
        "height": tile.size[1],
        "source_digest": file_digest(path),
    }
