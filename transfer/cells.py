"""One cell of a benchmark: task x encoder x engine x trial, its key, its score and its record."""

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from results import provenance
from results.metrics import score_units
from results.record import cell_key
from transfer.encoders.base import Encoder
from transfer.engines import ENGINES, Fit, Predictions
from transfer.tasks import TileTask

SCALE_TOLERANCE = 0.1
READERS = 4
"""Threads that read and decode tiles, each one batch."""


@dataclass(frozen=True)
class Cell:
    """What decides a number. `encoder` is the one given by a spec; of its trials, `Encoder.for_trial` knows."""

    task: TileTask
    encoder: Encoder
    engine: str
    seed: int
    trial: int

    @property
    def settings(self) -> dict[str, Any]:
        """The engine's settings as asked for."""
        return ENGINES[self.engine]().settings()

    @property
    def key(self) -> str:
        task = self.task
        identity = (task.name, task.version, task.split_digest, self.encoder.digest)
        return cell_key(*identity, self.engine, self.settings, self.seed, self.trial)

    def predict(self, features: np.ndarray) -> Predictions:
        """Run the engine on one trial.

        Args:
            features: float32 (N, D), a row for every tile of the task.
        """
        task, split = self.task, self.task.splits[self.trial]
        fit = Fit(
            features[split.train],
            task.labels[split.train],
            features[split.validation],
            task.labels[split.validation],
            features[split.test],
            len(task.classes),
        )
        return ENGINES[self.engine]().predict(fit)

    def units(self, predictions: Predictions) -> pa.Table:
        """Lay predictions out as a record's units: one row a test tile."""
        task, test = self.task, self.task.splits[self.trial].test
        scores = {f"score_{name}": predictions.scores[:, c].astype(np.float32) for c, name in enumerate(task.classes)}
        return pa.table(
            {
                "unit": task.tiles[test],
                "cluster": pa.array(task.clusters[test].tolist(), pa.string()),
                "label": task.labels[test].astype(np.int32),
                "predicted": predictions.predicted.astype(np.int32),
                **scores,
            }
        )


def scale_mismatch(encoder: Encoder, task: TileTask) -> dict[str, Any] | None:
    """Return tile side (px) and um/px of task and encoder where um/px or the field of view differ by more than 10 %."""
    seen = encoder.card["input"] if encoder.card else {}
    if not seen.get("mpp"):
        return None
    own = {"px": task.store.tile, "mpp": task.store.mpp}
    trained = {"px": seen.get("tile") or own["px"], "mpp": seen["mpp"]}
    ratios = (own["mpp"] / trained["mpp"], own["mpp"] * own["px"] / (trained["mpp"] * trained["px"]))
    if all(1 / (1 + SCALE_TOLERANCE) <= ratio <= 1 + SCALE_TOLERANCE for ratio in ratios):
        return None
    return {"tiles": own, "encoder": trained}


def _fit(encoder: Encoder, task: TileTask) -> dict[str, Any] | None:
    """What a record says of how encoder and task fit: loaded names, and the scale of the tiles where it is not the encoder's."""
    mismatch = scale_mismatch(encoder, task)
    return {**(encoder.coverage or {}), "scale_mismatch": mismatch} if mismatch else encoder.coverage


def contamination(encoder: Encoder, task: TileTask) -> str:
    """Say what the encoder's pretraining may have seen of the task's slides.

    The floors have seen no slide. One store is the same slides; synthetic and real slides cannot meet; else nothing is known.
    """
    if encoder.card is None:
        return "clean" if encoder.kind == "floor" else "unknown"
    data = encoder.card["data"]
    if data.get("store_digest") == task.store.digest:
        return "same slide"
    return "clean" if bool(data.get("rehearsal")) != bool(task.store.rehearsal) else "unknown"


class Recorder:
    """Fills in the fields of a record that every cell of one command shares."""

    def __init__(self) -> None:
        self._common = {
            "hardware": provenance.hardware(),
            "versions": provenance.versions(),
            "git_revision": provenance.git_revision(),
        }

    def scored(self, cell: Cell, units: pa.Table, seconds: float) -> dict[str, Any]:
        return self._record(cell, seconds, status="ok", error=None, metrics=score_units(units))

    def crashed(self, cell: Cell, error: Exception, seconds: float) -> dict[str, Any]:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
        return self._record(cell, seconds, status="crashed", error=reason, metrics=[])

    def _record(self, cell: Cell, seconds: float, **outcome: Any) -> dict[str, Any]:
        task, encoder, card = cell.task, cell.encoder, cell.encoder.card or {}
        return {
            "task": {
                "name": task.name,
                "version": task.version,
                "split_digest": task.split_digest,
                "store_digest": task.store.digest,
                "rehearsal": bool(task.store.rehearsal),
            },
            "encoder": {
                "name": encoder.name,
                "kind": encoder.kind,
                "digest": encoder.digest,
                "coverage": _fit(encoder, task),
                "method": card.get("method"),
                "seed": card.get("seed"),
                "card": encoder.card,
            },
            "engine": {"name": cell.engine, "settings": cell.settings},
            "seed": cell.seed,
            "trial": cell.trial,
            "trials": len(task.splits),
            "wall_seconds": round(seconds, 3),
            "device_hours": round(seconds / 3600, 6),
            "contamination": contamination(encoder, task),
            "created": provenance.now(),
            **outcome,
            **self._common,
        }


def extract(encoder: Encoder, task: TileTask, batch_size: int) -> np.ndarray:
    """Return the features of every tile of the task, float32 (N, D); tiles are read a few batches ahead.

    Raises:
        FloatingPointError: a feature is not finite.
    """
    features = np.empty((len(task.tiles), encoder.feature_dim), dtype=np.float32)
    starts = range(0, len(task.tiles), batch_size)
    with ThreadPoolExecutor(READERS) as readers:
        ahead = deque()
        for start in starts[:READERS]:
            ahead.append(readers.submit(task.store.read_many, task.tiles[start : start + batch_size]))
        for number, start in enumerate(starts):
            tiles = ahead.popleft().result()
            if number + READERS < len(starts):
                later = starts[number + READERS]
                ahead.append(readers.submit(task.store.read_many, task.tiles[later : later + batch_size]))
            features[start : start + len(tiles)] = encoder.features(tiles)
    if not np.isfinite(features).all():
        raise FloatingPointError(f"encoder {encoder.name} gave features that are not finite")
    return features


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return what `work` returns and the seconds it took."""
    start = time.perf_counter()
    return work(), time.perf_counter() - start
