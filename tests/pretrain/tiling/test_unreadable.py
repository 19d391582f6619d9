"""What is said of files that OpenSlide does not open."""

import numpy as np
import pytest
import tifffile

from pretrain.tiling.reader import SlideReader
from results.errors import UserError

PIXELS = np.zeros((300, 400, 3), np.uint8)


def said(path) -> str:
    with pytest.raises(UserError) as error:
        SlideReader(path)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("bigtiff", [False, True])
def test_a_flat_tiff_is_called_that_with_the_way_out(tmp_path, bigtiff):
    path = tmp_path / "scan.tif"
    tifffile.imwrite(path, PIXELS, photometric="rgb", bigtiff=bigtiff)
    text = said(path)
    assert text.startswith("scan.tif is a flat TIFF of 400 x 300 px")
    assert "vips tiffsave scan.tif slide.tif --tile --pyramid" in text
    assert "mpp column of cohort.csv" in text


def test_an_ome_tiff_is_called_that(tmp_path):
    path = tmp_path / "scan.ome.tif"
    tifffile.imwrite(path, PIXELS, photometric="rgb", ome=True)
    assert "is an OME-TIFF of 400 x 300 px" in said(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x89PNG\r\n\x1a\n rest", "is a PNG, no slide"),
        (b"\xff\xd8\xff\xe0 rest", "is a JPEG, no slide"),
        (b"", "begins like no slide format"),
        (b"noise" * 100, "begins like no slide format"),
        (b"II*\0", "begins like a TIFF but is cut short or damaged"),
        (b"II*\0\xff\xff\xff\x7f", "begins like a TIFF but is cut short or damaged"),
        (b"II*\0\x08\0\0\0\xff\xff" + bytes(100), "begins like a TIFF but is cut short or damaged"),
        (b"II*\0\x08\0\0\0\x01\0" + b"\x00\x01\x04\0\xff\xff\xff\xff" + bytes(8), "a flat TIFF"),
    ],
)
def test_other_files(tmp_path, content, words):
    path = tmp_path / "scan.svs"
    path.write_bytes(content)
    assert words in said(path)
