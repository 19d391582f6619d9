"""A scene: everything that is true of one synthetic slide, in um and without pixels."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretrain.cohorts.rehearsal import nuclei as cells
from pretrain.cohorts.rehearsal.fields import Floats, Noise, Place, Points, Raster, Window, generator
from pretrain.cohorts.rehearsal.tissues import TISSUES, Tissue, fields

STEP = 4.0
"""Distance of the nodes of the region map in um."""

REGION = 330.0
"""Wanted diameter of a region in um: well above the reach of 96 um within which tiles count as neighbours."""

GLASS = 0
"""Code of everything that is not tissue."""


@dataclass(frozen=True)
class Stain:
    """How one slide was stained and scanned.

    `vectors` (2, 3): optical density in R, G, B of one unit of haematoxylin and of eosin; `light` (3,): the colour of
    empty glass, 0-255; `flare`: the share of stray light; `blur` everywhere and `defocus` in the patches out of focus, in
    um, and `noise` in grey levels (standard deviations); `drift` (2,): how far the amount of each stain wanders over the
    slide (standard deviation of its logarithm).
    """

    vectors: Floats
    light: Floats
    flare: float
    blur: float
    defocus: float
    noise: float
    drift: Floats


@dataclass(frozen=True)
class Scene:
    """One slide: `regions[i]` is the score of `tissues[i]` and the highest wins where `outline` (um) is above 0.

    `pen` is the depth inside the marker stroke in um, `edge` names what the scanner saw beside the tissue.
    """

    slide: str
    seed: int
    width: float
    height: float
    tissues: tuple[Tissue, ...]
    regions: tuple[Raster, ...]
    outline: Raster
    pen: Raster
    pen_density: Floats
    edge: str
    edge_width: float
    stain: Stain
    fields: Mapping[str, Any]
    thickness: tuple[Noise, Noise]
    focus: Noise
    nuclei: NDArray[np.void]

    @property
    def whole(self) -> Window:
        """The whole scene as a window at the scale of the region map."""
        return Window(0, 0, round(self.width / STEP), round(self.height / STEP), STEP)

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


def compose(seed: int, number: int, slide: str, hospital: str, width: float, height: float) -> Scene:
    """Make slide `number` (from 0) of a cohort: `width` x `height` um, five tissues, one marker or edge at most."""
    random = generator(seed, slide, "layout")
    x, y = np.meshgrid(np.arange(0, width + STEP, STEP), np.arange(0, height + STEP, STEP))
    grid = Window(-STEP / 2, -STEP / 2, x.shape[1], x.shape[0], STEP)
    edge = ("none", "black", "line", "none")[number % 4]
    edge_width = random.uniform(18, 40)
    pen = _pen(random, grid, width, height) if number % 4 in (0, 3) else np.full(x.shape, -99.0)
    is_free = (pen < 0) & (x > (edge_width if edge != "none" else 0))
    outline = _outline(random, grid, width, height, is_free)
    scores = _regions(random, grid, outline > 0, number)
    parts = {
        "slide": slide,
        "seed": seed,
        "width": width,
        "height": height,
        "tissues": TISSUES,
        "regions": tuple(Raster(score, STEP) for score in scores),
        "outline": Raster(outline, STEP),
        "pen": Raster(pen, STEP),
        "pen_density": PENS[number % 3],
        "edge": edge,
        "edge_width": edge_width,
    }
    return _populated(parts, hospital)


def filled(seed: int, slide: str, hospital: str, tissue: Tissue, width: float, height: float) -> Scene:
    """Make a scene of `width` x `height` um that holds one tissue and no glass, stained like slide `slide`."""
    shape = (round(height / STEP) + 1, round(width / STEP) + 1)
    always, never = Raster(np.full(shape, 99.0), STEP), Raster(np.full(shape, -99.0), STEP)
    parts = {
        "slide": slide,
        "seed": seed,
        "width": width,
        "height": height,
        "tissues": (tissue,),
        "regions": (always,),
        "outline": always,
        "pen": never,
        "pen_density": PENS[0],
        "edge": "none",
        "edge_width": 0.0,
    }
    return _populated(parts, hospital)


PENS = np.array([(2.4, 1.7, 0.35), (2.3, 0.7, 1.5), (2.4, 2.3, 2.1)], np.float32)
"""Optical density in R, G, B of a blue, a green and a black marker."""


def _populated(parts: dict[str, Any], hospital: str) -> Scene:
    seed, slide = parts["seed"], parts["slide"]
    random = generator(seed, slide, "thickness")
    found = fields(seed, slide)
    smooth = {
        "thickness": (Noise(random, 95.0, nodes=16), Noise(random, 95.0, nodes=16)),
        "focus": Noise(random, 110.0, nodes=16),
    }
    empty = np.zeros(0, cells.NUCLEUS)
    bare = Scene(**parts, stain=stain(seed, slide, hospital), fields=found, **smooth, nuclei=empty)
    kept = [empty]
    for index, tissue in enumerate(bare.tissues):
        random = generator(seed, slide, "nuclei", tissue.name)
        laid = cells.scatter(random, tissue, found, bare.width, bare.height)
        place = Points(laid["x"], laid["y"])
        kept.append(laid[(bare.tissue_at(place) == index) & (bare.outline(place) > 6)])
    return replace(bare, nuclei=cells.thin(np.concatenate(kept)))


def stain(seed: int, slide: str, hospital: str) -> Stain:
    """Draw the stain of a slide: a shift shared by its hospital and a larger one of its own.

    The mean vectors are those of Ruifrok and Johnston (2001) for haematoxylin and eosin.
    """
    house, own = generator(seed, "hospital", hospital), generator(seed, slide, "stain")
    vectors = np.array([(0.65, 0.70, 0.29), (0.15, 0.95, 0.25)])
    vectors = np.clip(vectors + house.normal(0, 0.05, (2, 3)) + own.normal(0, 0.13, (2, 3)), 0.03, None)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors *= np.exp(house.normal(0, 0.12, (2, 1)) + own.normal(0, 0.22, (2, 1)))
    light = 242 * (1 - np.abs(house.normal(0, 0.015, 3)) - np.abs(own.normal(0, 0.02, 3)))
    return Stain(
        vectors.astype(np.float32),
        light.astype(np.float32),
        flare=float(own.uniform(0.0, 0.16)),
        blur=float(own.uniform(0.25, 0.8)),
        defocus=float(own.uniform(0.5, 1.5)),
        noise=float(own.uniform(1.5, 5.0)),
        drift=own.uniform(0.36, 0.48, 2).astype(np.float32),
    )


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
