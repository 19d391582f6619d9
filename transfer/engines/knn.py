"""Nearest neighbours: what the geometry of the features is worth with nothing trained on top."""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from transfer.engines.base import Fit, Predictions

CHUNK = 1024
"""Test rows compared at once; memory is CHUNK x n float32."""


@dataclass(frozen=True)
class KNN:
    """Cosine neighbours, each voting with weight exp(similarity / temperature), as DINO does (Caron et al. 2021; Wu et al. 2018).

    The reference set is train and validation together, since nothing is chosen. A class's score is its share of the vote.
    Equal similarities are taken in the order of the reference rows, equal votes in the order of the classes.
    """

    trains: ClassVar[bool] = False
    k: int = 20
    temperature: float = 0.07

    def settings(self) -> dict[str, Any]:
        return {**asdict(self), "similarity": "cosine", "vote": "exp(similarity / temperature)"}

    def predict(self, fit: Fit) -> Predictions:
        """Label the test rows; with fewer than k reference rows all of them vote."""
        reference = _unit(np.concatenate([fit.train, fit.validation]))
        labels = np.concatenate([fit.train_labels, fit.validation_labels])
        test, k = _unit(fit.test), min(self.k, len(reference))
        scores = np.empty((len(test), fit.classes), dtype=np.float32)
        for start in range(0, len(test), CHUNK):
            similarity = test[start : start + CHUNK] @ reference.T
            near = _largest(similarity, k)
            weights = np.exp((np.take_along_axis(similarity, near, axis=1).astype(np.float64) - 1) / self.temperature)
            votes = np.stack([(weights * (labels[near] == c)).sum(axis=1) for c in range(fit.classes)], axis=1)
            scores[start : start + CHUNK] = votes / votes.sum(axis=1, keepdims=True)
        return Predictions(scores.argmax(axis=1).astype(np.int32), scores)


def _unit(features: np.ndarray) -> np.ndarray:
    features = features.astype(np.float32)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def _largest(values: np.ndarray, k: int) -> np.ndarray:
    """Return the columns (rows, k) of each row's k largest values; among equals the first columns win."""
    threshold = -np.partition(-values, k - 1, axis=1)[:, k - 1 : k]
    above, level = values > threshold, values == threshold
    room = k - above.sum(axis=1, keepdims=True)
    chosen = above | (level & (np.cumsum(level, axis=1) <= room))
    return np.nonzero(chosen)[1].reshape(len(values), k)


ENGINES = {"knn": lambda schedule: KNN()}
