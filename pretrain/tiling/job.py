"""One slide, one idempotent job: shard, rows and overview, and last the report that says it is done."""

import hashlib
import io
import time
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pretrain.annotations import read_asap
from pretrain.cohorts import Slide
from pretrain.tiles import INDEX_SCHEMA, shard_path, tile_key
from pretrain.tiling.grid import Grid, area_shares, make_grid
from pretrain.tiling.labels import Codes, lesion_labels, mask_labels, read_mask
from pretrain.tiling.overview import overview_size, write_overview
from pretrain.tiling.reader import SlideReader, TilePlan, one_line
from pretrain.tiling.receipts import decoder_receipt
from pretrain.tiling.reports import (
    absent_report,
    content,
    finished_report,
    identity,
    labels_digest,
    moved_report,
    report_path,
    rows_path,
)
from pretrain.tiling.settings import Tiling
from pretrain.tiling.shards import new_shard
from pretrain.tiling.tissue import tissue_mask
from pretrain.tiling.unreadable import DAMAGED
from pretrain.tiling.wanted import (
    WantedTiles,
    check_digest,
    check_file,
    check_pixels,
    check_places,
    file_ends,
    open_reader,
)
from results.errors import UserError
from results.files import file_digest, replacing, write_json

COLUMNS_AT_ONCE = 16
"""Tiles are read in vertical bands this wide, so that OpenSlide's cache holds what neighbouring rows share."""
COMMIT_EVERY = 256


def tile_slide(
    slide: Slide, codes: Codes, tiling: Tiling, root: Path, wanted: WantedTiles | None = None
) -> dict[str, Any]:
    """Tile one slide into the store at `root`, unless an equal job is done already.

    Nothing is raised for a slide that cannot be tiled: its report says `failed` and why. Files appear whole or not at all,
    the report last. Where the slide's file cannot be reached no file is touched: what was made of it is there when it comes back.

    Args:
        slide: the slide.
        codes: what its annotations mean.
        tiling: the settings.
        root: folder of the tile store.
        wanted: exactly these tiles of a manifest, each verified, instead of what tissue and labels say.

    Returns:
        The report, as in `slides/<slide>.json`, and `cached`: whether it was found done.
    """
    if absent := absent_report(slide):
        return {**absent, "cached": False}
    job = (slide, codes, tiling, root, wanted)
    started = time.perf_counter()
    report = {"slide": slide.name, "tiles": 0, "reason": "", "slide_digest": ""}
    try:
        done = finished_report(*job) or moved_report(*job)
        if done:
            return {**done, "cached": True}
        facts = identity(slide, codes, tiling, wanted) | {"content": content(slide, codes, tiling, wanted)}
        report |= facts
        report |= _rebuild(slide, tiling, root, wanted) if wanted else _tile(slide, codes, tiling, root)
    except UserError as error:
        report |= {"status": "failed", "reason": str(error), "tiles": 0}
    except openslide.OpenSlideError as error:  # after a first error, every further call of the slide raises it
        reason = f"{slide.path.name} cannot be decoded ({one_line(error)}): {DAMAGED}."
        report |= {"status": "failed", "reason": reason, "tiles": 0}
    except Exception as error:  # one slide of thousands must not stop the others, whatever a codec raises
        report |= {"status": "failed", "reason": f"{type(error).__name__}: {one_line(error)}", "tiles": 0}
    if report["status"] != "done":
        shard_path(root, slide.name).unlink(missing_ok=True)
        rows_path(root, slide.name).unlink(missing_ok=True)
    report |= {"seconds": round(time.perf_counter() - started, 3), "versions": _decoders()}
    write_json(report_path(root, slide.name), report)
    return {**report, "cached": False}


def _tile(slide: Slide, codes: Codes, tiling: Tiling, root: Path) -> dict[str, Any]:
    with SlideReader(slide.path, tiling.mpp_override, slide.mpp) as reader:
        plan = reader.plan(tiling.tile, tiling.mpp)
        grid = make_grid(reader.size, plan.step)
        facts = _facts(slide, reader, plan) | {"labels_digest": labels_digest(slide)}
        if not grid.columns * grid.rows:
            width, height = (side * reader.mpp for side in reader.size)
            reason = f"{width:.0f} x {height:.0f} um, smaller than one tile of {tiling.tile * tiling.mpp:g} um"
            return {**facts, "status": "empty", "reason": reason}

        picture, low_power, mask_mpp = pictures(reader, tiling.mask_mpp)
        mask = tissue_mask(low_power, mask_mpp)
        cells = grid.cells()
        tissue = area_shares(mask, reader.size, grid.origin(cells), grid.step)
        kept = np.flatnonzero(tissue >= tiling.min_tissue)
        cells, tissue = cells[kept], tissue[kept]
        origins = grid.origin(cells)
        write_overview(root / "overviews" / f"{slide.name}.png", picture, mask, reader.size, origins, grid.step)
        if not len(cells):
            return {**facts, "status": "empty", "reason": _why_empty(mask, tiling)}
        labels, shares, drawn = _labels(slide, codes, reader, grid, cells, tiling)
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
    return facts | drawn | _finish(root, slide, pa.table(rows, schema=INDEX_SCHEMA))


def _rebuild(slide: Slide, tiling: Tiling, root: Path, wanted: WantedTiles) -> dict[str, Any]:
    """Store exactly the tiles of a manifest; a UserError names the slide, and the tile, that is not what it was."""
    check_file(slide.name, slide.path, wanted.facts)
    with open_reader(slide.path, wanted, tiling.mpp_override) as reader:
        plan = reader.plan(tiling.tile, tiling.mpp)
        facts = _facts(slide, reader, plan)
        check_digest(slide.name, facts["slide_digest"], wanted.facts)
        grid = make_grid(reader.size, plan.step)
        check_places(slide.name, wanted, grid, plan)
        cells = np.stack([wanted.rows.column(key).to_numpy() for key in ("grid_x", "grid_y")], axis=1)
        digests = _write_shard(shard_path(root, slide.name), reader, plan, tiling, cells, grid.origin(cells))
    check_pixels(slide.name, wanted, digests, facts["canary"])
    rows = wanted.rows.append_column("digest", pa.array(digests)).select(INDEX_SCHEMA.names).cast(INDEX_SCHEMA)
    return facts | _finish(root, slide, rows)


def _finish(root: Path, slide: Slide, rows: pa.Table) -> dict[str, Any]:
    with replacing(rows_path(root, slide.name)) as temporary:
        pq.write_table(rows, temporary)
    shard = shard_path(root, slide.name)
    return {
        "status": "done",
        "tiles": len(rows),
        "shard_bytes": shard.stat().st_size,
        "shard_digest": file_digest(shard),
    }


def _facts(slide: Slide, reader: SlideReader, plan: TilePlan) -> dict[str, Any]:
    """What is known of a slide that opens. Its canary is read through a handle of its own: OpenSlide's stay broken after an error."""
    with SlideReader(slide.path, reader.mpp) as canary:
        pixels = canary.canary()
    return {
        "size": list(reader.size),
        "mpp": reader.mpp,
        "mpp_source": reader.mpp_source,
        "level": plan.level,
        "downsample": plan.downsample,
        "resampled": plan.resampled,
        "slide_digest": file_digest(slide.path),
        "canary": pixels,
        "receipt": decoder_receipt(),
        **file_ends(slide.path),
    }


def _labels(
    slide: Slide, codes: Codes, reader: SlideReader, grid: Grid, cells: np.ndarray, tiling: Tiling
) -> tuple[list[str], np.ndarray, dict[str, Any]]:
    """Return labels and shares of the cells, and what the report says of an annotation."""
    if slide.mask:
        code_mask = read_mask(slide.mask, reader.size, codes)
        return *mask_labels(code_mask, codes, reader.size, grid.origin(cells), grid.step), {}
    if codes.lesion and (slide.annotation or slide.tissue_label):
        annotation = read_asap(slide.annotation) if slide.annotation else None
        said = {"annotation": annotation.facts} if annotation else {}
        return *lesion_labels(annotation, codes.lesion, slide.tissue_label, cells, grid.step, tiling.tile), said
    return [""] * len(cells), np.zeros(len(cells), dtype=np.float32), {}


def pictures(reader: SlideReader, mask_mpp: float) -> tuple[np.ndarray, np.ndarray, float]:
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
    return (
        f"tissue on {mask.mean():.1%} of the slide, but no tile holds the share tiling.min_tissue={tiling.min_tissue:g}"
    )


def _write_shard(
    path: Path, reader: SlideReader, plan: TilePlan, tiling: Tiling, cells: np.ndarray, origins: np.ndarray
) -> list[str]:
    """Read, encode and store the tiles; return the sha256 of each tile's raw RGB bytes, in the order of `cells`."""
    digests = [""] * len(cells)
    bound = len(cells) * (2 * tiling.tile * tiling.tile * 3 + 2**16) + 2**24
    with new_shard(path, bound) as environment:
        for part in _reading_order(cells):
            with environment.begin(write=True) as transaction:
                for i in part:
                    pixels = reader.read_tile(int(origins[i, 0]), int(origins[i, 1]), plan)
                    digests[i] = hashlib.sha256(pixels.tobytes()).hexdigest()
                    transaction.put(tile_key(*cells[i]), encode(pixels, tiling))
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
