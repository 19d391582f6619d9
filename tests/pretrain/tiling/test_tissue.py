"""Tissue on drawn low-power pictures of 8 um/px: 10 px are 80 um."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain.tiling.tissue import RULE, glass_colour, otsu, tissue_mask

MPP = 8.0
GLASS = (244, 243, 245)
EOSIN = (228, 150, 190)
PALE = (240, 224, 238)
NUCLEI = (105, 75, 155)


def canvas(colour: tuple[int, int, int] = GLASS, height: int = 200, width: int = 240, noise: int = 2) -> np.ndarray:
    image = np.empty((height, width, 3), dtype=np.int16)
    image[:] = colour
    image += np.random.default_rng(0).integers(-noise, noise + 1, size=image.shape, dtype=np.int16)
    return np.clip(image, 0, 255).astype(np.uint8)


def disc(image: np.ndarray, y: int, x: int, radius: int, colour: tuple[int, int, int]) -> np.ndarray:
    """Paint a noisy disc; return where it is."""
    rows, columns = np.ogrid[: image.shape[0], : image.shape[1]]
    inside = (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
    image[inside] = canvas(colour, *image.shape[:2])[inside]
    return inside


def overlap(found: np.ndarray, wanted: np.ndarray) -> float:
    """Intersection over union."""
    return (found & wanted).sum() / (found | wanted).sum()


@pytest.mark.parametrize("colour", [EOSIN, NUCLEI, PALE, (90, 60, 110), (190, 175, 215), (215, 190, 220)])
def test_stained_disc_is_found(colour: tuple[int, int, int]) -> None:
    image = canvas()
    wanted = disc(image, 100, 120, 50, colour)
    assert overlap(tissue_mask(image, MPP), wanted) > 0.97


@pytest.mark.parametrize("glass", [GLASS, (255, 255, 255), (230, 228, 226), (238, 240, 230), (241, 226, 240)])
def test_all_glass_has_no_tissue(glass: tuple[int, int, int]) -> None:
    assert not tissue_mask(canvas(glass, noise=3), MPP).any()


@pytest.mark.parametrize("glass", [(241, 226, 240), (228, 237, 234), (238, 240, 222)])
def test_tinted_glass_is_glass(glass: tuple[int, int, int]) -> None:
    image = canvas(glass)
    wanted = disc(image, 100, 120, 40, (215, 190, 215))
    assert overlap(tissue_mask(image, MPP), wanted) > 0.97


@pytest.mark.parametrize("colours", [(EOSIN, NUCLEI), (PALE, EOSIN), (PALE, NUCLEI), (EOSIN, EOSIN)])
def test_all_tissue_keeps_its_pale_half(colours: tuple[tuple[int, int, int], tuple[int, int, int]]) -> None:
    image = canvas(colours[0])
    image[::4, ::3] = canvas((195, 160, 205))[::4, ::3]
    image[:, 120:] = canvas(colours[1])[:, 120:]
    assert tissue_mask(image, MPP).mean() > 0.98


@pytest.mark.parametrize(
    "pen",
    [
        (30, 60, 190),
        (20, 130, 60),
        (30, 140, 150),
        (15, 15, 20),
        (60, 60, 62),
        (215, 25, 35),
        (235, 220, 60),
        (90, 150, 230),
    ],
)
def test_pen_beside_and_over_tissue_is_left_out(pen: tuple[int, int, int]) -> None:
    image = canvas()
    wanted = disc(image, 100, 70, 45, EOSIN)
    stroke = np.zeros(wanted.shape, dtype=bool)
    stroke[20:180, 170:182] = True
    stroke[95:107, 20:182] = True
    image[stroke] = pen
    found = tissue_mask(image, MPP)
    assert not (found & stroke).any()
    assert not found[:, 130:].any()
    assert overlap(found, wanted & ~stroke) > 0.8


def test_black_scanner_border_and_its_blurred_edge() -> None:
    image = canvas()
    wanted = disc(image, 100, 120, 40, EOSIN)
    image[:25] = image[-20:] = (8, 6, 10)
    image[:, :30] = (8, 6, 10)
    image[25:26, 30:] = 120
    assert overlap(tissue_mask(image, MPP), wanted) > 0.97


@pytest.mark.parametrize("edge", [(170, 172, 175), (120, 125, 130), (210, 205, 222)])
def test_thin_glass_edge_is_left_out(edge: tuple[int, int, int]) -> None:
    image = canvas()
    wanted = disc(image, 100, 120, 40, EOSIN)
    image[:, 200:202] = edge
    image[10:11, :] = edge
    assert overlap(tissue_mask(image, MPP), wanted) > 0.97


def test_fat_between_thin_walls_is_tissue_but_a_wide_hole_is_not() -> None:
    image = canvas()
    tissue = disc(image, 100, 80, 70, EOSIN)
    for y in range(70, 131, 12):
        for x in range(50, 111, 12):
            disc(image, y, x, 5, GLASS)
    assert overlap(tissue_mask(image, MPP), tissue) > 0.97

    hole = disc(image, 100, 80, 30, GLASS)
    found = tissue_mask(image, MPP)
    assert (found & hole).sum() < 0.15 * hole.sum()


def test_dust_is_dropped() -> None:
    image = canvas()
    for y, x in ((20, 20), (50, 200), (180, 30)):
        disc(image, y, x, 4, NUCLEI)
    assert not tissue_mask(image, MPP).any()


def test_ink_speck_inside_tissue_makes_no_hole() -> None:
    image = canvas()
    wanted = disc(image, 100, 120, 50, EOSIN)
    disc(image, 100, 120, 2, (30, 60, 190))
    assert overlap(tissue_mask(image, MPP), wanted) > 0.97


def test_scale_and_tiny_pictures() -> None:
    image = canvas()
    wanted = disc(image, 100, 120, 50, EOSIN)
    half = np.asarray(Image.fromarray(image).resize((120, 100), Image.Resampling.BOX))
    assert abs(tissue_mask(half, 2 * MPP).mean() - wanted.mean()) < 0.01
    assert tissue_mask(np.full((1, 1, 3), 255, dtype=np.uint8), MPP).shape == (1, 1)
    small = replace(RULE, object_area=0.0, open=0.0)
    assert tissue_mask(np.full((3, 3, 3), EOSIN, dtype=np.uint8), MPP, small).all()


def test_otsu_parts_two_heaps() -> None:
    values = np.concatenate([np.full(900, 0.01), np.full(100, 0.3)])
    assert 0.01 < otsu(values) < 0.3
    assert otsu(np.empty(0)) == 0
    assert otsu(np.full(5, 0.2)) == 0


def test_glass_colour_follows_the_glass() -> None:
    np.testing.assert_allclose(glass_colour(canvas((236, 238, 230))), (236, 238, 230), atol=1)
    assert glass_colour(canvas(EOSIN)).tolist() == [245, 245, 245]


@pytest.mark.parametrize(
    ("folder", "low", "high"),
    [("TUM", 0.3, 1), ("STR", 0.95, 1), ("LYM", 0.95, 1), ("MUS", 0.95, 1), ("DEB", 0.95, 1), ("BACK", 0, 0)],
)
def test_real_patches(real_data: Path, folder: str, low: float, high: float) -> None:
    paths = sorted((real_data / "nct-crc" / "NCT-CRC-HE-100K" / folder).glob("*.tif"))
    if not paths:
        pytest.skip(f"no {folder} patch in {real_data}")
    patch = Image.open(paths[0]).convert("RGB").resize((14, 14), Image.Resampling.BOX)
    share = tissue_mask(np.tile(np.asarray(patch), (8, 8, 1)), MPP).mean()
    assert low <= share <= high
