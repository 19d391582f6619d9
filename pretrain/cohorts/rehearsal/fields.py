"""Where to look in a scene, and the random fields that can be looked at there at any resolution."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def generator(seed: int, *purpose: object) -> np.random.Generator:
    """Return the random generator of one purpose, which no other purpose can disturb."""
    return np.random.default_rng([seed, zlib.crc32("/".join(map(str, purpose)).encode())])


@dataclass(frozen=True)
class Window:
    """A rectangle of a scene: top left corner in um, size in px, scale in um/px."""

    left: float
    top: float
    width: int
    height: int
    mpp: float

    @cached_property
    def x(self) -> Floats:
        """The um coordinates of the px centres along x, shape (1, width)."""
        return (self.left + (np.arange(self.width) + 0.5) * self.mpp).astype(np.float32)[None, :]

    @cached_property
    def y(self) -> Floats:
        """The um coordinates of the px centres along y, shape (height, 1)."""
        return (self.top + (np.arange(self.height) + 0.5) * self.mpp).astype(np.float32)[:, None]

    def blocks(self, size: int) -> Iterator[tuple[tuple[slice, slice], "Window"]]:
        """Yield ((rows, columns), window) of blocks of at most `size` px, small enough to stay in the cache."""
        for row in range(0, self.height, size):
            for column in range(0, self.width, size):
                height, width = min(size, self.height - row), min(size, self.width - column)
                part = Window(self.left + column * self.mpp, self.top + row * self.mpp, width, height, self.mpp)
                yield (slice(row, row + height), slice(column, column + width)), part


@dataclass(frozen=True)
class Points:
    """Scattered places of a scene: `x` and `y` in um, shape (N,) each."""

    x: Floats
    y: Floats


Place = Window | Points


class Noise:
    """A smooth random field of mean 0 and variance 1: a cubic B-spline over a periodic lattice of `nodes` x `nodes`.

    `scale` is the distance of the lattice nodes in um, about the size of the blobs.
    """

    def __init__(self, random: np.random.Generator, scale: float, nodes: int = 64) -> None:
        # A cubic B-spline over white noise keeps 151/315 of its variance along each axis.
        self.lattice = (random.standard_normal((nodes, nodes)) * (315 / 151)).astype(np.float32)
        self.scale = scale

    def __call__(self, place: Place) -> Floats:
        """Return the field at a window, shape (height, width), or at points, shape (N,)."""
        return _interpolate(self.lattice, self._taps(place.y), self._taps(place.x), isinstance(place, Window))

    def _taps(self, position: Floats) -> list[tuple[NDArray[np.intp], Floats]]:
        base, t = _split(position.ravel() / self.scale)
        weights = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
        return [((base + k - 1) % len(self.lattice), weight / 6) for k, weight in enumerate(weights)]


class Raster:
    """A field stored on a grid: node (j, i) lies at x = i * step, y = j * step um; linear between nodes."""

    def __init__(self, values: Floats, step: float) -> None:
        self.values = values.astype(np.float32)
        self.step = step

    def __call__(self, place: Place) -> Floats:
        """Return the field at a window, shape (height, width), or at points, shape (N,)."""
        rows, columns = self.values.shape
        return _interpolate(
            self.values, self._taps(place.y, rows), self._taps(place.x, columns), isinstance(place, Window)
        )

    def _taps(self, position: Floats, nodes: int) -> list[tuple[NDArray[np.intp], Floats]]:
        base, t = _split(np.clip(position.ravel() / self.step, 0, nodes - 1))
        return [(base, 1 - t), (np.minimum(base + 1, nodes - 1), t)]


class Cells:
    """A jittered lattice of centres, for tissue that is made of rooms: fat cells, glands."""

    def __init__(self, random: np.random.Generator, spacing: float, nodes: int = 64) -> None:
        self.jitter = (random.random((2, nodes, nodes)) * 0.8 - 0.4).astype(np.float32)
        self.spacing = spacing

    def __call__(self, place: Place) -> tuple[Floats, Floats]:
        """Return the distances in um to the nearest and to the second nearest centre."""
        x, y = place.x / self.spacing, place.y / self.spacing
        column, row = np.floor(x).astype(int), np.floor(y).astype(int)
        nodes = self.jitter.shape[1]
        first = np.full(np.broadcast(x, y).shape, 9.0, np.float32)
        second = first.copy()
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                at = (row + dy) % nodes, (column + dx) % nodes
                centre_x = column + dx + np.float32(0.5) + self.jitter[0][at]
                centre_y = row + dy + np.float32(0.5) + self.jitter[1][at]
                distance = (x - centre_x) ** 2 + (y - centre_y) ** 2
                np.minimum(second, np.maximum(first, distance), out=second)
                np.minimum(first, distance, out=first)
        return np.sqrt(first) * np.float32(self.spacing), np.sqrt(second) * np.float32(self.spacing)


def _split(position: Floats) -> tuple[NDArray[np.intp], Floats]:
    base = np.floor(position)
    return base.astype(np.intp), (position - base).astype(np.float32)


def _interpolate(values: Floats, rows: list, columns: list, is_grid: bool) -> Floats:
    """Weigh the nodes named by the taps: axis after axis for a grid of places, tap by tap for scattered ones."""
    if not is_grid:
        return sum(values[j, i] * v * w for j, v in rows for i, w in columns)
    (index, weight), *rest = rows
    strips = values[index] * weight[:, None]
    for index, weight in rest:
        strips += values[index] * weight[:, None]
    (index, weight), *rest = columns
    found = np.take(strips, index, axis=1) * weight
    for index, weight in rest:
        found += np.take(strips, index, axis=1) * weight
    return found
