"""A scene as a slide: a tiled JPEG pyramid that OpenSlide opens as generic-tiff, with um/px.

The TIFF is put together here, tag by tag (TIFF 6.0 and its technical note 2), since tifffile writes JPEG tiles only with
a further package.
"""

import io
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MPP = 0.5
"""um/px of level 0."""

TILE = 256
DOWNSAMPLES = (1, 4, 16)

SHORT, LONG, RATIONAL = "H", "L", "LL"
FIELD_TYPES = {SHORT: 3, LONG: 4, RATIONAL: 5}


def write_slide(path: Path, image: NDArray[np.uint8]) -> None:
    """Write level 0 as RGB uint8 (height, width, 3), sides divisible by 16, and its pyramid to one TIFF."""
    with open(path, "wb") as file:
        file.write(struct.pack("<2sHL", b"II", 42, 0))
        link = 4
        for downsample in DOWNSAMPLES:
            link = _append_level(file, shrink(image, downsample), downsample, link)


def shrink(image: NDArray[np.uint8], downsample: int) -> NDArray[np.uint8]:
    """Return the means over squares of `downsample` px: (height, width, 3) -> (height / d, width / d, 3)."""
    if downsample == 1:
        return image
    height, width, channels = image.shape
    rows = image.reshape(height // downsample, downsample, width, channels).sum(axis=1, dtype=np.uint32)
    squares = rows.reshape(height // downsample, width // downsample, downsample, channels).sum(axis=2)
    return ((squares + downsample**2 // 2) // downsample**2).astype(np.uint8)


def _append_level(file: io.BufferedWriter, level: NDArray[np.uint8], downsample: int, link: int) -> int:
    """Append the tiles and the directory of one level, hang it on the offset at `link`; return the link of the next."""
    offsets, sizes = [], []
    for tile in _jpeg_tiles(level):
        offsets.append(file.tell())
        sizes.append(file.write(tile))
    resolution = (round(10_000 / MPP), downsample)
    tags = {
        254: (LONG, [0 if downsample == 1 else 1]),  # a smaller copy of another level
        256: (LONG, [level.shape[1]]),
        257: (LONG, [level.shape[0]]),
        258: (SHORT, [8, 8, 8]),
        259: (SHORT, [7]),  # JPEG
        262: (SHORT, [6]),  # YCbCr
        277: (SHORT, [3]),
        282: (RATIONAL, resolution),
        283: (RATIONAL, resolution),
        284: (SHORT, [1]),
        296: (SHORT, [3]),  # px per centimetre
        322: (SHORT, [TILE]),
        323: (SHORT, [TILE]),
        324: (LONG, offsets),
        325: (LONG, sizes),
        530: (SHORT, [2, 2]),  # colour at half the resolution
    }
    packed = {tag: struct.pack(f"<{len(values)}{kind[0]}", *values) for tag, (kind, values) in tags.items()}
    directory = struct.pack("<H", len(tags))
    file.write(b"\0" * (-file.tell() % 4))
    for tag, (kind, values) in tags.items():
        data = packed[tag]
        if len(data) > 4:
            data = struct.pack("<L", file.tell())
            file.write(packed[tag] + b"\0" * (-len(packed[tag]) % 4))
        directory += struct.pack("<HHL", tag, FIELD_TYPES[kind], len(values) // len(kind)) + data.ljust(4, b"\0")
    start = file.tell()
    file.write(directory + struct.pack("<L", 0))
    end = file.tell()
    file.seek(link)
    file.write(struct.pack("<L", start))
    file.seek(end)
    return end - 4


def _jpeg_tiles(level: NDArray[np.uint8]) -> Iterator[bytes]:
    """Encode the tiles of a level, row after row; beyond the rim the last px is repeated."""
    height, width, _ = level.shape
    level = np.pad(level, ((0, -height % TILE), (0, -width % TILE), (0, 0)), mode="edge")
    for row in range(0, height, TILE):
        for column in range(0, width, TILE):
            buffer = io.BytesIO()
            tile = Image.fromarray(level[row : row + TILE, column : column + TILE])
            tile.save(buffer, "JPEG", quality=88, subsampling="4:2:0")
            yield buffer.getvalue()
