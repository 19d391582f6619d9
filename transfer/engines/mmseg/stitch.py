"""Whole regions from overlapping windows, and what was predicted as what."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from results.kinds.segmentation import Weighted, iou
from results.weights import mean_defined
from transfer.engines.mmseg.crops import GLASS, padded, starts
from transfer.tasks.segmentation import IGNORE

Bytes = NDArray[np.uint8]
Windows = Callable[[Bytes], torch.Tensor]
"""uint8 windows (B, S, S, 3) -> class probabilities float32 (B, C, S, S)."""

BATCH = 8
"""Windows in one forward pass."""
ROWS = 512
"""Rows that are compared at once."""


def stitched(predict: Windows, image: Bytes, side: int, overlap: int) -> Bytes:
    """Return the class of every px of a region, uint8 (h, w): the largest mean probability over the windows that cover it.

    Probabilities are held for one band of `side` rows at a time, C x side x w float32, so a region of 6000 x 6000 px (10,000 x
    10,000 at 0.3 um/px) in 5 classes with windows of 512 px takes 62 MB beside the image and the answer. Bands are done from
    top to bottom; the sum over windows has the same largest class as their mean, since every class has the same windows.
    """
    height, width = image.shape[:2]
    answer = np.empty((height, width), np.uint8)
    tops, lefts = starts(height, side, overlap), starts(width, side, overlap)
    band: NDArray[np.float32] | None = None
    for number, top in enumerate(tops):
        for left, scores in _windows(predict, image, top, lefts, side):
            if band is None:
                band = np.zeros((scores.shape[0], side, max(width, side)), np.float32)
            band[:, :, left : left + side] += scores
        done = (tops[number + 1] if number + 1 < len(tops) else height) - top
        answer[top : top + done] = band[:, :done, :width].argmax(axis=0)
        band[:, : side - done] = band[:, done:].copy()
        band[:, side - done :] = 0
    return answer


def _windows(
    predict: Windows, image: Bytes, top: int, lefts: list[int], side: int
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield the left border and the probabilities (C, S, S) of the windows of one row."""
    for start in range(0, len(lefts), BATCH):
        chosen = lefts[start : start + BATCH]
        batch = np.stack([padded(image[top : top + side, left : left + side], side, GLASS) for left in chosen])
        yield from zip(chosen, predict(batch).cpu().numpy(), strict=True)


def enlarged(labels: Bytes, height: int, width: int) -> Bytes:
    """Return classes (h, w) at another size (height, width), each px from the one that its centre lies in."""
    rows = (2 * np.arange(height) + 1) * labels.shape[0] // (2 * height)
    columns = (2 * np.arange(width) + 1) * labels.shape[1] // (2 * width)
    answer = np.empty((height, width), np.uint8)
    for start in range(0, height, ROWS):
        answer[start : start + ROWS] = labels[rows[start : start + ROWS]][:, columns]
    return answer


def confusion(truth: Bytes, predicted: Bytes, classes: int) -> NDArray[np.int64]:
    """Count px of true class i predicted as class j, int64 (C, C); px of `IGNORE` are left out, every other one counts once."""
    counts = np.zeros(classes * classes, np.int64)
    for start in range(0, len(truth), ROWS):
        here, there = truth[start : start + ROWS], predicted[start : start + ROWS]
        counted = here != IGNORE
        pairs = here[counted].astype(np.int64) * classes + there[counted]
        counts += np.bincount(pairs, minlength=classes * classes)
    return counts.reshape(classes, classes)


def mean_iou(counts: NDArray[np.int64]) -> float:
    """Return the mean IoU of one confusion (C, C) by the arithmetic of records, 0 to 1; NaN when no px counts."""
    return float(mean_defined(iou(Weighted(counts[None], np.ones((1, 1)))))[0])
