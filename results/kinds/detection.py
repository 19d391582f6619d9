"""Detection: one row an image, with the true and the found boxes of every class."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from results import columns
from results.errors import UserError
from results.kinds.matching import MAX_DETECTIONS, Ranked, by_distance, by_iou
from results.kinds.precision import THRESHOLDS, average_precision
from results.weights import Metric, digests, mean_defined, share

TRUTH, FOUND = "truth_", "found_"
PER_CLASS = "ap_"
MATCH_PX, SCORE_THRESHOLD = "match_px", "score_threshold"
DEFAULTS = {MATCH_PX: 12.0, SCORE_THRESHOLD: 0.5}
"""Of the metadata of the units: 12 px are about 3 um at 40x, within which nucleus papers match centres."""


def canonical(units: pa.Table, where: str) -> pa.Table:
    """Return the units with the columns, types and metadata of the record contract, or say what is wrong with them.

    Args:
        units: columns `unit` (image name), `cluster` (slide) and for every class, in their order, `truth_<class>` and
            `found_<class>`: flat lists of five numbers a box, x0, y0, x1, y1 in px and then `ignore` (0 or 1) of a true
            box, the score (0 to 1) of a found one. The schema's metadata may hold `match_px`, the distance of centres
            (px) within which a nucleus counts as found, and `score_threshold`, below which boxes do not count for F1.
        where: file or cell name for the messages.

    Returns:
        The same rows: `unit` as given, `cluster` string, boxes list<float32>; both metadata keys are written.

    Raises:
        UserError: for a missing, unknown, empty-valued or wrongly typed column, a list that is not of fives, a value
            that is not finite, a box with x1 < x0 or y1 < y0, an ignore or score outside its range, metadata that are
            no fitting numbers, no rows at all, or an image that appears twice.
    """
    names = units.column_names
    classes = columns.named(names, TRUTH)
    pairs = [name for label in classes for name in (TRUTH + label, FOUND + label)]
    if sorted(names) != sorted(["unit", "cluster", *pairs]) or not classes or columns.named(names, FOUND) != classes:
        raise UserError(
            f"{where}: the units need each of unit, cluster and, for every class in one order, truth_<class> and "
            f"found_<class> once, not the columns {', '.join(names)}."
        )
    metadata = _metadata(units, where)
    checked = columns.identity(units, "image", where)
    for name in pairs:
        checked[name] = columns.lists(units[name], pa.float32(), name, where)
        _check_boxes(*columns.flat(checked[name]), name, where)
    return pa.table(checked).replace_schema_metadata({key: repr(value) for key, value in metadata.items()})


def _check_boxes(values: np.ndarray, lengths: np.ndarray, name: str, where: str) -> None:
    column = f"{where}: column '{name}' of the units"
    if (lengths % 5).any():
        raise UserError(f"{column} must hold five numbers a box, but has a list of {lengths[lengths % 5 > 0][0]}.")
    if not np.isfinite(values).all():
        raise UserError(f"{column} has values that are not finite.")
    boxes = values.reshape(-1, 5)
    turned = (boxes[:, 2:4] < boxes[:, :2]).any(1)
    if turned.any():
        corners = ", ".join(f"{value:g}" for value in boxes[turned][0, :4])
        raise UserError(f"{column} has a box with x1 < x0 or y1 < y0: {corners}.")
    last = boxes[:, 4]
    if name.startswith(TRUTH) and not np.isin(last, (0, 1)).all():
        raise UserError(f"{column} must mark every box with ignore 0 or 1, not {last[~np.isin(last, (0, 1))][0]:g}.")
    if name.startswith(FOUND) and ((last < 0) | (last > 1)).any():
        raise UserError(f"{column} must give every box a score of 0 to 1, not {last[(last < 0) | (last > 1)][0]:g}.")


def _metadata(units: pa.Table, where: str) -> dict[str, float]:
    given = {key.decode(): value.decode() for key, value in (units.schema.metadata or {}).items()}
    found = {}
    for key, default in DEFAULTS.items():
        try:
            found[key] = float(given.get(key, default))
        except ValueError:
            found[key] = math.nan
        low, high = (0, 1) if key == SCORE_THRESHOLD else (1e-6, 1e6)
        if not low <= found[key] <= high:
            raise UserError(
                f"{where}: the units' metadata '{key}' must be a number of {low:g} to {high:g}, not {given[key]}."
            )
    return found


@dataclass(frozen=True)
class Boxes:
    """One trial's answers.

    Attributes:
        classes: C names.
        true, found: per class the boxes of all images, (M, 5) float32 as in the units.
        true_image, found_image: per class the row of each box's image, (M,) int64, ascending.
        count: N images.
        match_px: distance of centres that counts as found, px.
        score_threshold: found boxes below it do not count for F1.
    """

    kind: ClassVar[str] = "detection"
    classes: tuple[str, ...]
    true: tuple[np.ndarray, ...]
    true_image: tuple[np.ndarray, ...]
    found: tuple[np.ndarray, ...]
    found_image: tuple[np.ndarray, ...]
    count: int
    match_px: float = DEFAULTS[MATCH_PX]
    score_threshold: float = DEFAULTS[SCORE_THRESHOLD]

    @classmethod
    def of(cls, units: pa.Table) -> "Boxes":
        """Take the columns of a canonical units table."""
        classes = tuple(columns.named(units.column_names, TRUTH))
        parts = {}
        for prefix in (TRUTH, FOUND):
            pairs = [columns.flat(units[prefix + name]) for name in classes]
            parts[prefix] = (
                tuple(values.reshape(-1, 5) for values, _ in pairs),
                tuple(np.repeat(np.arange(units.num_rows), lengths // 5) for _, lengths in pairs),
            )
        limits = {key: float((units.schema.metadata or {}).get(key.encode(), DEFAULTS[key])) for key in DEFAULTS}
        return cls(classes, *parts[TRUTH], *parts[FOUND], units.num_rows, limits[MATCH_PX], limits[SCORE_THRESHOLD])

    def __len__(self) -> int:
        return self.count

    @property
    def rules(self) -> tuple[Any, ...]:
        """What must be the same in every answer to one task."""
        return (*self.classes, self.match_px)

    def truth(self) -> np.ndarray:
        """Return one number an image, (N,) int64, that is equal where the true boxes are, in whatever order."""
        parts = [[] for _ in range(self.count)]
        for boxes, image in zip(self.true, self.true_image, strict=True):
            boxes, image = boxes + np.float32(0), np.asarray(image)  # -0 becomes 0
            order = np.lexsort((*boxes.T[::-1], image))
            for row, own in enumerate(np.split(boxes[order], np.searchsorted(image, np.arange(1, self.count)))):
                parts[row].append(own.tobytes())
        return digests(b"|".join(part) for part in parts)

    def under(self, weight: np.ndarray) -> "Weighted":
        """Return these answers under weights (N, R)."""
        return Weighted(self, weight)

    @cached_property
    def ranked(self) -> tuple[Ranked, ...]:
        """Per class the found boxes by falling score with what they were matched to by IoU; made once, on demand."""
        return tuple(
            by_iou(*parts, THRESHOLDS)
            for parts in zip(self.true, self.true_image, self.found, self.found_image, strict=True)
        )

    @cached_property
    def counts_by_iou(self) -> np.ndarray:
        """Right, wrong and missed boxes of every image at IoU 0.5 and the score threshold, (N, 3) int64."""
        total = np.zeros((self.count, 3), dtype=np.int64)
        for one in self.ranked:
            above = one.score >= np.float32(self.score_threshold)
            right, wrong = one.right[0] & above, ~one.right[0] & ~one.ignored[0] & above
            right, wrong = (np.bincount(one.image[which], minlength=self.count) for which in (right, wrong))
            truth = np.bincount(one.truth_image, minlength=self.count)
            total += np.stack([right, wrong, truth - right], axis=1)
        return total

    @cached_property
    def counts_by_distance(self) -> np.ndarray:
        """The same by distance of centres."""
        total = np.zeros((self.count, 3), dtype=np.int64)
        for true, true_image, found, image in zip(
            self.true, self.true_image, self.found, self.found_image, strict=True
        ):
            above = found[:, 4] >= np.float32(self.score_threshold)
            total += by_distance(true, true_image, found[above], image[above], self.match_px, self.count)
        return total


@dataclass(frozen=True)
class Weighted:
    """Boxes of images under weights (N, R)."""

    boxes: Boxes
    weight: np.ndarray

    @cached_property
    def precision(self) -> np.ndarray:
        """Average precision of every IoU threshold and class, (T, C, R); NaN for a class without truth."""
        return np.stack([average_precision(one, self.weight) for one in self.boxes.ranked], axis=1)


def ap(drawn: Weighted) -> np.ndarray:
    """Return COCO's AP, (R,): the mean over classes that have truth and IoU 0.50 to 0.95 in steps of 0.05.

    As pycocotools has it for bbox, area `all`, with at most 300 boxes a class and image; ignored truth is its `iscrowd`.
    """
    return mean_defined(drawn.precision.mean(0))


def _ap_at(threshold: float) -> Any:
    place = int(np.argmin(np.abs(THRESHOLDS - threshold)))
    return lambda drawn: mean_defined(drawn.precision[place])


def _f1(counts: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return F1 = 2 TP / (2 TP + FP + FN), (R,), from right, wrong and missed boxes of images (N, 3); micro over classes."""
    right, wrong, missed = counts.T.astype(np.float64) @ weight
    return share(2 * right, 2 * right + wrong + missed)


METRICS = {
    "ap": Metric("AP", ap),
    "ap50": Metric("AP50", _ap_at(0.5)),
    "ap75": Metric("AP75", _ap_at(0.75)),
    "f1_iou50": Metric("F1 (IoU 0.5)", lambda drawn: _f1(drawn.boxes.counts_by_iou, drawn.weight)),
    "f1_distance": Metric("F1 (centres)", lambda drawn: _f1(drawn.boxes.counts_by_distance, drawn.weight)),
}


def per_class(classes: Sequence[str]) -> dict[str, Metric]:
    """Return the AP of every class as a metric of its own."""
    return {f"{PER_CLASS}{name}": Metric(f"AP {name}", _of_class(place)) for place, name in enumerate(classes)}


def _of_class(place: int) -> Any:
    return lambda drawn: drawn.precision[:, place].mean(0)


def remarks(trials: Sequence[Boxes]) -> list[str]:
    """Say under a table what a reader must know of these metrics."""
    if not trials:
        return []
    thresholds = sorted({trial.score_threshold for trial in trials})
    span = " to ".join(f"{value:g}" for value in sorted({thresholds[0], thresholds[-1]}))
    return [
        f"AP: COCO, boxes of any size, at most {MAX_DETECTIONS} a class and image; mean over the classes that have truth.",
        f"F1: all classes counted together, boxes scored {span} or more (each trial's own threshold), matched one to one "
        f"within a class at IoU 0.5, or by centres at most {trials[0].match_px:g} px apart.",
    ]
