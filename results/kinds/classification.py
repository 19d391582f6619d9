"""Classification: one row a tile, with its label, the predicted class and a score for every class."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from results import columns
from results.errors import UserError
from results.weights import Metric, mean_defined, shaped, share, weight_columns

SCORE = "score_"
BINS = 15
SUM_TOLERANCE = 1e-3
"""How far a row's scores may miss a sum of 1 and still be read as probabilities; half precision stays within it."""


def canonical(units: pa.Table, where: str) -> pa.Table:
    """Return the units with the columns and types of the record contract, or say what is wrong with them.

    Args:
        units: columns `unit` (tile id, integer or text), `cluster` (slide), `label`, `predicted` and at least two
            `score_<class>`. Class `i` is the i-th score column: labels and predictions index them.
        where: file or cell name for the messages.

    Returns:
        The same rows: `unit` as given, `cluster` string, `label` and `predicted` int32, scores float32.

    Raises:
        UserError: for a missing, unknown, empty-valued or wrongly typed column, a label outside the classes, a
            non-finite score, no rows at all, or a tile that appears twice.
    """
    names = units.column_names
    scores = [name for name in names if name.startswith(SCORE)]
    if sorted(names) != sorted({"unit", "cluster", "label", "predicted", *scores}) or len(scores) < 2:
        raise UserError(
            f"{where}: the units need each of unit, cluster, label, predicted and two or more score_<class> once, "
            f"not the columns {', '.join(names)}."
        )
    checked = columns.identity(units, "tile", where)
    for name in ("label", "predicted", *scores):
        kind = pa.float32() if name in scores else pa.int32()
        checked[name] = columns.plain(units[name], kind, name, where)
        columns.full(checked[name], name, where)
    for name in ("label", "predicted"):
        span = pc.min_max(checked[name]).as_py()
        if span["min"] < 0 or span["max"] >= len(scores):
            raise UserError(
                f"{where}: column '{name}' of the units must index the {len(scores)} classes from 0, "
                f"but spans {span['min']} to {span['max']}."
            )
    for name in scores:
        if not np.isfinite(checked[name].to_numpy()).all():
            raise UserError(f"{where}: column '{name}' of the units has values that are not finite.")
    return pa.table(checked)


@dataclass(frozen=True)
class Predictions:
    """One trial's answers: `label` (N,) int32, `predicted` (N,) int32, `scores` (N, C) float32.

    Labels index the columns of `scores`, whose names are `classes`.
    """

    kind: ClassVar[str] = "classification"
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

    def __len__(self) -> int:
        return len(self.label)

    @property
    def rules(self) -> tuple[Any, ...]:
        """What must be the same in every answer to one task."""
        return self.classes

    def truth(self) -> np.ndarray:
        """Return one number a tile, (N,), that is equal where the truth is."""
        return np.asarray(self.label)

    def under(self, weight: np.ndarray) -> "Weighted":
        """Return these answers under weights (N, R)."""
        return Weighted(self.label, self.predicted, self.scores, weight)


@dataclass(frozen=True)
class Weighted:
    """Answers under weights (N, R), and the sums that several metrics share."""

    label: np.ndarray
    predicted: np.ndarray
    scores: np.ndarray
    weight: np.ndarray

    @cached_property
    def counts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Weight of the tiles of every class that were right, that are of it and that were called so, (C, R) each."""
        return _counts(self.label, self.predicted, self.weight)


def _counts(label: np.ndarray, predicted: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    label, predicted = np.asarray(label), np.asarray(predicted)
    classes = np.arange(max(label.max(), predicted.max()) + 1 if len(label) else 0)[:, None]
    truth, called = (classes == label).astype(np.float64), (classes == predicted).astype(np.float64)
    return (truth * called) @ weight, truth @ weight, called @ weight


def _recall(drawn: Weighted) -> np.ndarray:
    right, truth, _ = drawn.counts
    return mean_defined(share(right, truth))


def _accuracy(drawn: Weighted) -> np.ndarray:
    right, truth, _ = drawn.counts
    return share(right.sum(0), truth.sum(0))


def _f1(drawn: Weighted) -> np.ndarray:
    right, truth, called = drawn.counts
    return mean_defined(share(2 * right, truth + called))


def accuracy(label: np.ndarray, predicted: np.ndarray, weight: np.ndarray | None = None) -> Any:
    """Return the weighted share of units whose class was predicted.

    Args:
        label: (N,) integer classes.
        predicted: (N,) integer classes.
        weight: (N,) or (N, R) or None.

    Returns:
        float, or (R,) float64 for weights (N, R).
    """
    return METRICS["accuracy"](Predictions(label, predicted, np.empty((len(label), 0))), weight)


def balanced_accuracy(label: np.ndarray, predicted: np.ndarray, weight: np.ndarray | None = None) -> Any:
    """Return the mean recall over the classes that carry weight (Brodersen et al., ICPR 2010; as scikit-learn has it).

    Arguments and return as in `accuracy`.
    """
    return METRICS["balanced_accuracy"](Predictions(label, predicted, np.empty((len(label), 0))), weight)


def macro_f1(label: np.ndarray, predicted: np.ndarray, weight: np.ndarray | None = None) -> Any:
    """Return F1 = 2 TP / (2 TP + FP + FN), averaged over the classes that carry weight among labels or predictions.

    A class that is predicted but not there has F1 0 and counts, as in scikit-learn. Arguments and return as in `accuracy`.
    """
    return METRICS["macro_f1"](Predictions(label, predicted, np.empty((len(label), 0))), weight)


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
    weight, single = weight_columns(len(label), weight)
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
        areas[column] = share(wins, weight[positive].sum(0) * below[-1])
    return shaped(mean_defined(areas), single)


def calibration_error(label: np.ndarray, scores: np.ndarray, weight: np.ndarray | None = None) -> Any:
    """Return the expected calibration error of the top class in 15 equal-width bins (Guo et al., ICML 2017).

    Bin m holds the units whose highest score lies in ((m - 1) / 15, m / 15]; the error is the sum over bins of
    |weight of right units - sum of their highest scores|, over the whole weight. Of equal highest scores the first class
    counts. The scores must be probabilities: when any row has a score below 0 or a sum farther than 0.001 from 1, the
    error is NaN for every weighting. Shares of a kNN vote are such probabilities; the margins of a hinge loss are not.

    Arguments and return as in `macro_auroc`.
    """
    weight, single = weight_columns(len(label), weight)
    scores = np.asarray(scores, dtype=np.float64)
    if (scores < 0).any() or (np.abs(scores.sum(1) - 1) > SUM_TOLERANCE).any():
        return shaped(np.full(weight.shape[1], np.nan), single)
    top = scores.max(1)
    surplus = (scores.argmax(1) == np.asarray(label)) - top
    place = np.digitize(top, np.linspace(0, 1, BINS + 1)[1:-1], right=True)
    member = (np.arange(BINS)[:, None] == place) * surplus
    return shaped(share(np.abs(member @ weight).sum(0), weight.sum(0)), single)


METRICS = {
    "balanced_accuracy": Metric("balanced accuracy", _recall),
    "accuracy": Metric("accuracy", _accuracy),
    "macro_auroc": Metric("macro AUROC", lambda drawn: macro_auroc(drawn.label, drawn.scores, drawn.weight)),
    "macro_f1": Metric("macro F1", _f1),
    "calibration_error": Metric(
        "calibration error", lambda drawn: calibration_error(drawn.label, drawn.scores, drawn.weight), True
    ),
}


def remarks(trials: Sequence[Predictions]) -> list[str]:
    """Say under a table what a reader must know of these metrics."""
    return [
        f"Calibration error: expected calibration error of the top class, {BINS} bins of equal width; lower is better."
    ]
