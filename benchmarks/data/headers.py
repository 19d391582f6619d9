"""Image headers, read with a few bounded reads: a header is believed only as far as the file's own length bears it out.

Image libraries load every tag of a TIFF as long as it says it is; here a file of any size costs kilobytes.
Formats: PNG (W3C PNG 3rd edition, 5.2-5.6), TIFF 6.0 and BigTIFF.
"""

import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from benchmarks.data.report import Unreadable, check_regular

PNG = b"\x89PNG\r\n\x1a\n"
PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
TIFF_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}
MOST_TAGS, MOST_ARRAY_BYTES = 4096, 64 << 20


@dataclass(frozen=True)
class Header:
    """What an image says of itself.

    Attributes:
        format: `png` or `tiff`.
        width, height: px (of the first image of a TIFF).
        channels: samples a px; a PNG palette counts as one.
        bits: bits a sample.
        is_tiled: a TIFF in tiles rather than strips.
    """

    format: str
    width: int
    height: int
    channels: int
    bits: int
    is_tiled: bool = False


_linked: dict[tuple[int, int, int], Header] = {}
"""Headers by (device, inode, time) of files with several names: hard-linked copies are read once."""


def read_header(path: Path | str, most_side: int = 1 << 20) -> Header:
    """Read the header of a PNG or TIFF and check that the file is as long as it says.

    Args:
        path: the image.
        most_side: most px a side.

    Raises:
        Unreadable: no image, cut short, or larger than `most_side`.
    """
    check_regular(path)
    state = os.stat(path)
    key = (state.st_dev, state.st_ino, state.st_mtime_ns)
    header = _linked.get(key) if state.st_nlink > 1 else None
    if header is None:
        with open(path, "rb", buffering=0) as file:
            header = _parse(file, state.st_size)
        if state.st_nlink > 1:
            _linked[key] = header
    if header.width < 1 or header.height < 1 or max(header.width, header.height) > most_side:
        claim = f"claims {header.width:,} x {header.height:,} px, and at most {most_side:,} a side are plausible"
        raise Unreadable("wrong size", claim)
    return header


def _parse(file: BinaryIO, size: int) -> Header:
    start = file.read(32)
    if not start:
        raise Unreadable("truncated", "is empty")
    if start.startswith(PNG):
        return _png(file, start, size)
    if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _Tiff(file, start, size).header()
    raise Unreadable("unreadable", "is neither a PNG nor a TIFF")


def _png(file: BinaryIO, start: bytes, size: int) -> Header:
    start += file.read(8)
    if len(start) < 33 or start[8:16] != b"\0\0\0\rIHDR":
        raise Unreadable("truncated" if size < 33 else "unreadable", "has no whole PNG header")
    if zlib.crc32(start[12:29]) != int.from_bytes(start[29:33], "big"):
        raise Unreadable("unreadable", "has a PNG header whose check sum is wrong")
    width, height, bits, colour = struct.unpack(">IIBB", start[16:26])
    if colour not in PNG_CHANNELS:
        raise Unreadable("unreadable", f"has a PNG header with the unknown colour type {colour}")
    file.seek(max(0, size - len(PNG_END)))
    if file.read(len(PNG_END)) != PNG_END:
        raise Unreadable("truncated", "does not end as a PNG ends")
    return Header("png", width, height, PNG_CHANNELS[colour], bits)


class _Tiff:
    """The first image of a TIFF or BigTIFF."""

    def __init__(self, file: BinaryIO, start: bytes, size: int) -> None:
        self.file, self.size = file, size
        self.order = "<" if start[:2] == b"II" else ">"
        self.is_big = start[2:4] in (b"+\0", b"\0+")
        at = 8 if self.is_big else 4
        self.inline = 8 if self.is_big else 4
        self.tags = self._tags(self._number(start[at : at + self.inline]))

    def _number(self, data: bytes) -> int:
        return int.from_bytes(data, "little" if self.order == "<" else "big")

    def _read(self, at: int, length: int) -> bytes:
        if at + length > self.size:
            raise Unreadable("truncated", f"is cut short: {self.size:,} bytes, and it needs byte {at + length:,}")
        self.file.seek(at)
        data = self.file.read(length)
        if len(data) < length:
            raise Unreadable("truncated", f"ends while it is read, at byte {at + len(data):,}")
        return data

    def _tags(self, at: int) -> dict[int, tuple[int, int, bytes]]:
        if at < 8:
            raise Unreadable("unreadable", "is a TIFF without an image")
        prefix, entry = (8, 20) if self.is_big else (2, 12)
        count = self._number(self._read(at, prefix))
        if not 0 < count <= MOST_TAGS:
            raise Unreadable("unreadable", f"is a TIFF of {count:,} tags")
        data, tags = self._read(at + prefix, count * entry + self.inline), {}  # the place of the next image ends it
        for position in range(0, count * entry, entry):
            tag, kind = struct.unpack(self.order + "HH", data[position : position + 4])
            length = self._number(data[position + 4 : position + 4 + self.inline])
            tags[tag] = (kind, length, data[position + 4 + self.inline : position + entry])
        return tags

    def _values(self, tag: int, default: int | None = None) -> np.ndarray:
        if tag not in self.tags:
            if default is None:
                raise Unreadable("unreadable", f"is a TIFF without the tag {tag}")
            return np.array([default], dtype=np.uint64)
        kind, count, data = self.tags[tag]
        if kind not in TIFF_TYPES or not count:
            raise Unreadable("unreadable", f"is a TIFF whose tag {tag} is of type {kind} with {count:,} values")
        dtype = np.dtype(f"{self.order}{TIFF_TYPES[kind]}")
        length = count * dtype.itemsize
        if length > MOST_ARRAY_BYTES:
            raise Unreadable("unreadable", f"is a TIFF whose tag {tag} claims {count:,} values")
        if length > self.inline:
            data = self._read(self._number(data), length)
        return np.frombuffer(data[:length], dtype=dtype).astype(np.uint64)

    def header(self) -> Header:
        width, height = int(self._values(256)[0]), int(self._values(257)[0])
        is_tiled = 322 in self.tags
        offsets, counts = (self._values(tag) for tag in ((324, 325) if is_tiled else (273, 279)))
        if len(offsets) != len(counts):
            raise Unreadable("unreadable", f"is a TIFF of {len(offsets):,} pieces with {len(counts):,} lengths")
        ends = np.where(counts > 0, offsets + counts, 0)
        if int(ends.max()) > self.size or bool((ends < np.where(counts > 0, offsets, 0)).any()):
            raise Unreadable("truncated", f"is cut short: {self.size:,} bytes, and its pixels need {int(ends.max()):,}")
        if not counts.any():
            raise Unreadable("truncated", "is a TIFF without pixels")
        channels, bits = int(self._values(277, 1)[0]), self._values(258, 1)
        return Header("tiff", width, height, channels, int(bits.max()), is_tiled)
