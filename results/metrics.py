"""Classification scores from predictions: the one place where a number is made from labels, for every engine alike.

Every metric takes an optional weight per unit, as bootstrap multiplicities need it: `(N,)` gives one number, `(N, R)` gives one per
column. Weights are non-negative counts or reals. Where a metric is not defined (no weight at all; one class only) it is NaN.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from results.units import SCORE, canonical_units


@dataclass(frozen=True)
class Predictions:
    """One trial's answers: `label` (N,) int32, `predicted` (N,) int32, `scores` (N, C) float32.

    Labels index the columns of `scores`, whose names are `classes`.
    """

    label: np.ndarray
    predicted: np.ndarray
    scores: np.ndarray
    classes: tuple[str, ...] = ()

    @classmethod
    def of(cls, units: pa.Table) -> "Predictions":
        """Take the columns of a canonical units table."""
        names = [name for name in units.column_names if name.startswith(SCORE)]
        scores = np.stack([units[name].to_numpy() for name in names], axis=1)
        classes = tuple(name.removeprefix(SCORE) for name in names)
        return cls(units["label"].to_numpy(), units["predicted"].to_numpy(), scores, classes)


def _columns(count: int, weight: np.ndarray | None) -> tuple[np.ndarray, bool]:
    """Return weights as (N, R) float64 and whether the caller wants one number."""
    if weight is None:
        return np.ones((count, 1)), True
    weight = np.asarray(weight, dtype=np.float64)
    if weight.ndim not in (1, 2) or len(weight) != count:
        raise ValueError(f"weight must be ({count},) or ({count}, R), not {weight.shape}")
    return (weight[:, None], True) if weight.ndim == 1 else (weight, False)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return part / whole with NaN where whole is 0."""
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)


def _mean_defined(values: np.ndarray) -> np.ndarray:
    """Return the mean over axis 0 of the values that are not NaN: (C, R) to (R,)."""
    defined = ~np.isnan(values)
    return _share(np.where(defined, values, 0.0).sum(0), defined.sum(0).astype(float))


def _shaped(values: np.ndarray, single: bool) -> Any:
    return float(values[0]) if single else values


def accuracy(label: np.ndarray, predicted: np.ndarray, weight: np.ndarray | None = None) -> Any:
    """Return the weighted share of units whose class was predicted.

    Args:
        label: (N,) integer classes.
        predicted: (N,) integer classes.
        weight: (N,) or (N, R) or None.

    Returns:
        float, or (R,) float64 for weights (N, R).
    """
    weight, single = _columns(len(label), weight)
    hit = (np.asarray(label) == np.asarray(predicted)).astype(np.float64)
    return _shaped(_share(hit @ weight, weight.sum(0)), single)


def balanced_accuracy(label: np.ndarray, predicted: np.ndarray, weight: np.ndarray | None = None) -> Any:
    """Return the mean recall over the classes that carry weight (Brodersen et al., ICPR 2010; as scikit-learn has it).

    Arguments and return as in `accuracy`.
    """
    weight, single = _columns(len(label), weight)
    label = np.asarray(label)
    classes, code = np.unique(label, return_inverse=True)
    member = (code[None, :] == np.arange(len(classes))[:, None]).astype(np.float64)
    hit = (label == np.asarray(predicted)).astype(np.float64)
    recall = _share((member * hit) @ weight, member @ weight)
    return _shaped(_mean_defined(recall), single)


def macro_auroc(label: np.ndarray, scores: np.ndarray, weight: np.ndarray | None = None) -> Any:
    """Return the one-vs-rest area under the ROC curve, averaged over classes that have positives and negatives.

    The area is the chance that a positive outranks a negative, a tie counting one half (Hanley & McNeil, Radiology
    1982): sum over positives i of w_i * (W(negatives below i) + W(negatives not above i)) / 2, over W+ W-. One sort of
    the negatives per class serves all R weightings.

    Args:
        label: (N,) integer classes that index the columns of `scores`.
        scores: (N, C), larger means more likely; any monotone scale.
        weight: (N,) or (N, R) or None.

    Returns:
        float, or (R,) float64 for weights (N, R).
    """
    weight, single = _columns(len(label), weight)
    label, scores = np.asarray(label), np.asarray(scores)
    areas = np.full((scores.shape[1], weight.shape[1]), np.nan)
    for column in range(scores.shape[1]):
        positive = np.flatnonzero(label == column)
        negative = np.flatnonzero(label != column)
        if len(positive) == 0 or len(negative) == 0:
            continue
        negative = negative[np.argsort(scores[negative, column], kind="stable")]
        below = np.zeros((len(negative) + 1, weight.shape[1]))
        np.cumsum(weight[negative], axis=0, out=below[1:])
        ranked, asked = scores[negative, column], scores[positive, column]
        low = np.searchsorted(ranked, asked, side="left")
        high = np.searchsorted(ranked, asked, side="right")
        wins = np.einsum("nr,nr->r", weight[positive], below[low])
        tied = np.flatnonzero(low != high)
        wins += np.einsum("nr,nr->r", weight[positive[tied]], below[high[tied]] - below[low[tied]]) / 2
        areas[column] = _share(wins, weight[positive].sum(0) * below[-1])
    return _shaped(_mean_defined(areas), single)


METRICS: dict[str, Callable[[Predictions, np.ndarray | None], Any]] = {
    "balanced_accuracy": lambda answers, weight=None: balanced_accuracy(answers.label, answers.predicted, weight),
    "accuracy": lambda answers, weight=None: accuracy(answers.label, answers.predicted, weight),
    "macro_auroc": lambda answers, weight=None: macro_auroc(answers.label, answers.scores, weight),
}


def score_units(units: pa.Table) -> list[dict[str, Any]]:
    """Score one trial's units by every metric, in the form of a record's `metrics`.

    Args:
        units: see `results.units.canonical_units`.

    Returns:
        One `{"name", "value", "unit"}` a metric; the unit is `fraction` (0 to 1), the value None where not defined.

    Raises:
        UserError: when the units break the contract.
    """
    answers = Predictions.of(canonical_units(units, "the units to score"))
    scored = []
    for name, metric in METRICS.items():
        value = metric(answers, None)
        scored.append({"name": name, "value": None if np.isnan(value) else value, "unit": "fraction"})
    return scored
