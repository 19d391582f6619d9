"""JPEG tiles in a TIFF that calls itself RGB while its JPEGs are YCbCr, as Bio-Formats and QuPath export them; libtiff refuses those."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

PHOTOMETRIC, COMPRESSION, PLANAR, TILE_WIDTH, TILE_LENGTH, OFFSETS, COUNTS, TABLES = (
    262,
    259,
    284,
    322,
    323,
    324,
    325,
    347,
)
JPEG, RGB = 7, 2
MOST_TILE = 2**24
"""px of a tile."""


def is_mislabelled(image: Image.Image) -> bool:
    """Whether an open TIFF holds JPEG tiles under the name RGB."""
    tags = getattr(image, "tag_v2", {})
    return (
        (tags.get(COMPRESSION), tags.get(PHOTOMETRIC), tags.get(PLANAR, 1)) == (JPEG, RGB, 1)
        and {TILE_WIDTH, TILE_LENGTH, OFFSETS, COUNTS} <= set(tags)
        and image.mode == "RGB"
    )


def read_jpeg_tiles(path: Path, image: Image.Image) -> Image.Image:
    """Decode the tiles one by one, each with the tables of the whole file in front (TIFF technical note 2).

    Raises:
        ValueError: the tags do not fit together, or a tile is not as large as they say.
        OSError: a tile cannot be decoded.
    """
    tags = image.tag_v2
    width, height = int(tags[TILE_WIDTH]), int(tags[TILE_LENGTH])
    columns, rows = -(-image.width // max(1, width)), -(-image.height // max(1, height))
    places = list(zip(tags[OFFSETS], tags[COUNTS], strict=True))
    if not 0 < width * height <= MOST_TILE or len(places) != columns * rows:
        raise ValueError(f"{len(places)} tiles of {width} x {height} px do not fit the image")
    tables = bytes(tags.get(TABLES, b""))[2:-2]
    pixels = np.empty((rows * height, columns * width, 3), dtype=np.uint8)
    with open(path, "rb") as file:
        for number, (offset, count) in enumerate(places):
            file.seek(offset)
            content = file.read(min(count, 4 * MOST_TILE))
            with Image.open(io.BytesIO(content[:2] + tables + content[2:]), formats=("JPEG",)) as tile:
                if tile.size != (width, height):
                    raise ValueError(f"tile {number} is {tile.width} x {tile.height} px")
                y, x = number // columns * height, number % columns * width
                pixels[y : y + height, x : x + width] = np.asarray(tile.convert("RGB"))
    return Image.fromarray(pixels[: image.height, : image.width])
