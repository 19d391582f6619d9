"""`python -m benchmarks.speed.manifest`: seconds, memory and bytes of manifests of a synthetic index.

No slide is read: the index of a store is made up (grid coordinates in patches, random digests), its manifest is written and read,
and compared with a second one in which some slides, tiles and labels differ.
"""

import dataclasses
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import OmegaConf

from benchmarks.speed.measuring import keep, peak, reset_peak
from pretrain.manifest.differences import compare
from pretrain.manifest.file import read_manifest, write_manifest
from pretrain.manifest.make import from_store
from pretrain.tiles import INDEX_SCHEMA, STORE_SCHEMA, TileStore, shard_path
from pretrain.tiling import Tiling
from pretrain.tiling.index import rows_digest
from pretrain.tiling.receipts import decoder_receipt, receipt_id
from pretrain.tiling.tissue import RULE
from results.errors import told
from results.files import write_json
from results.settings import compose, split_overrides

LABELS = ["normal", "tumor"]


@dataclasses.dataclass
class Settings:
    """Size of the made-up cohort, and the share of its slides that differ in the second manifest."""

    tiles: int = 200_000
    slides: int = 400
    changed: float = 0.05
    out: str | None = None


def main(arguments: list[str]) -> int:
    """Measure, print a line a step, and write JSON where `out=` says."""
    return told(lambda: _run(arguments))


def _run(arguments: list[str]) -> int:
    settings: Settings = OmegaConf.to_object(compose(OmegaConf.structured(Settings), [], split_overrides(arguments)))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        stores = [made_up_store(root / name, settings, other) for name, other in (("a", False), ("b", True))]
        files = [root / "a.parquet", root / "b.parquet"]
        before = reset_peak()
        seconds: dict[str, float] = {}
        store = _timed(seconds, "open store", lambda: TileStore(stores[0]))
        manifest = _timed(seconds, "make", lambda: from_store(store))
        _timed(seconds, "write", lambda: write_manifest(files[0], manifest))
        write_manifest(files[1], from_store(TileStore(stores[1])))
        first = _timed(seconds, "read", lambda: read_manifest(files[0]))
        second = _timed(seconds, "read the other", lambda: read_manifest(files[1]))
        found = _timed(seconds, "diff", lambda: compare(first, second))
        rose, size = peak() - before, os.path.getsize(files[0])
    for name, value in seconds.items():
        print(f"{name:15} {value:7.2f} s")
    print(
        f"{settings.tiles:,} tiles of {settings.slides} slides: {sum(seconds.values()):.2f} s, peak {peak():.0f} MiB ({rose:+.0f}), "
        f"file {size / 2**20:.1f} MiB ({size / settings.tiles:.1f} bytes a tile), {len(found.slides)} slides differ"
    )
    keep(
        settings.out,
        settings,
        seconds=seconds,
        peak_mib=peak(),
        transient_mib=rose,
        bytes=size,
        differing=len(found.slides),
    )
    return 0


def _timed(seconds: dict[str, float], name: str, step: Callable[[], Any]) -> Any:
    start = time.perf_counter()
    result = step()
    seconds[name] = time.perf_counter() - start
    return result


def made_up_store(root: Path, settings: Settings, other: bool) -> Path:
    """Write the index of a store without pixels; in the `other` one, a share of slides has another file, tiles or labels."""
    generator = np.random.default_rng(0)
    counts = np.bincount(generator.integers(0, settings.slides, settings.tiles), minlength=settings.slides)
    receipt, tiling = decoder_receipt(), Tiling()
    tables, slides = [], {}
    for number, count in enumerate(counts.tolist()):
        name, changed = f"slide_{number:04d}", other and number % round(1 / settings.changed) == 0
        table = _rows(generator, name, count, tiling, changed)
        digest = table.column("slide_digest")[0].as_py() if count else _hex(generator, 1)[0]
        tables.append(table)
        count = len(table)
        slides[name] = {
            "status": "done" if count else "empty", "reason": "", "tiles": count, "slide_digest": digest, "bytes": 10**9 + number,
            "ends_digest": digest, "canary": digest, "receipt": receipt_id(receipt), "size": [100_000, 200_000], "mpp": 0.243,
            "mpp_source": "slide", "level": 1, "downsample": 2.0, "resampled": True, "part": "train",
        }  # fmt: skip
        shard_path(root, name).parent.mkdir(parents=True, exist_ok=True)
        shard_path(root, name).touch()
    rows = pa.concat_tables(tables)
    digest = rows_digest(rows, tiling)
    pq.write_table(rows.replace_schema_metadata({"digest": digest}), root / "tiles.parquet")
    summary = {
        "schema": STORE_SCHEMA, "cohort": "made-up", "rehearsal": True, "tiling": dataclasses.asdict(tiling),
        "tissue": dataclasses.asdict(RULE), "labels": LABELS, "slides": slides, "receipts": {receipt_id(receipt): receipt},
        "tiles": len(rows), "digest": digest,
    }  # fmt: skip
    write_json(root / "store.json", summary)
    return root


def _rows(generator: np.random.Generator, name: str, count: int, tiling: Tiling, changed: bool) -> pa.Table:
    side = int(np.sqrt(count * 1.6)) + 1
    cells = np.sort(generator.permutation(side * side)[:count])
    y, x = np.divmod(cells, side)
    step = 526.7489711934156
    label = generator.random(count) < 0.1
    whole = generator.random(count) < 0.8
    slide_digest = _hex(generator, 1)[0]
    kept = np.arange(count) >= (count // 10 if changed else 0)
    table = pa.table(
        {
            "slide": [name] * count, "patient": [name] * count, "hospital": ["H"] * count, "slide_digest": [slide_digest] * count,
            "level": np.ones(count, np.int32), "x0": np.floor(x * step).astype(np.int64), "y0": np.floor(y * step).astype(np.int64),
            "grid_x": x.astype(np.int32), "grid_y": y.astype(np.int32), "mpp": np.full(count, tiling.mpp),
            "tissue": np.where(whole, 1, generator.uniform(0.5, 1, count)).astype(np.float32),
            "label": [LABELS[int(v != changed)] for v in label], "label_share": np.ones(count, np.float32), "digest": _hex(generator, count),
        },
        schema=INDEX_SCHEMA,
    )  # fmt: skip
    return table.filter(pa.array(kept)) if changed else table


def _hex(generator: np.random.Generator, count: int) -> list[str]:
    text = generator.bytes(32 * count).hex()
    return [text[i : i + 64] for i in range(0, len(text), 64)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
