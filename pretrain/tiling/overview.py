"""A picture of what was kept of a slide."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from results.files import replacing

LONG_SIDE = 1024
OUTLINE = (0, 160, 60)
CELL = (20, 60, 200, 110)
OPACITY = 0.6


def write_overview(
    path: Path, thumbnail: np.ndarray, mask: np.ndarray, size: tuple[int, int], origins: np.ndarray, step: float
) -> None:
    """Draw the outline of the tissue mask and the kept tiles over a thumbnail and write it as PNG.

    Args:
        path: where to write.
        thumbnail: (h, w, 3) uint8 picture of the whole slide; it is reduced to 1024 px on its long side.
        mask: bool tissue mask of the whole slide at any scale.
        size: slide (width, height) in level-0 px.
        origins: (N, 2) level-0 px of the kept tiles' top left corners.
        step: side of a tile in level-0 px.
    """
    picture = draw_overview(thumbnail, mask, size, origins, step, LONG_SIDE)
    with replacing(path) as temporary:
        picture.save(temporary)


def draw_overview(
    thumbnail: np.ndarray, mask: np.ndarray, size: tuple[int, int], origins: np.ndarray, step: float, side: int
) -> Image.Image:
    """Draw what `write_overview` writes, `side` px at most on its long side."""
    picture = Image.fromarray(thumbnail)
    picture.thumbnail((side, side), Image.Resampling.BOX)
    tissue = np.asarray(Image.fromarray(mask).resize(picture.size, Image.Resampling.NEAREST))
    edge = tissue & ~ndimage.binary_erosion(tissue, iterations=2)
    pixels = np.array(picture)
    pixels[edge] = (1 - OPACITY) * pixels[edge] + OPACITY * np.array(OUTLINE)
    picture = Image.fromarray(pixels)
    scale = np.array(picture.size) / np.array(size)
    draw = ImageDraw.Draw(picture, "RGBA")
    for low, high in zip(origins * scale, (origins + step) * scale, strict=True):
        draw.rectangle([*low, *np.maximum(high - 1, low)], outline=CELL)
    return picture


def overview_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return the (width, height) of an overview of a slide of `size`."""
    scale = min(1.0, LONG_SIDE / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
