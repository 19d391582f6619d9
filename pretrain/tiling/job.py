"""One slide, one idempotent job: shard, rows and overview, and last the report that says it is done."""

import hashlib
import io
import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import openslide
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pretrain.cohorts import Slide
from pretrain.tiles import INDEX_SCHEMA, STORE_SCHEMA, shard_path, tile_key
from pretrain.tiling.grid import area_shares, make_grid
from pretrain.tiling.labels import Codes, mask_labels, read_mask
from pretrain.tiling.overview import overview_size, write_overview
from pretrain.tiling.reader import SlideReader, TilePlan, one_line
from pretrain.tiling.settings import Tiling
from pretrain.tiling.tissue import RULE, tissue_mask
from results.errors import UserError
from results.files import file_digest, replacing, value_digest, write_json

COLUMNS_AT_ONCE = 16
"""Tiles are read in vertical bands this wide, so that OpenSlide's cache holds what neighbouring rows share."""
COMMIT_EVERY = 256


def tile_slide(slide: Slide, codes: Codes, tiling: Tiling, root: Path) -> dict[str, Any]:
    """Tile one slide into the store at `root`, unless an equal job is done already.

    Nothing is raised for a slide that cannot be tiled: its report says `failed` and why. Files appear whole or not at all,
    the report last.

    Args:
        slide: the slide.
        codes: what the codes of its mask mean.
        tiling: the settings.
        root: folder of the tile store.

    Returns:
        The report, as in `slides/<slide>.json`, and `cached`: whether it was found done.
    """
    done = finished_report(slide, codes, tiling, root)
    if done:
        return {**done, "cached": True}
    started = time.perf_counter()
    report = {**_identity(slide, codes, tiling), "tiles": 0, "reason": "", "slide_digest": ""}
    try:
        report |= _tile(slide, codes, tiling, root)
    except UserError as error:
        report |= {"status": "failed", "reason": str(error), "tiles": 0}
    except Exception as error:  # one slide of thousands must not stop the others, whatever a codec raises
        report |= {"status": "failed", "reason": f"{type(error).__name__}: {one_line(error)}", "tiles": 0}
    if report["status"] != "done":
        shard_path(root, slide.name).unlink(missing_ok=True)
        rows_path(root, slide.name).unlink(missing_ok=True)
    report |= {"seconds": round(time.perf_counter() - started, 3), "versions": _decoders()}
    write_json(report_path(root, slide.name), report)
    return {**report, "cached": False}


def finished_report(slide: Slide, codes: Codes, tiling: Tiling, root: Path) -> dict[str, Any] | None:
    """Return the report of an equal job that ended as `done` or `empty`, or None; a failed slide is tried again."""
    try:
        report = json.loads(report_path(root, slide.name).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(report, dict):
        return None
    identity = _identity(slide, codes, tiling)
    if identity["fingerprint"] is None or any(report.get(key) != value for key, value in identity.items()):
        return None
    if report.get("status") == "empty":
        return report
    shard = shard_path(root, slide.name)
    whole = (
        shard.is_file() and shard.stat().st_size == report.get("shard_bytes") and rows_path(root, slide.name).is_file()
    )
    return report if report.get("status") == "done" and "tiles" in report and whole else None


def report_path(root: Path, slide: str) -> Path:
    """Return the file of a slide's report."""
    return root / "slides" / f"{slide}.json"


def rows_path(root: Path, slide: str) -> Path:
    """Return the file of a slide's rows."""
    return root / "slides" / f"{slide}.parquet"


def _identity(slide: Slide, codes: Codes, tiling: Tiling) -> dict[str, Any]:
    """What makes two jobs equal: the file, what the cohort says of it, and the settings."""
    facts = {
        "patient": slide.patient,
        "hospital": slide.hospital,
        "mpp": slide.mpp,
        "mask": _fingerprint(slide.mask) if slide.mask else None,
        "codes": sorted(codes.tissue.items()) if slide.mask else [],
        "others": sorted(codes.background | codes.ignore) if slide.mask else [],
    }
    return {
        "schema": STORE_SCHEMA,
        "slide": slide.name,
        "fingerprint": _fingerprint(slide.path),
        "facts": value_digest(facts),
        "settings": value_digest({"tiling": asdict(tiling), "tissue": asdict(RULE)}),
    }


def _fingerprint(path: Path) -> dict[str, int] | None:
    try:
        status = path.stat()
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return None
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _tile(slide: Slide, codes: Codes, tiling: Tiling, root: Path) -> dict[str, Any]:
    with SlideReader(slide.path, tiling.mpp_override, slide.mpp) as reader:
        plan = reader.plan(tiling.tile, tiling.mpp)
        grid = make_grid(reader.size, plan.step)
        facts = {
            "size": list(reader.size),
            "mpp": reader.mpp,
            "mpp_source": reader.mpp_source,
            "level": plan.level,
            "downsample": plan.downsample,
            "resampled": plan.resampled,
            "slide_digest": file_digest(slide.path),
        }
        if not grid.columns * grid.rows:
            width, height = (side * reader.mpp for side in reader.size)
            reason = f"{width:.0f} x {height:.0f} um, smaller than one tile of {tiling.tile * tiling.mpp:g} um"
            return {**facts, "status": "empty", "reason": reason}

        picture, low_power, mask_mpp = _pictures(reader, tiling.mask_mpp)
        mask = tissue_mask(low_power, mask_mpp)
        cells = grid.cells()
        tissue = area_shares(mask, reader.size, grid.origin(cells), grid.step)
        kept = np.flatnonzero(tissue >= tiling.min_tissue)
        cells, tissue = cells[kept], tissue[kept]
        origins = grid.origin(cells)
        write_overview(root / "overviews" / f"{slide.name}.png", picture, mask, reader.size, origins, grid.step)
        if not len(cells):
            return {**facts, "status": "empty", "reason": _why_empty(mask, tiling)}
        labels, shares = [""] * len(cells), np.zeros(len(cells), dtype=np.float32)
        if slide.mask:
            code_mask = read_mask(slide.mask, reader.size, codes)
            labels, shares = mask_labels(code_mask, codes, reader.size, origins, grid.step)
        digests = _write_shard(shard_path(root, slide.name), reader, plan, tiling, cells, origins)
    count = len(cells)
    rows = {
        "slide": [slide.name] * count,
        "patient": [slide.patient] * count,
        "hospital": [slide.hospital] * count,
        "slide_digest": [facts["slide_digest"]] * count,
        "level": np.full(count, plan.level, dtype=np.int32),
        "x0": origins[:, 0],
        "y0": origins[:, 1],
        "grid_x": cells[:, 0],
        "grid_y": cells[:, 1],
        "mpp": np.full(count, tiling.mpp),
        "tissue": tissue,
        "label": labels,
        "label_share": shares,
        "digest": digests,
    }
    with replacing(rows_path(root, slide.name)) as temporary:
        pq.write_table(pa.table(rows, schema=INDEX_SCHEMA), temporary)
    return {**facts, "status": "done", "tiles": count, "shard_bytes": shard_path(root, slide.name).stat().st_size}


def _pictures(reader: SlideReader, mask_mpp: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Return a picture for the overview, one at about `mask_mpp` um/px but never finer than the slide, and its um/px.

    The slide is read once, for the finer of the two.
    """
    scale = min(1.0, reader.mpp / mask_mpp)
    width, height = (max(1, round(side * scale)) for side in reader.size)
    columns, rows = overview_size(reader.size)
    picture = reader.thumbnail(max(width, columns), max(height, rows))
    low_power = Image.fromarray(picture).resize((width, height), Image.Resampling.BOX)
    return picture, np.asarray(low_power), reader.mpp * reader.size[0] / width


def _why_empty(mask: np.ndarray, tiling: Tiling) -> str:
    if not mask.any():
        return "no tissue found"
    return f"tissue on {mask.mean():.1%} of the slide, but no tile holds the share min_tissue={tiling.min_tissue:g}"


def _write_shard(
    path: Path, reader: SlideReader, plan: TilePlan, tiling: Tiling, cells: np.ndarray, origins: np.ndarray
) -> list[str]:
    """Read, encode and store the tiles; return the sha256 of each tile's raw RGB bytes, in the order of `cells`."""
    digests = [""] * len(cells)
    bound = len(cells) * (2 * tiling.tile * tiling.tile * 3 + 2**16) + 2**24
    with replacing(path) as temporary:
        environment = lmdb.open(str(temporary), map_size=bound, subdir=False, lock=False, sync=False)
        try:
            for part in _reading_order(cells):
                with environment.begin(write=True) as transaction:
                    for i in part:
                        pixels = reader.read_tile(int(origins[i, 0]), int(origins[i, 1]), plan)
                        digests[i] = hashlib.sha256(pixels.tobytes()).hexdigest()
                        transaction.put(tile_key(*cells[i]), encode(pixels, tiling))
            environment.sync(True)
        finally:
            environment.close()
    return digests


def _reading_order(cells: np.ndarray) -> Iterator[np.ndarray]:
    """Yield positions in `cells` in vertical bands, one commit's worth at a time."""
    order = np.lexsort((cells[:, 0], cells[:, 1], cells[:, 0] // COLUMNS_AT_ONCE))
    for start in range(0, len(order), COMMIT_EVERY):
        yield order[start : start + COMMIT_EVERY]


def encode(pixels: np.ndarray, tiling: Tiling) -> bytes:
    """Encode a (tile, tile, 3) uint8 tile as JPEG without chroma subsampling, or as PNG."""
    buffer = io.BytesIO()
    if tiling.encoding == "jpeg":
        Image.fromarray(pixels).save(buffer, "JPEG", quality=tiling.quality, subsampling=0)
    else:
        Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@cache
def _decoders() -> dict[str, str]:
    """Versions of what turns a slide into pixels."""
    versions = {
        name: metadata.version(name) for name in ("openslide-python", "openslide-bin", "pillow", "numpy", "scipy")
    }
    return versions | {"openslide": openslide.__library_version__}
