"""What a metric is, and the weights it takes: one per scored unit, as bootstrap multiplicities need them."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Metric:
    """A number made from one trial's answers.

    Attributes:
        title: its name in tables.
        of: answers under weights (what `answers.under((N, R))` returns) -> (R,) float64.
        lower_is_better: turns every comparison around.
    """

    title: str
    of: Callable[[Any], np.ndarray]
    lower_is_better: bool = False

    def __call__(self, answers: Any, weight: np.ndarray | None = None) -> Any:
        """Return a float, or (R,) float64 for weights (N, R); NaN where the metric is not defined."""
        columns, single = weight_columns(len(answers), weight)
        return shaped(self.of(answers.under(columns)), single)


def weight_columns(count: int, weight: np.ndarray | None) -> tuple[np.ndarray, bool]:
    """Return weights as (N, R) float64 and whether the caller wants one number."""
    if weight is None:
        return np.ones((count, 1)), True
    weight = np.asarray(weight, dtype=np.float64)
    if weight.ndim not in (1, 2) or len(weight) != count:
        raise ValueError(f"weight must be ({count},) or ({count}, R), not {weight.shape}")
    return (weight[:, None], True) if weight.ndim == 1 else (weight, False)


def shaped(values: np.ndarray, single: bool) -> Any:
    """Return (R,) values, or the only one of them as a float."""
    return float(values[0]) if single else values


def share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return part / whole with NaN where whole is 0."""
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)


def mean_defined(values: np.ndarray) -> np.ndarray:
    """Return the mean over axis 0 of the values that are not NaN; NaN where there is none."""
    defined = ~np.isnan(values)
    return share(np.where(defined, values, 0.0).sum(0), np.asarray(defined.sum(0), dtype=float))


def digests(rows: Iterable[bytes]) -> np.ndarray:
    """Return a 64-bit hash of every row's bytes, (N,) int64: equal truth has equal numbers."""
    hashes = [hashlib.blake2b(row, digest_size=8).digest() for row in rows]
    return np.frombuffer(b"".join(hashes), dtype=np.int64)
