"""Scores from units: the one place where a number is made from answers, for every engine alike.

Every metric takes an optional weight per unit, as bootstrap multiplicities need it: `(N,)` gives one number, `(N, R)` gives one per
column. Weights are non-negative counts or reals. Where a metric is not defined (no weight at all; one class only) it is NaN.
"""

from typing import Any

import numpy as np
import pyarrow as pa

from results.kinds import KINDS
from results.kinds.classification import (
    Predictions,
    accuracy,
    balanced_accuracy,
    calibration_error,
    macro_auroc,
    macro_f1,
)
from results.kinds.detection import Boxes
from results.kinds.segmentation import Pixels
from results.units import canonical_units, kind_of
from results.weights import Metric

__all__ = [
    "METRICS", "Boxes", "Metric", "Pixels", "Predictions", "accuracy", "answers_of", "balanced_accuracy", "calibration_error",
    "macro_auroc", "macro_f1", "metrics_of", "score_all", "score_units",
]  # fmt: skip

METRICS: dict[str, dict[str, Metric]] = {name: kind.metrics for name, kind in KINDS.items()}
"""kind -> name -> metric; `METRICS[kind][name](answers, weight)`."""


def answers_of(units: pa.Table) -> Any:
    """Return the answers that canonical units hold: `Predictions`, `Pixels` or `Boxes`."""
    return KINDS[kind_of(units)].answers(units)


def metrics_of(answers: Any) -> dict[str, Metric]:
    """Return every metric of these answers by name, those of single classes last."""
    return KINDS[answers.kind].all_metrics(answers.classes)


def score_all(answers: Any) -> dict[str, float]:
    """Return every metric of one trial by name, in a record's order; NaN where one is not defined."""
    whole = answers.under(np.ones((len(answers), 1)))
    return {name: float(metric.of(whole)[0]) for name, metric in metrics_of(answers).items()}


def score_units(units: pa.Table, kind: str | None = None) -> list[dict[str, Any]]:
    """Score one trial's units by every metric, in the form of a record's `metrics`.

    Args:
        units: see `results.units.canonical_units`.
        kind: of the task; recognised from the columns when it is left out.

    Returns:
        One `{"name", "value", "unit"}` a metric; the unit is `fraction` (0 to 1), the value None where not defined.

    Raises:
        UserError: when the units break the contract.
    """
    scored = score_all(answers_of(canonical_units(units, "the units to score", kind)))
    return [
        {"name": name, "value": None if np.isnan(value) else value, "unit": "fraction"}
        for name, value in scored.items()
    ]
