"""A tile store and an export written by hand from docs/architecture.md."""

import io
import json

import lmdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.torch import save_file

from pretrain.tiles import INDEX_SCHEMA
from results.files import file_digest, value_digest, write_json
from transfer.encoders.network import build_backbone

TILE = 32


def tile_pixels(random, kind):
    """Stripes along one axis, along the other, or noise: classes that colour hardly tells apart."""
    x = np.arange(TILE)
    wave = 60 * np.sin(x * random.uniform(0.8, 1.2) + random.uniform(0, 6))
    base = {"stripes": wave[None, :, None], "bands": wave[:, None, None]}.get(kind, np.zeros((1, 1, 1)))
    noise = random.normal(0, 30 if kind == "speckle" else 8, (TILE, TILE, 1))
    stain = random.uniform(100, 160, 3)
    return np.clip(stain + base + noise, 0, 255).astype(np.uint8)


def write_store(
    root, slides=6, per_slide=24, labels=("bands", "speckle", "stripes"), rehearsal=True, patients=None, mpp=0.5
):
    """Write a tile store by the contract, with one label a tile in turn and a few tiles without."""
    random, rows, tile_digests = np.random.default_rng(5), [], []
    (root / "shards").mkdir(parents=True)
    names = [f"slide_{i:02d}" for i in range(slides)]
    for number, slide in enumerate(names):
        with (
            lmdb.open(str(root / "shards" / f"{slide}.lmdb"), subdir=False, map_size=2**24) as shard,
            shard.begin(write=True) as put,
        ):
            for i in range(per_slide):
                label = labels[i % len(labels)] if labels and i % 8 != 7 else ""
                pixels = tile_pixels(random, label)
                stream = io.BytesIO()
                Image.fromarray(pixels).save(stream, "PNG")
                put.put(b"%d_%d" % (i % 5, i // 5), stream.getvalue())
                digest = value_digest(pixels.tolist())
                tile_digests.append(digest)
                share = 0.5 if i % 11 == 10 else 0.9 if label else 0.0
                patient = patients[number] if patients else ""
                rows.append((slide, patient, f"hospital_{number % 2}", "0" * 64, 0, 32 * (i % 5), 32 * (i // 5), i % 5, i // 5, mpp, 1.0, label, share, digest))  # fmt: skip
    digest = value_digest(tile_digests)
    table = pa.Table.from_arrays([pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), INDEX_SCHEMA, strict=True)], schema=INDEX_SCHEMA)  # fmt: skip
    pq.write_table(table.replace_schema_metadata({"digest": digest}), root / "tiles.parquet")
    write_json(
        root / "store.json",
        {
            "schema": 1,
            "cohort": "toy",
            "root": "slides",
            "rehearsal": rehearsal,
            "tiling": {"tile": TILE, "mpp": mpp},
            "labels": sorted(labels),
            "versions": {},
            "slides": {name: {"status": "done", "tiles": per_slide, "digest": "0" * 64} for name in names},
            "tiles": len(rows),
            "digest": digest,
        },
    )
    return root


def write_export(run, backbone="resnet18", weights=None, seed=0, **changes):
    """Write a run folder with an export and its card, by the contract; `changes` replace card keys."""
    export = run / "export"
    export.mkdir(parents=True)
    if weights is None:
        torch.manual_seed(seed)
        weights = build_backbone(backbone).state_dict()
    save_file(weights, export / "backbone.safetensors")
    card = {
        "schema": 1,
        "digest": file_digest(export / "backbone.safetensors"),
        "backbone": backbone,
        "feature_dim": {"resnet18": 512, "resnet50": 2048}[backbone],
        "input": {"size": TILE, "tile": TILE, "mpp": 0.5, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
        "method": "sgcl",
        "options": {},
        "seed": seed,
        "data": {"cohort": "toy", "store_digest": "f" * 64, "tiles": 9, "slides": 3, "rehearsal": True},
        "created": "2026-01-01T00:00:00+00:00",
    }
    (export / "card.json").write_text(json.dumps({**card, **changes}))
    return run
