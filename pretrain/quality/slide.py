"""What can be measured on one tiled slide, and its picture; kept beside the report, so that nothing is measured twice."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openslide
from scipy import ndimage

from pretrain.cohorts import Slide
from pretrain.tiles import TileStore
from pretrain.tiling import Tiling
from pretrain.tiling.job import pictures
from pretrain.tiling.overview import draw_overview
from pretrain.tiling.reader import SlideReader, one_line
from pretrain.tiling.tissue import RULE, ink_areas, tissue_mask
from results.errors import UserError
from results.files import replacing, value_digest, write_json

VERSION = 1
FOCUS_TILES = 64
GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""ITU-R BT.601 luma."""
JPEG_QUALITY = 80


@dataclass(frozen=True)
class Job:
    """One slide to measure: its entry in `store.json`, the tiles' level-0 origins (N, 2) and ids (N,)."""

    slide: Slide
    entry: Mapping[str, Any]
    tiling: Tiling
    store: Path
    folder: Path
    origins: np.ndarray
    tiles: np.ndarray
    side: int

    @property
    def key(self) -> str:
        """Digest of all that the result depends on."""
        entry = {key: value for key, value in self.entry.items() if key not in ("remark", "part", "slide_label")}
        return value_digest(
            [VERSION, entry, asdict(self.tiling), asdict(RULE), self.slide.mpp, self.side, len(self.tiles)]
        )


def measure(job: Job) -> dict[str, Any]:
    """Measure a slide, or find it measured; return its numbers, which name its picture.

    Keys: `slide`, `picture` (file name or None), `problem` (why it could not be read again, else empty), `tissue_mm2`, `ink_mm2` by colour,
    `focus` (see `focus_of`), `colour` (mean RGB of sampled tiles), `stated` (see `stated_by`).
    """
    path = job.folder / f"{job.slide.name}.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["key"] == job.key and (not found["picture"] or (job.folder / found["picture"]).is_file()):
            return found
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not measured yet, or half: it is measured now
    found = {
        "slide": job.slide.name,
        "key": job.key,
        "picture": None,
        "problem": "",
        "tissue_mm2": None,
        "ink_mm2": {},
        "stated": {},
    }
    found |= _tiles(job)
    try:
        found |= _slide(job)
    except UserError as error:
        found["problem"] = str(error)
    except Exception as error:  # one slide of hundreds must not stop the page, whatever a codec raises
        found["problem"] = f"{type(error).__name__}: {one_line(error)}"
    if not found["problem"]:
        write_json(path, found)
    return found


def focus_of(pixels: np.ndarray) -> float:
    """Variance of the Laplacian of a tile's luma (Pech-Pacheco et al., ICPR 2000): low where it is out of focus, or holds little detail.

    Args:
        pixels: (T, T, 3) uint8.
    """
    return float(ndimage.laplace(pixels.astype(np.float32) @ GREY)[1:-1, 1:-1].var())


def stated_by(path: Path) -> dict[str, Any]:
    """What a slide says of itself: `vendor`, `levels`, `downsamples`, `mpp_x`, `mpp_y`, `objective`; None for what it does not say."""
    with openslide.OpenSlide(path) as slide:
        properties = slide.properties
        return {
            "vendor": properties.get(openslide.PROPERTY_NAME_VENDOR),
            "levels": slide.level_count,
            "downsamples": [round(value, 3) for value in slide.level_downsamples],
            "mpp_x": _number(properties.get(openslide.PROPERTY_NAME_MPP_X)),
            "mpp_y": _number(properties.get(openslide.PROPERTY_NAME_MPP_Y)),
            "objective": _number(properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER)),
        }


def _tiles(job: Job) -> dict[str, Any]:
    """Focus and colour of at most `FOCUS_TILES` evenly spaced tiles."""
    if not len(job.tiles):
        return {"focus": [], "colour": None}
    store = TileStore(job.store)
    chosen = job.tiles[
        np.unique(np.linspace(0, len(job.tiles) - 1, min(FOCUS_TILES, len(job.tiles))).round().astype(int))
    ]
    focus, colours = [], []
    for tile in chosen.tolist():
        pixels = store.read(tile)
        focus.append(round(focus_of(pixels), 3))
        colours.append(pixels.mean((0, 1)))
    return {"focus": focus, "colour": [round(float(value), 1) for value in np.mean(colours, 0)]}


def _slide(job: Job) -> dict[str, Any]:
    with SlideReader(job.slide.path, job.tiling.mpp_override, job.slide.mpp) as reader:
        picture, low_power, mpp = pictures(reader, job.tiling.mask_mpp)
        mask = tissue_mask(low_power, mpp)
        step = reader.plan(job.tiling.tile, job.tiling.mpp).step
        drawn = draw_overview(picture, mask, reader.size, job.origins, step, job.side)
    name = f"{job.slide.name}.jpg"
    with replacing(job.folder / name) as temporary:
        drawn.save(temporary, quality=JPEG_QUALITY)
    return {
        "picture": name,
        "tissue_mm2": round(float(mask.sum()) * mpp * mpp / 1e6, 4),
        "ink_mm2": {colour: round(area, 4) for colour, area in ink_areas(low_power, mpp).items()},
        "stated": stated_by(job.slide.path),
    }


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return round(value, 6) if np.isfinite(value) else None
