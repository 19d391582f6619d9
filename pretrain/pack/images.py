"""One image file to one tile: bounded before it is decoded, then resized and cropped where it must be."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from pretrain.pack.jpeg_tiff import is_mislabelled, read_jpeg_tiles

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".tif", ".tiff", ".bmp", ".webp")
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
MOST_PX = 2**26
"""px of an image, about 67 million; larger pictures are slides."""
MOST_ENLARGED = 8
"""An image is enlarged at most this many times."""
DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")


class BadImage(Exception):
    """What is wrong with one image, in a few words that follow its name."""


@dataclass(frozen=True)
class Tile:
    """One packed image.

    Attributes:
        pixels: (tile, tile, 3) uint8.
        size: (width, height) of the image in px.
        scale: px of the image per px of the tile; 1 where nothing was resized.
        jpeg: the file itself where it can be stored as it is, else None.
    """

    pixels: np.ndarray
    size: tuple[int, int]
    scale: float
    jpeg: bytes | None


def image_size(path: Path) -> tuple[int, int]:
    """Return (width, height) of an image from its header.

    Raises:
        BadImage: it is no image, or claims too many px.
    """
    with _opened(path) as image:
        return _turned(image)


def read_tile(path: Path, tile: int, strict: bool) -> Tile:
    """Read an image as a tile: its centred square, resized to `tile` px (the shorter side decides).

    Args:
        path: the file.
        tile: side in px.
        strict: refuse an image of another size instead.

    Raises:
        BadImage: it is no image, claims too many px, cannot be decoded, has more than 8 bits a channel, or has a size that is refused.
        OSError: the system cannot read the file.
    """
    with _opened(path) as image:
        width, height = _turned(image)
        short = min(width, height)
        if strict and (width, height) != (tile, tile):
            raise BadImage(f"is {width} x {height} px instead of {tile} x {tile}")
        if short * MOST_ENLARGED < tile:
            raise BadImage(f"is {width} x {height} px, too small for a tile of {tile} px")
        if image.mode in DEEP:
            raise BadImage(f"has more than 8 bits a channel (mode {image.mode}): convert it")
        is_plain = (
            image.format == "JPEG" and image.mode == "RGB" and image.getexif().get(ExifTags.Base.Orientation, 1) == 1
        )
        rgb = read_jpeg_tiles(path, image) if is_mislabelled(image) else _rgb(ImageOps.exif_transpose(image))
    if (width, height) == (tile, tile):
        content = path.read_bytes() if is_plain and path.stat().st_size <= 3 * tile * tile + 2**16 else None
        return Tile(np.array(rgb), (width, height), 1.0, content)
    left, top = (width - short) / 2, (height - short) / 2
    resized = rgb.resize((tile, tile), Image.Resampling.LANCZOS, box=(left, top, left + short, top + short))
    return Tile(np.array(resized), (width, height), short / tile, None)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image whose header is sound; whatever a decoder raises on damage is a BadImage."""
    if path.exists() and not path.is_file():
        raise BadImage("is no regular file")
    with open(path, "rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(file, formats=FORMATS) as image:
                if image.width * image.height > MOST_PX:
                    raise BadImage(
                        f"claims {image.width:,} x {image.height:,} px, more than {MOST_PX:,} in all: tile slides with cohort="
                    )
                yield image
        except (BadImage, MemoryError):
            raise
        except Image.DecompressionBombError as error:
            raise BadImage(f"claims more than {MOST_PX:,} px: tile slides with cohort=") from error
        except Exception as error:  # decoders raise whatever the damage leads them to
            if isinstance(error, OSError) and error.errno:
                raise
            raise BadImage(f"cannot be decoded ({_short(error)})") from error


def _short(error: Exception) -> str:
    if type(error).__name__ == "UnidentifiedImageError":
        return "it is none of " + ", ".join(FORMATS)
    return " ".join(str(error).split())[:120] or type(error).__name__


def _turned(image: Image.Image) -> tuple[int, int]:
    """Size after the camera's rotation."""
    sideways = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    return (image.height, image.width) if sideways else image.size


def _rgb(image: Image.Image) -> Image.Image:
    """RGB on white."""
    if image.mode in ("RGBA", "LA", "PA") or (image.mode == "P" and "transparency" in image.info):
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        return white.convert("RGB")
    return image.convert("RGB")


def encode(tile: Tile, encoding: str, quality: int) -> bytes:
    """Return the bytes to store: the JPEG itself where it fits, else as tiles of slides are stored (4:4:4 JPEG, or PNG)."""
    if encoding == "jpeg" and tile.jpeg is not None:
        return tile.jpeg
    buffer = io.BytesIO()
    if encoding == "jpeg":
        Image.fromarray(tile.pixels).save(buffer, "JPEG", quality=quality, subsampling=0)
    else:
        Image.fromarray(tile.pixels).save(buffer, "PNG")
    return buffer.getvalue()
