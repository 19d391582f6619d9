"""Where what lies on a slide: tissues with smooth borders, the ragged rim of the section, and what a tissue mask must not take."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pretrain.cohorts.rehearsal.fields import Floats, Noise, Place, Raster, Window
from pretrain.cohorts.rehearsal.tissues import TISSUES, Tissue

STEP = 4.0
"""Distance of the nodes of the region map in um."""

REGION = 330.0
"""Wanted diameter of a region in um: well above the reach of 96 um within which tiles count as neighbours."""

GLASS = 0
"""Code of everything that is not tissue."""

PENS = np.array([(2.4, 1.7, 0.35), (2.3, 0.7, 1.5), (2.4, 2.3, 2.1)], np.float32)
"""Optical density in R, G, B of a blue, a green and a black marker."""


@dataclass(frozen=True)
class Layout:
    """The plan of a slide of `width` x `height` um.

    `regions[i]` is the score of `tissues[i]`; the highest wins wherever `outline`, the depth inside the section in um, is
    above 0. `pen` is the depth in um inside the marker stroke and `pen_density` its optical density in R, G, B. `edge` is
    what the scanner saw in the first `edge_width` um along x: `none`, a `black` border, or the rim of the glass (`line`).
    """

    width: float
    height: float
    tissues: tuple[Tissue, ...]
    regions: tuple[Raster, ...]
    outline: Raster
    pen: Raster
    pen_density: Floats
    edge: str = "none"
    edge_width: float = 0.0

    @property
    def whole(self) -> Window:
        """The whole slide as a window of `STEP` um/px."""
        return Window(0.0, 0.0, round(self.width / STEP), round(self.height / STEP), STEP)

    def tissue_at(self, place: Place) -> NDArray[np.uint8]:
        """Return the index in `tissues` at a window (height, width) or at points (N,); `len(tissues)` on glass."""
        best = self.regions[0](place)
        index = np.zeros(best.shape, np.uint8)
        for number, region in enumerate(self.regions[1:], start=1):
            score = region(place)
            index[score > best] = number
            np.maximum(best, score, out=best)
        index[self.outline(place) <= 0] = len(self.tissues)
        return index

    def codes(self, place: Place) -> NDArray[np.uint8]:
        """Return the BCSS codes, 0 on glass, at a window (height, width) or at points (N,)."""
        table = np.array([tissue.code for tissue in self.tissues] + [GLASS], np.uint8)
        return table[self.tissue_at(place)]


def drawn(random: np.random.Generator, number: int, width: float, height: float) -> Layout:
    """Draw the plan of slide `number` (from 0): every second slide has a marker stroke, every second other an edge."""
    grid = _nodes(width, height)
    edge = ("none", "black", "line", "none")[number % 4]
    edge_width = random.uniform(18, 40) if edge != "none" else 0.0
    pen = _pen(random, grid, width, height) if edge == "none" else np.full((grid.height, grid.width), -99.0)
    outline = _outline(random, grid, width, height, (pen < 0) & (grid.x > edge_width))
    return Layout(
        width,
        height,
        tissues=TISSUES,
        regions=tuple(Raster(score, STEP) for score in _regions(random, grid, outline > 0, number)),
        outline=Raster(outline, STEP),
        pen=Raster(pen, STEP),
        pen_density=PENS[number % len(PENS)],
        edge=edge,
        edge_width=edge_width,
    )


def uniform(tissue: Tissue | None, width: float, height: float) -> Layout:
    """Return a plan of one tissue and nothing else, or of clean glass when there is no tissue."""
    grid = _nodes(width, height)
    inside, outside = (Raster(np.full((grid.height, grid.width), depth), STEP) for depth in (99.0, -99.0))
    tissues = (tissue or TISSUES[0],)
    return Layout(width, height, tissues, (inside,), inside if tissue else outside, outside, PENS[0])


def _nodes(width: float, height: float) -> Window:
    """The nodes of the region map, from rim to rim, as a window."""
    return Window(-STEP / 2, -STEP / 2, round(width / STEP) + 1, round(height / STEP) + 1, STEP)


def _pen(random: np.random.Generator, grid: Window, width: float, height: float) -> Floats:
    """Depth in um inside a curved marker stroke along one side of the slide, on the nodes of the region map."""
    t = np.linspace(0, 1, 60, dtype=np.float32)
    start, length = random.uniform(0.05, 0.3), random.uniform(0.4, 0.6)
    along, across = start + length * t, 0.07 + random.uniform(0.03, 0.1) * np.sin(np.pi * t)
    if random.random() < 0.5:
        across = 1 - across
    along, across = (along, across) if random.random() < 0.5 else (across, along)
    points = np.stack([along * width, across * height], 1)
    distance = np.sqrt(
        np.min((grid.x[..., None] - points[:, 0]) ** 2 + (grid.y[..., None] - points[:, 1]) ** 2, axis=-1)
    )
    half = 0.5 * random.uniform(45, 70) * (1 + 0.08 * Noise(random, 30.0)(grid))
    return half - distance


def _outline(
    random: np.random.Generator, grid: Window, width: float, height: float, is_free: NDArray[np.bool_]
) -> Floats:
    """Depth in um inside the tissue, on the nodes of the region map: a ragged blob that leaves 36 to 44 % glass."""
    centre = 0.5 + random.uniform(-0.04, 0.04, 2)
    x, y = np.abs(grid.x / width - centre[0]), np.abs(grid.y / height - centre[1])
    blob = -((x**2.6 + y**2.6) ** (1 / 2.6))
    blob = blob + 0.045 * Noise(random, 130.0)(grid) + 0.012 * Noise(random, 28.0)(grid)
    blob = np.where(is_free, blob, -9.0)
    return (blob - np.quantile(blob, random.uniform(0.37, 0.43))) * min(width, height)


def _regions(random: np.random.Generator, grid: Window, is_tissue: NDArray[np.bool_], number: int) -> list[Floats]:
    """Score of each tissue on the nodes of the region map: a warped Voronoi map with one seed or two a tissue.

    Tumour is always there; the other four follow in a different order on every slide, so that a cohort of slides too small
    to hold all five still has them all. Every third slide has a core of necrosis inside its tumour.
    """
    x, y = np.broadcast_arrays(grid.x, grid.y)
    x = x + 32 * Noise(random, 110.0)(grid) + 5 * Noise(random, 26.0)(grid)
    y = y + 32 * Noise(random, 110.0)(grid) + 5 * Noise(random, 26.0)(grid)
    inside = np.stack([x[is_tissue], y[is_tissue]], 1)
    count = max(3, round(len(inside) * grid.mpp**2 / REGION**2 + 0.5))
    seeds = inside[random.choice(len(inside), count, replace=False)]
    for _ in range(8):
        owner = np.argmin(((inside[:, None] - seeds[None]) ** 2).sum(2), axis=1)
        seeds = np.stack([inside[owner == k].mean(0) if (owner == k).any() else seeds[k] for k in range(count)])
    order = [0, *(1 + (number + k) % 4 for k in range(4)), *((number + k) % 5 for k in range(count))][:count]
    scores = [np.full(x.shape, -9999.0, np.float32) for _ in TISSUES]
    for tissue, (seed_x, seed_y) in zip(order, seeds[random.permutation(count)], strict=True):
        distance = np.hypot(x - seed_x, y - seed_y)
        scores[tissue] = np.maximum(scores[tissue], random.uniform(0, 25) - distance)
        if tissue == 0 and number % 3 == 1:
            radius = random.uniform(50, 65)
            scores[3] = np.maximum(scores[3], 2 * radius - 3 * distance)
    return scores
