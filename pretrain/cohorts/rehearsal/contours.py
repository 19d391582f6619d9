"""The rim of a mask as polygons."""

import numpy as np
from numpy.typing import NDArray


def rings(mask: NDArray[np.bool_], smallest: float = 0.0) -> list[NDArray[np.float64]]:
    """Trace a mask (height, width) along its px borders.

    Returns closed rings (N, 2) of x, y in px from the top left corner of the mask, corners cut, collinear points left out,
    ordered by their first point. `area` is positive for the rim of a patch and negative for the rim of a hole; rings that
    enclose less than `smallest` px are left out. Px that touch only at a corner belong to different patches.
    """
    ahead = _borders(mask)
    found = []
    while ahead:
        start = here = next(iter(ahead))
        step, ring = (0, 0), []
        while here in ahead:
            ring.append(here)
            steps = ahead[here]
            right = (-step[1], step[0])
            step = steps.pop(steps.index(right) if right in steps else 0)
            if not steps:
                del ahead[here]
            here = (here[0] + step[0], here[1] + step[1])
            if here == start:
                break
        found.append(_cut_corners(np.array(ring, float)))
    return [ring for ring in found if abs(area(ring)) >= smallest]


def area(ring: NDArray[np.float64]) -> float:
    """Return the signed area of a ring (N, 2)."""
    x, y = ring.T
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y) / 2)


def _borders(mask: NDArray[np.bool_]) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """Map each corner (x, y) to the steps (dx, dy) that lead on from it along the rim, the mask to the right hand."""
    inside = np.pad(mask, 1)
    middle = inside[1:-1, 1:-1]
    sides = (
        (inside[:-2, 1:-1], (0, 0), (1, 0)),
        (inside[1:-1, 2:], (1, 0), (0, 1)),
        (inside[2:, 1:-1], (1, 1), (-1, 0)),
        (inside[1:-1, :-2], (0, 1), (0, -1)),
    )
    ahead: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for neighbour, (dx, dy), step in sides:
        for y, x in np.argwhere(middle & ~neighbour).tolist():
            ahead.setdefault((x + dx, y + dy), []).append(step)
    return dict(sorted(ahead.items()))


def _cut_corners(ring: NDArray[np.float64]) -> NDArray[np.float64]:
    ring = (ring + np.roll(ring, -1, axis=0)) / 2
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    return ring[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]
