"""Segmentation: one row a region, with how many px of every true class were predicted as every class."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from results import columns
from results.errors import UserError
from results.weights import Metric, digests, mean_defined, share

PIXELS = "pixels_"
PER_CLASS = "iou_"


def canonical(units: pa.Table, where: str) -> pa.Table:
    """Return the units with the columns and types of the record contract, or say what is wrong with them.

    Args:
        units: columns `unit` (region name), `cluster` (slide) and for each of C >= 2 classes, in their order,
            `pixels_<class>`: a list of length C, how many px of this true class were predicted as class 0 to C - 1.
            Ignored px are in no count.
        where: file or cell name for the messages.

    Returns:
        The same rows: `unit` as given, `cluster` string, counts list<int64>.

    Raises:
        UserError: for a missing, unknown, empty-valued or wrongly typed column, a list of another length, a negative
            count, no rows at all, or a region that appears twice.
    """
    names = units.column_names
    counts = [name for name in names if name.startswith(PIXELS)]
    if sorted(names) != sorted({"unit", "cluster", *counts}) or len(counts) < 2:
        raise UserError(
            f"{where}: the units need each of unit, cluster and two or more pixels_<class> once, "
            f"not the columns {', '.join(names)}."
        )
    checked = columns.identity(units, "region", where)
    for name in counts:
        checked[name] = columns.lists(units[name], pa.int64(), name, where)
        values, lengths = columns.flat(checked[name])
        if (lengths != len(counts)).any():
            raise UserError(
                f"{where}: column '{name}' of the units must list px by the {len(counts)} predicted classes, "
                f"but has lists of {lengths.min()} to {lengths.max()}."
            )
        if values.min() < 0:
            raise UserError(f"{where}: column '{name}' of the units has a negative count of px ({values.min()}).")
    return pa.table(checked)


@dataclass(frozen=True)
class Pixels:
    """One trial's answers: `counts` (N, C, C) int64, px of region n and true class i predicted as class j."""

    kind: ClassVar[str] = "segmentation"
    counts: np.ndarray
    classes: tuple[str, ...]

    @classmethod
    def of(cls, units: pa.Table) -> "Pixels":
        """Take the columns of a canonical units table."""
        classes = tuple(columns.named(units.column_names, PIXELS))
        rows = [columns.flat(units[PIXELS + name])[0].reshape(-1, len(classes)) for name in classes]
        return cls(np.stack(rows, axis=1), classes)

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def rules(self) -> tuple[Any, ...]:
        """What must be the same in every answer to one task."""
        return self.classes

    def truth(self) -> np.ndarray:
        """Return one number a region, (N,) int64, that is equal where the true px per class are."""
        return digests(row.tobytes() for row in self.counts.sum(2))

    def under(self, weight: np.ndarray) -> "Weighted":
        """Return these answers under weights (N, R)."""
        return Weighted(self.counts, weight)


@dataclass(frozen=True)
class Weighted:
    """The px of regions under weights (N, R), summed."""

    counts: np.ndarray
    weight: np.ndarray

    def _sum(self, per_class: np.ndarray) -> np.ndarray:
        return per_class.T.astype(np.float64) @ self.weight

    @cached_property
    def right(self) -> np.ndarray:
        """Px of every class predicted as it, (C, R)."""
        return self._sum(np.diagonal(self.counts, axis1=1, axis2=2))

    @cached_property
    def truth(self) -> np.ndarray:
        """True px of every class, (C, R)."""
        return self._sum(self.counts.sum(2))

    @cached_property
    def called(self) -> np.ndarray:
        """Predicted px of every class, (C, R)."""
        return self._sum(self.counts.sum(1))


def iou(drawn: Weighted) -> np.ndarray:
    """Return the intersection over union of every class, (C, R), from px summed over regions.

    A class that is neither there nor predicted is NaN and no part of a mean. One that is there and never predicted, or
    predicted and not there, has 0 and counts, so a false class costs what a missed one does.
    """
    return share(drawn.right, drawn.truth + drawn.called - drawn.right)


def dice(drawn: Weighted) -> np.ndarray:
    """Return the Dice coefficient of every class, (C, R), from px summed over regions; defined where `iou` is."""
    return share(2 * drawn.right, drawn.truth + drawn.called)


METRICS = {
    "miou": Metric("mIoU", lambda drawn: mean_defined(iou(drawn))),
    "mdice": Metric("mDice", lambda drawn: mean_defined(dice(drawn))),
    "pixel_accuracy": Metric("pixel accuracy", lambda drawn: share(drawn.right.sum(0), drawn.truth.sum(0))),
}


def per_class(classes: Sequence[str]) -> dict[str, Metric]:
    """Return the IoU of every class as a metric of its own."""
    return {f"{PER_CLASS}{name}": Metric(f"IoU {name}", _of_class(place)) for place, name in enumerate(classes)}


def _of_class(place: int) -> Any:
    return lambda drawn: iou(drawn)[place]


def remarks(trials: Sequence[Pixels]) -> list[str]:
    """Say under a table what a reader must know of these metrics."""
    return [
        "IoU and Dice are of the px of all regions of a trial (or draw) summed, ignored px left out; their means are over "
        "the classes that are there or predicted."
    ]
