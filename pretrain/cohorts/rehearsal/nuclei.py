"""Nuclei as rows of numbers: where they lie, their outline, and how they are drawn."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from pretrain.cohorts.rehearsal.fields import Floats, Points, Window
from pretrain.cohorts.rehearsal.tissues import KIND_INDEX, KINDS, Fields, Tissue, angle_along

NUCLEUS = np.dtype(
    [(name, np.float32) for name in ("x", "y", "long", "short", "angle", "phase", "ink")] + [("kind", "u1")]
)
"""`x`, `y` centre in um; `long`, `short` half axes in um; `angle` of the long axis and `phase` of the bays in radians;
`ink` optical density of haematoxylin; `kind` index in `tissues.KINDS`."""

CLEARANCE = 3.5
"""Two centres are never closer than this (um)."""


def scatter(
    random: np.random.Generator, tissue: Tissue, fields: Fields, width: float, height: float
) -> NDArray[np.void]:
    """Lay the nuclei of one tissue over a whole scene of `width` x `height` um, dtype `NUCLEUS`.

    The places are a shaken hexagonal lattice, so that nuclei are dense without piling up.
    """
    step = tissue.spacing
    row, column = np.mgrid[0 : int(height / (0.866 * step)) + 1, 0 : int(width / step) + 1].astype(np.float32)
    shake = random.uniform(-0.32, 0.32, (2, row.size)).astype(np.float32) * step
    x = ((column + 0.5 * (row % 2)) * step).ravel() + shake[0]
    y = (row * 0.866 * step).ravel() + shake[1]
    kept = (x > 0) & (x < width) & (y > 0) & (y < height)
    kept &= tissue.holds(Points(x, y), fields)
    place = Points(x[kept], y[kept])
    names = list(tissue.mix)
    share = np.array([tissue.mix[name] for name in names])
    kind = np.array([KIND_INDEX[name] for name in names])[
        random.choice(len(names), place.x.size, p=share / share.sum())
    ]

    nuclei = np.zeros(place.x.size, NUCLEUS)
    table = {key: np.array([getattr(k, key) for k in KINDS])[kind] for key in ("size", "spread", "ink")}
    slim = np.array([k.slim for k in KINDS])[kind]
    nuclei["x"], nuclei["y"], nuclei["kind"] = place.x, place.y, kind
    nuclei["long"] = table["size"] * np.clip(1 + table["spread"] * random.standard_normal(kind.size), 0.5, 1.6)
    nuclei["short"] = nuclei["long"] * random.uniform(slim[:, 0], slim[:, 1])
    nuclei["angle"] = random.uniform(0, np.pi, kind.size)
    if tissue.along:
        nuclei["angle"] = angle_along(tissue, place, fields) + random.normal(0, 0.12, kind.size)
    nuclei["phase"] = random.uniform(0, 2 * np.pi, kind.size)
    nuclei["ink"] = table["ink"] * np.clip(1 + 0.15 * random.standard_normal(kind.size), 0.6, 1.4)
    return nuclei


def thin(nuclei: NDArray[np.void]) -> NDArray[np.void]:
    """Drop the later nucleus of every pair closer than `CLEARANCE`; what is left is sorted by y, x."""
    nuclei = nuclei[np.lexsort((nuclei["x"], nuclei["y"]))]
    if nuclei.size:
        pairs = cKDTree(np.stack([nuclei["x"], nuclei["y"]], 1)).query_pairs(CLEARANCE, output_type="ndarray")
        nuclei = np.delete(nuclei, np.unique(pairs.max(1)) if len(pairs) else [])
    return nuclei


def outlines(nuclei: NDArray[np.void], corners: int = 24) -> Floats:
    """Return the outline of each nucleus in um, shape (N, corners, 2), last axis x, y."""
    turn = np.linspace(0, 2 * np.pi, corners, endpoint=False, dtype=np.float32)[None, :]
    lobes = np.array([kind.lobes for kind in KINDS], np.float32)[nuclei["kind"]]
    radius = 1 + lobes[:, None] * np.cos(3 * turn + nuclei["phase"][:, None])
    u, v = nuclei["long"][:, None] * radius * np.cos(turn), nuclei["short"][:, None] * radius * np.sin(turn)
    cos, sin = np.cos(nuclei["angle"])[:, None], np.sin(nuclei["angle"])[:, None]
    return np.stack([nuclei["x"][:, None] + u * cos - v * sin, nuclei["y"][:, None] + u * sin + v * cos], axis=2)


def draw(nuclei: NDArray[np.void], window: Window, haematoxylin: Floats, eosin: Floats, grain: Floats) -> None:
    """Paint nuclei into the two stain maps of a window, each (height, width), in place.

    `grain` is a fine noise field over the same window that becomes the chromatin.
    """
    right, bottom = window.left + window.width * window.mpp, window.top + window.height * window.mpp
    reach = 1.5 * nuclei["long"]
    near = (nuclei["x"] + reach > window.left) & (nuclei["x"] - reach < right)
    near &= (nuclei["y"] + reach > window.top) & (nuclei["y"] - reach < bottom)
    for x, y, long, short, angle, phase, ink, index in nuclei[near].tolist():
        kind = KINDS[index]
        cos, sin = math.cos(angle), math.sin(angle)
        grown = (1 + kind.lobes) * (1 + kind.soft / short)
        rows = _span(y - window.top, grown * math.hypot(long * sin, short * cos), window.mpp, window.height)
        columns = _span(x - window.left, grown * math.hypot(long * cos, short * sin), window.mpp, window.width)
        dx, dy = window.x[:, columns] - np.float32(x), window.y[rows] - np.float32(y)
        cos, sin = np.float32(cos), np.float32(sin)
        u, v = (dx * cos + dy * sin) / np.float32(long), (dy * cos - dx * sin) / np.float32(short)
        depth = 1 - np.sqrt(u * u + v * v)
        if kind.lobes > 0.05:
            depth += np.float32(kind.lobes) * np.cos(3 * np.arctan2(v, u) + np.float32(phase))
        cover = np.clip(depth * np.float32(short / kind.soft) + 0.5, 0, 1)
        body = 1 + np.float32(kind.grain) * grain[rows, columns]
        if kind.rim:
            body += np.float32(kind.rim) * np.clip(1 - depth * np.float32(short / 1.3), 0, 1)
        haematoxylin[rows, columns] += cover * (np.float32(ink) * body - haematoxylin[rows, columns])
        eosin[rows, columns] *= 1 - np.float32(0.65) * cover


def _span(centre: float, reach: float, mpp: float, limit: int) -> slice:
    """Return the px of an axis with `limit` px that lie within `reach` um of `centre` um."""
    return slice(max(0, int((centre - reach) / mpp)), min(limit, max(0, int((centre + reach) / mpp) + 2)))
