"""Cells of a made-up benchmark: tiles with a shared difficulty, encoders with a quality."""

import numpy as np
import pyarrow as pa
import pytest

from results.metrics import score_units
from results.record import write_record

CLASSES = ("stroma", "tumour", "fat")


def make_units(quality=0.7, slides=12, tiles=30, folds=3, fold=0, noise_seed=0):
    """One fold's units; labels and difficulty belong to the tile, so encoders of one task are paired."""
    names = [f"slide_{s:02d}" for s in range(slides) if s % folds == fold]
    cluster = np.repeat(names, tiles)
    unit = np.concatenate([np.arange(tiles) + 1000 * int(name[-2:]) for name in names])
    world = np.random.default_rng([7, fold])
    label = world.integers(len(CLASSES), size=len(unit))
    difficulty = world.random(len(unit)) + np.repeat(world.normal(0, 0.05, len(names)), tiles)
    own = np.random.default_rng([noise_seed, fold, int(quality * 1000)])
    right = difficulty + own.normal(0, 0.05, len(unit)) < quality
    predicted = np.where(right, label, (label + 1) % len(CLASSES))
    scores = own.random((len(unit), len(CLASSES)))
    scores[np.arange(len(unit)), predicted] += 1
    scores /= scores.sum(1, keepdims=True)
    columns = {
        "unit": unit,
        "cluster": cluster.tolist(),
        "label": label.astype("i4"),
        "predicted": predicted.astype("i4"),
    }
    return pa.table(columns | {f"score_{name}": scores[:, i].astype("f4") for i, name in enumerate(CLASSES)})


def make_record(encoder="npid", kind="run", engine="knn", trial=0, trials=3, units=None, **changes):
    """A valid record; `changes` are dotted keys with `__` for the dot."""
    record = {
        "schema": 2,
        "status": "crashed" if units is None else "ok",
        "error": "RuntimeError: out of memory" if units is None else None,
        "task": {
            "name": "rehearsal",
            "version": 1,
            "kind": "classification",
            "split_digest": "5" * 64,
            "store_digest": "6" * 64,
            "rehearsal": True,
        },
        "encoder": {
            "name": encoder,
            "kind": kind,
            "digest": f"{encoder}-digest",
            "coverage": {"share": 1.0},
            "method": None if kind == "floor" else encoder,
            "seed": None if kind == "floor" else 0,
            "card": None,
        },
        "engine": {"name": engine, "settings": {"k": 20} if engine == "knn" else {"l2": 1.0}},
        "seed": 0,
        "trial": trial,
        "trials": trials,
        "metrics": [] if units is None else score_units(units),
        "units": None,
        "wall_seconds": 1.5,
        "device_hours": 0.001,
        "hardware": {"cpu": "a", "cores": 2, "memory_gib": 8.0, "gpus": []},
        "versions": {"python": "3.11.7"},
        "git_revision": "a" * 40,
        "contamination": "clean" if kind == "floor" else "unknown",
        "created": "2026-01-02T03:04:05+00:00",
    }
    for key, value in changes.items():
        *parents, leaf = key.split("__")
        target = record
        for parent in parents:
            target = target[parent]
        target[leaf] = value
    return record


@pytest.fixture
def cell(tmp_path):
    """Write one cell into `tmp_path/records` and return the JSON's path."""

    def write(encoder="npid", kind="run", engine="knn", quality=0.7, trial=0, trials=3, crashed=False, **changes):
        units = (
            None
            if crashed
            else make_units(quality, folds=trials, fold=trial, noise_seed=changes.get("encoder__seed") or 0)
        )
        return write_record(
            tmp_path / "records", make_record(encoder, kind, engine, trial, trials, units, **changes), units
        )

    return write


@pytest.fixture
def whole_row(cell):
    """Write every trial of one encoder under both engines."""

    def write(encoder, quality, kind="run", engines=("knn", "linear"), trials=3, **changes):
        return [
            cell(encoder, kind, engine, quality, trial, trials, **changes)
            for engine in engines
            for trial in range(trials)
        ]

    return write


@pytest.fixture
def units_of():
    return make_units


@pytest.fixture
def record_of():
    return make_record


@pytest.fixture
def full(whole_row):
    whole_row("npid", 0.62)
    whole_row("sgcl", 0.80)
    whole_row("mean_rgb", 0.40, kind="floor")
    whole_row("histogram", 0.61, kind="floor")
