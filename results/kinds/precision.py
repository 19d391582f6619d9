"""Average precision from matches, for any weighting of the images: COCO's accumulation without matching anew."""

import numpy as np

from results.kinds.matching import Ranked

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""IoU thresholds of COCO's AP."""
RECALLS = np.linspace(0.0, 1.0, 101)
"""Recalls at which COCO reads the precision."""
BLOCK = 2**18
"""Boxes x weightings held at once: 2 MiB of float64."""


def average_precision(ranked: Ranked, weight: np.ndarray) -> np.ndarray:
    """Return one class's average precision at every IoU threshold and weighting, (T, R); NaN where no truth has weight.

    As in pycocotools: precision made non-increasing from the right, read at 101 recalls, 0 beyond the last one reached. A
    box counts as often as its image; all copies of one stand together among equal scores. Precision falls at every wrong
    box, so it needs to be known at the right ones only.

    Args:
        ranked: the matches.
        weight: (N, R) float64, of the images.
    """
    right = [np.flatnonzero(row) for row in ranked.right]
    ignored = [np.flatnonzero(row) for row in ranked.ignored]
    before = [np.searchsorted(skip, hit) for skip, hit in zip(ignored, right, strict=True)]
    truth = np.bincount(ranked.truth_image, minlength=len(weight)).astype(np.float64) @ weight
    values = np.full((len(right), weight.shape[1]), np.nan)
    defined = np.flatnonzero(truth > 0)
    step = max(1, BLOCK // max(1, len(ranked.image)))
    for first in range(0, len(defined), step):
        part = defined[first : first + step]
        own = np.ascontiguousarray(weight[:, part].T)[:, ranked.image]
        passed = np.cumsum(own, axis=1)
        for place, (hit, skip) in enumerate(zip(right, ignored, strict=True)):
            counted = passed[:, hit]
            if len(skip):
                skipped = np.zeros((len(part), len(skip) + 1))
                np.cumsum(own[:, skip], axis=1, out=skipped[:, 1:])
                counted = counted - skipped[:, before[place]]
            values[place, part] = _area(np.cumsum(own[:, hit], axis=1), counted, truth[part])
    return values


def _area(right: np.ndarray, counted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the mean precision over `RECALLS`, (r,).

    Args:
        right: (r, n) running sums of right boxes.
        counted: (r, n) running sums of right and wrong boxes.
        truth: (r,) how much there is to find.
    """
    precision = np.zeros((len(right), right.shape[1] + 1))
    precision[:, :-1] = np.maximum.accumulate((right / (counted + np.spacing(1)))[:, ::-1], axis=1)[:, ::-1]
    reached = [np.searchsorted(row, RECALLS) for row in right / truth[:, None]]
    return np.take_along_axis(precision, np.stack(reached), axis=1).mean(1)
