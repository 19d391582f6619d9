"""Which found box is which true one: by IoU as pycocotools decides it, or by the distance of centres."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

MAX_DETECTIONS = 300
"""Best-scored boxes of one class in one image that are looked at by IoU."""


@dataclass(frozen=True)
class Ranked:
    """The found boxes of one class over all images by falling score (equal scores in the order of images), with their fate.

    Attributes:
        score: (n,) float32.
        image: (n,) int64, row of the image.
        right: (T, n) bool, matched to a true box at that IoU threshold.
        ignored: (T, n) bool, matched to ignored truth, so neither right nor wrong.
        truth_image: (M,) int64, row of the image of every true box that is not ignored.
    """

    score: np.ndarray
    image: np.ndarray
    right: np.ndarray
    ignored: np.ndarray
    truth_image: np.ndarray


def _by_image(true_image: np.ndarray, found_image: np.ndarray) -> Iterator[tuple[int, slice, slice]]:
    """Yield every image that has found boxes, with the places of its true and found ones."""
    images, starts = np.unique(found_image, return_index=True)
    ends = np.append(starts[1:], len(found_image))
    first, last = (np.searchsorted(true_image, images, side=side) for side in ("left", "right"))
    for place, image in enumerate(images):
        yield int(image), slice(first[place], last[place]), slice(starts[place], ends[place])


def by_iou(
    true: np.ndarray, true_image: np.ndarray, found: np.ndarray, found_image: np.ndarray, thresholds: np.ndarray
) -> Ranked:
    """Match one class in every image at every IoU threshold with pycocotools' own routine (bbox, area `all`).

    A found box takes the free true box of highest IoU, best scores first; what only meets ignored truth (`iscrowd`: IoU
    is then the intersection over the found box) is ignored. Boxes that reach the lowest threshold with no partner can
    match nothing and are not handed over, which changes no match.

    Args:
        true: (M, 5) float32 boxes x0, y0, x1, y1, ignore of one class.
        true_image: (M,) rows of their images, ascending.
        found: (n, 5) float32 boxes x0, y0, x1, y1, score.
        found_image: (n,) rows of their images, ascending.
        thresholds: (T,) float64, rising.
    """
    from pycocotools import mask
    from pycocotools.cocoeval import COCOeval

    evaluator = COCOeval(iouType="bbox")
    evaluator.params.iouThrs = thresholds
    area = evaluator.params.areaRng[0]
    size = _size(true), _size(found)
    order, right, ignored = [], [], []
    for _, trues, founds in _by_image(true_image, found_image):
        best = np.argsort(-found[founds, 4], kind="stable")[:MAX_DETECTIONS] + founds.start
        fates = np.zeros((2, len(thresholds), len(best)), dtype=bool)
        if trues.stop > trues.start:
            crowd = true[trues, 4].astype(np.uint8)
            iou = mask.iou(size[1][best], size[0][trues], crowd)
            near = iou >= thresholds[0]
            rows, cols = np.flatnonzero(near.any(1)), np.flatnonzero(near.any(0))
            if len(rows):
                evaluator.ious = {(1, 1): iou[np.ix_(rows, cols)]}
                evaluator._gts = {
                    (1, 1): [
                        _annotation(n, size[0][trues.start + c], iscrowd=int(crowd[c])) for n, c in enumerate(cols, 1)
                    ]
                }
                evaluator._dts = {
                    (1, 1): [
                        _annotation(n, size[1][best[r]], score=float(found[best[r], 4])) for n, r in enumerate(rows, 1)
                    ]
                }
                result = evaluator.evaluateImg(1, 1, area, MAX_DETECTIONS)
                matched, skip = result["dtMatches"] > 0, result["dtIgnore"]
                fates[0][:, rows], fates[1][:, rows] = matched & ~skip, skip
        order.append(best)
        right.append(fates[0])
        ignored.append(fates[1])
    solid = true_image[true[:, 4] == 0]
    if not order:
        none = np.zeros((len(thresholds), 0), dtype=bool)
        return Ranked(found[:0, 4], found_image[:0], none, none, solid)
    kept = np.concatenate(order)
    rank = np.argsort(-found[kept, 4], kind="stable")
    fates = (np.concatenate(part, axis=1)[:, rank] for part in (right, ignored))
    return Ranked(found[kept[rank], 4], found_image[kept[rank]], *fates, solid)


def _size(boxes: np.ndarray) -> np.ndarray:
    """Return boxes as COCO has them: (M, 4) float64 x, y, width, height."""
    corners = boxes[:, :4].astype(np.float64)
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)


def _annotation(number: int, box: np.ndarray, iscrowd: int = 0, score: float = 0.0) -> dict[str, Any]:
    return {"id": number, "bbox": box, "area": box[2] * box[3], "iscrowd": iscrowd, "ignore": iscrowd, "score": score}


def by_distance(
    true: np.ndarray, true_image: np.ndarray, found: np.ndarray, found_image: np.ndarray, match_px: float, images: int
) -> np.ndarray:
    """Count right, wrong and missed boxes of one class in every image, (images, 3) int64, by the distance of centres.

    Best scores first, a found box takes the nearest free true box whose centre is within `match_px`. One that gets none
    is not counted when its centre is that near to the centre of ignored truth, or inside its box; else it is wrong.

    Args:
        true, true_image, found, found_image: as in `by_iou`; boxes below the score threshold already left out.
        match_px: px.
        images: how many there are.
    """
    counts = np.zeros((images, 3), dtype=np.int64)
    counts[:, 2] = np.bincount(true_image[true[:, 4] == 0], minlength=images)
    for image, trues, founds in _by_image(true_image, found_image):
        own = found[founds][np.argsort(-found[founds, 4], kind="stable")].astype(np.float64)
        there = true[trues].astype(np.float64)
        solid, vague = there[there[:, 4] == 0], there[there[:, 4] == 1]
        centre = (own[:, :2] + own[:, 2:4]) / 2
        right = _one_to_one(_distance(centre, solid), match_px)
        inside = ((centre[:, None] >= vague[:, :2]) & (centre[:, None] <= vague[:, 2:4])).all(2)
        absorbed = (inside | (_distance(centre, vague) <= match_px)).any(1)
        counts[image] += (right.sum(), (~right & ~absorbed).sum(), -right.sum())
    return counts


def _distance(centre: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return the distances (D, G) from points (D, 2) to the centres of boxes (G, 5), px."""
    return np.linalg.norm(centre[:, None] - (boxes[:, :2] + boxes[:, 2:4]) / 2, axis=2)


def _one_to_one(distance: np.ndarray, limit: float) -> np.ndarray:
    """Return which rows of (D, G) get a column of their own: in their order, each the nearest free one within `limit`."""
    taken = np.zeros(len(distance), dtype=bool)
    free = np.where(distance <= limit, distance, np.inf)
    for row in np.flatnonzero(np.isfinite(free).any(1)):
        nearest = free[row].argmin()
        if np.isfinite(free[row, nearest]):
            taken[row] = True
            free[:, nearest] = np.inf
    return taken
