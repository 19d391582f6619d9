"""What an engine is given and what it gives back."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Fit:
    """All that an engine may learn from; it never sees a test label.

    Attributes:
        train, validation, test: float32 features (n, D), (v, D), (m, D).
        train_labels, validation_labels: int32 (n,), (v,), below `classes`.
        classes: number of classes C.
    """

    train: np.ndarray
    train_labels: np.ndarray
    validation: np.ndarray
    validation_labels: np.ndarray
    test: np.ndarray
    classes: int


@dataclass(frozen=True)
class Predictions:
    """Classes int32 (m,) and scores float32 (m, C) of the test units, and a remark on what the engine chose by itself."""

    predicted: np.ndarray
    scores: np.ndarray
    remark: str = ""
