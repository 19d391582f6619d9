from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain.tiling.labels import Codes, mask_labels, read_mask
from results.errors import UserError

CODES = Codes({1: "tumor", 2: "stroma", 4: "tumor"}, frozenset({0}), frozenset({9}))


def test_largest_area_labels_the_tile() -> None:
    mask = np.array(
        [
            [1, 1, 2, 2, 0, 0, 9, 9, 1, 4],
            [1, 2, 2, 2, 0, 1, 9, 1, 2, 2],
        ],
        dtype=np.uint8,
    )
    origins = np.array([[x, 0] for x in range(0, 200, 40)])
    labels, shares = mask_labels(mask, CODES, (200, 40), origins, 40.0)
    assert labels == ["tumor", "stroma", "", "", "stroma"]  # at last equal areas: the label that sorts first
    np.testing.assert_allclose(shares, [0.75, 1, 0, 0, 0.5])
    assert shares.dtype == np.float32


def test_codes_of_one_label_count_together() -> None:
    mask = np.array([[1, 4], [0, 0]], dtype=np.uint8)
    labels, shares = mask_labels(mask, CODES, (20, 20), np.array([[0, 0]]), 20.0)
    assert (labels, shares.tolist()) == (["tumor"], [0.5])


def save(path: Path, values: np.ndarray, mode: str = "L") -> Path:
    image = Image.fromarray(values)
    if mode == "P":
        image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    elif mode == "RGB":
        image = image.convert("RGB")
    image.save(path)
    return path


@pytest.mark.parametrize("mode", ["L", "P"])
def test_masks_are_codes_grey_or_palette(tmp_path: Path, mode: str) -> None:
    values = np.array([[0, 1, 2], [2, 1, 0]], dtype=np.uint8)
    found = read_mask(save(tmp_path / "m.png", values, mode), (1500, 1000), CODES)
    np.testing.assert_array_equal(found, values)


def test_wrong_masks(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not there"):
        read_mask(tmp_path / "m.png", (10, 10), CODES)
    path = save(tmp_path / "m.png", np.zeros((100, 100), dtype=np.uint8))
    with pytest.raises(UserError, match="must cover the whole slide"):
        read_mask(path, (2000, 1000), CODES)
    assert read_mask(path, (1000, 1010), CODES).shape == (100, 100)
    with pytest.raises(UserError, match=r"code 7, which labels\.csv does not list"):
        read_mask(save(path, np.full((10, 10), 7, dtype=np.uint8)), (100, 100), CODES)
    with pytest.raises(UserError, match="mode RGB"):
        read_mask(save(path, np.zeros((10, 10), dtype=np.uint8), "RGB"), (100, 100), CODES)
    path.write_bytes(b"no image")
    with pytest.raises(UserError, match="cannot be read as an image"):
        read_mask(path, (100, 100), CODES)
