"""Small images, and what a store of them holds."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image


def noise(seed: int, width: int = 32, height: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write_image(path: Path, pixels: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def summary(store):
    return json.loads((store / "store.json").read_text())


def sources(store):
    return pq.read_table(store / "sources.parquet").column("source").to_pylist()


def files(root):
    return {
        str(p.relative_to(root)): p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file() and p.name != ".lock"
    }
