"""One cell of classification: task x encoder x engine x trial, its key, its score and what is recorded of it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from results.record import cell_key
from transfer.encoders.base import Encoder
from transfer.engines import Engine, Fit, Images, Predictions, known_engines
from transfer.engines.base import derived_seed
from transfer.reading import read_ahead
from transfer.recording import CellRecord, Recorder
from transfer.tasks import TileTask

SCALE_TOLERANCE = 0.1


@dataclass(frozen=True)
class Cell:
    """What decides a number. `encoder` is the one given by a spec; of its trials, `Encoder.for_trial` knows."""

    task: TileTask
    encoder: Encoder
    engine: str
    seed: int
    trial: int
    schedule: str = "smoke"

    def build(self) -> Engine:
        """Return the engine."""
        return known_engines()[self.engine](self.schedule)

    @property
    def key(self) -> str:
        task = self.task
        identity = (task.name, task.version, task.split_digest, self.encoder.digest)
        return cell_key(*identity, self.engine, self.build().settings(), self.seed, self.trial)

    def predict(self, features: np.ndarray | None, images: Images | None = None) -> Predictions:
        """Run the engine on one trial.

        Args:
            features: float32 (N, D), a row for every tile of the task; None for an engine that trains the network.
            images: what such an engine gets instead.
        """
        task, split = self.task, self.task.splits[self.trial]
        parts = (split.train, split.validation, split.test)
        train, validation, test = parts if features is None else (features[rows] for rows in parts)
        seed = derived_seed("trial", self.seed, self.trial)
        fit = Fit(
            train,
            task.labels[split.train],
            validation,
            task.labels[split.validation],
            test,
            len(task.classes),
            seed,
            images,
        )
        return self.build().predict(fit)

    def units(self, predictions: Predictions) -> pa.Table:
        """Lay predictions out as a record's units: one row a test tile."""
        task, test = self.task, self.task.splits[self.trial].test
        scores = {f"score_{name}": predictions.scores[:, c].astype(np.float32) for c, name in enumerate(task.classes)}
        return pa.table(
            {
                "unit": pa.array(task.units[test].tolist()),
                "cluster": pa.array(task.clusters[test].tolist(), pa.string()),
                "label": task.labels[test].astype(np.int32),
                "predicted": predictions.predicted.astype(np.int32),
                **scores,
            }
        )

    def begin(self, recorder: Recorder) -> CellRecord:
        """Begin the cell's record; a scale that is not the encoder's is kept beside the coverage."""
        mismatch = scale_mismatch(self.encoder, self.task)
        fit = {"scale_mismatch": mismatch} if mismatch else None
        return recorder.of(self.task, self.encoder, self.engine, self.build().settings(), self.seed, self.trial, fit)


def scale_mismatch(encoder: Encoder, task: TileTask) -> dict[str, Any] | None:
    """Return tile side (px) and um/px of task and encoder where um/px or the field of view differ by more than 10 %."""
    seen = encoder.card["input"] if encoder.card else {}
    if not seen.get("mpp") or not task.source.mpp:
        return None
    own = {"px": task.source.tile, "mpp": task.source.mpp}
    trained = {"px": seen.get("tile") or own["px"], "mpp": seen["mpp"]}
    ratios = (own["mpp"] / trained["mpp"], own["mpp"] * own["px"] / (trained["mpp"] * trained["px"]))
    if all(1 / (1 + SCALE_TOLERANCE) <= ratio <= 1 + SCALE_TOLERANCE for ratio in ratios):
        return None
    return {"tiles": own, "encoder": trained}


def extract(encoder: Encoder, task: TileTask, batch_size: int) -> np.ndarray:
    """Return the features of every tile of the task, float32 (N, D); tiles are read a few batches ahead.

    Raises:
        FloatingPointError: a feature is not finite.
    """
    features = np.empty((len(task.tiles), encoder.feature_dim), dtype=np.float32)
    rows = np.arange(len(features))
    parts = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    for part, tiles in zip(parts, read_ahead(task.read, parts), strict=True):
        features[part] = encoder.features(tiles)
    if not np.isfinite(features).all():
        raise FloatingPointError(f"encoder {encoder.name} gave features that are not finite")
    return features
