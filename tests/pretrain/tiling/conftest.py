"""Small slides that are written in the test: pyramidal, tiled TIFFs that OpenSlide reads as generic-tiff."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

GLASS = (244, 243, 245)
EOSIN = (228, 150, 190)
NUCLEI = (105, 75, 155)
DATA = Path(os.environ.get("SGCL_BENCH_REAL_DATA", Path(__file__).parents[4] / "shared" / "data"))


@pytest.fixture
def real_data() -> Path:
    if not DATA.is_dir():
        pytest.skip(f"no real slides: {DATA} is missing; set SGCL_BENCH_REAL_DATA")
    return DATA


def stained(height: int, width: int, seed: int = 0, glass_columns: int = 0) -> np.ndarray:
    """Eosin with nuclei and noise; the first `glass_columns` columns are empty glass."""
    generator = np.random.default_rng(seed)
    image = np.empty((height, width, 3), dtype=np.int16)
    image[:] = EOSIN
    for y, x in generator.integers(0, (height, width), size=(height * width // 200, 2)):
        image[y : y + 5, x : x + 5] = NUCLEI
    image[:, :glass_columns] = GLASS
    image += generator.integers(-2, 3, size=image.shape, dtype=np.int16)
    return np.clip(image, 0, 255).astype(np.uint8)


def write_slide(
    path: Path, image: np.ndarray, mpp: float | None = 0.5, downsamples: tuple[int, ...] = (1, 2, 4)
) -> Path:
    """Write a deflated tiled TIFF with one page a pyramid level and the um/px as its resolution tags."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tifffile.TiffWriter(path) as writer:
        for downsample in downsamples:
            size = (image.shape[1] // downsample, image.shape[0] // downsample)
            level = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))
            scale = {} if mpp is None else {"resolution": (1e4 / mpp / downsample,) * 2, "resolutionunit": "CENTIMETER"}
            writer.write(
                level,
                tile=(128, 128),
                compression="zlib",
                photometric="rgb",
                subfiletype=int(downsample > 1),
                metadata=None,
                **scale,
            )
    return path


@pytest.fixture
def slide_file(tmp_path: Path) -> Callable[..., Path]:
    """Write a slide below `tmp_path`: `slide_file(name, image, mpp=0.5, downsamples=(1, 2, 4))`."""

    def write(name: str, image: np.ndarray | None = None, **options: object) -> Path:
        return write_slide(tmp_path / name, stained(512, 512) if image is None else image, **options)

    return write


@pytest.fixture
def picture() -> Callable[..., np.ndarray]:
    """Draw tissue: `picture(height, width, seed=0, glass_columns=0)`."""
    return stained
