"""A cohort of slides with something wrong on some of them, tiled and measured once through the command."""

import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy import ndimage

DATA = Path(os.environ.get("SGCL_BENCH_REAL_DATA", Path(__file__).parents[4] / "shared" / "data"))
GLASS, EOSIN, NUCLEI, GREEN_INK = (244, 243, 245), (228, 150, 190), (105, 75, 155), (20, 140, 60)
PX, GLASS_COLUMNS = 512, 256


def stained(seed: int) -> np.ndarray:
    """(512, 512, 3): the left half glass, the right half eosin with nuclei."""
    generator = np.random.default_rng(seed)
    image = np.empty((PX, PX, 3), dtype=np.int16)
    image[:] = EOSIN
    for y, x in generator.integers(0, PX, size=(PX * PX // 200, 2)):
        image[y : y + 5, x : x + 5] = NUCLEI
    image[:, :GLASS_COLUMNS] = GLASS
    return np.clip(image + generator.integers(-2, 3, size=image.shape), 0, 255).astype(np.uint8)


def write_slide(path: Path, image: np.ndarray, mpp: float | None) -> Path:
    """Write a tiled pyramid of three levels."""
    with tifffile.TiffWriter(path) as writer:
        for downsample in (1, 2, 4):
            level = np.asarray(Image.fromarray(image).reduce(downsample))
            scale = {} if mpp is None else {"resolution": (1e4 / mpp / downsample,) * 2, "resolutionunit": "CENTIMETER"}
            writer.write(level, tile=(128, 128), compression="zlib", photometric="rgb", subfiletype=int(downsample > 1), metadata=None, **scale)  # fmt: skip
    return path


@pytest.fixture(scope="session")
def odd_slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine slides: three sound, a blurred one, an inked one, one of another um/px, a copy, one without um/px, a flat TIFF."""
    root = tmp_path_factory.mktemp("odd") / "liver <b>"
    root.mkdir()
    for number in range(3):
        write_slide(root / f"sound{number}.tif", stained(number), 0.5)
    write_slide(root / "blurred.tif", ndimage.gaussian_filter(stained(3), (6, 6, 0)), 0.5)
    inked = stained(4)
    inked[40:460, 10:220] = GREEN_INK
    write_slide(root / "inked.tif", inked, 0.5)
    write_slide(root / "other.tif", stained(5), 0.25)
    (root / "copy.tif").write_bytes((root / "sound0.tif").read_bytes())
    write_slide(root / "silent.tif", stained(6), None)
    tifffile.imwrite(root / "flat.tif", stained(7), photometric="rgb", metadata=None)
    names = ["sound0", "sound1", "sound2", "blurred", "inked", "other", "copy", "silent", "flat"]
    rows = [
        f"{name};{name}.tif;P{i // 2};{'Köln' if i % 2 else 'H <i>1</i>'};{'0,3' if name == 'sound2' else ''};{'tumour' if i < 2 else ''}"
        for i, name in enumerate(names)
    ]
    (root / "cohort.csv").write_bytes(
        ("\ufeffslide;path;patient;hospital;mpp;label\r\n" + "\r\n".join(rows) + "\r\n").encode()
    )
    (root / "cohort.yaml").write_text("name: liver\nlicence: CC BY 4.0\ncite: 'Doe & Roe, 2024'\n")
    return root


@pytest.fixture
def real_data() -> Path:
    if not DATA.is_dir():
        pytest.skip(f"no real files: {DATA} is missing; set SGCL_BENCH_REAL_DATA")
    return DATA
