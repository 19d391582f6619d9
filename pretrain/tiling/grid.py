"""The grid of tiles over a slide, and areas of masks under its cells."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Grid:
    """Whole cells of one slide, row by row.

    Attributes:
        step: side of a cell in level-0 px; it need not be a whole number.
        columns, rows: number of cells in x and y.
    """

    step: float
    columns: int
    rows: int

    def cells(self) -> np.ndarray:
        """Return (columns * rows, 2) int32 grid coordinates (x, y), sorted by y, then x."""
        y, x = np.divmod(np.arange(self.columns * self.rows, dtype=np.int32), max(self.columns, 1))
        return np.stack([x, y], axis=1).astype(np.int32)

    def origin(self, cells: np.ndarray) -> np.ndarray:
        """Return (N, 2) int64 level-0 px of the top left corners, each rounded down from `cell * step`: errors do not add up."""
        return np.floor(cells.astype(np.float64) * self.step + 1e-6).astype(np.int64)


def make_grid(size: tuple[int, int], step: float) -> Grid:
    """Cover a slide of `size` (width, height) level-0 px with whole cells of `step` level-0 px from its top left corner."""
    columns, rows = (int(side / step + 1e-9) for side in size)
    return Grid(step, columns, rows)


def area_shares(mask: np.ndarray, size: tuple[int, int], origins: np.ndarray, step: float) -> np.ndarray:
    """Return the share of each cell's area where `mask` is true, exact to parts of mask pixels.

    Args:
        mask: (h, w) bool that covers the whole slide at any scale.
        size: slide (width, height) in level-0 px.
        origins: (N, 2) level-0 px of the cells' top left corners (x, y).
        step: side of a cell in level-0 px.

    Returns:
        (N,) float32 from 0 to 1.
    """
    height, width = mask.shape
    table = np.zeros((height + 1, width + 1), dtype=np.int64)
    np.cumsum(np.cumsum(mask, axis=0, dtype=np.int64), axis=1, out=table[1:, 1:])
    scale = np.array([width / size[0], height / size[1]])
    low = np.clip(origins * scale, 0, [width, height])
    high = np.clip((origins + step) * scale, 0, [width, height])
    total = (
        _interpolate(table, high[:, 0], high[:, 1])
        - _interpolate(table, low[:, 0], high[:, 1])
        - _interpolate(table, high[:, 0], low[:, 1])
        + _interpolate(table, low[:, 0], low[:, 1])
    )
    area = np.prod(high - low, axis=1)
    return np.clip(total / np.maximum(area, 1e-9), 0, 1).astype(np.float32)


def _interpolate(table: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    left = np.minimum(x.astype(np.int64), table.shape[1] - 2)
    top = np.minimum(y.astype(np.int64), table.shape[0] - 2)
    fx, fy = x - left, y - top
    upper = table[top, left] * (1 - fx) + table[top, left + 1] * fx
    lower = table[top + 1, left] * (1 - fx) + table[top + 1, left + 1] * fx
    return upper * (1 - fy) + lower * fy
