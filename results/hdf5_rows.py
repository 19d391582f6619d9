"""Rows of a large data set of bytes in an HDF5 file, a few at a time: `x` and `y` of PatchCamelyon.

Contiguous values are read where they lie. Chunks are found by their version-1 B-tree (HDF5 File Format Specification 3.0, III.A.1,
node type 1), read once, and decoded a block of rows at a time.
"""

import math
import struct
import threading
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from results.hdf5 import Dataset, Hdf5Error, read_datasets

DEFLATE, SHUFFLE = 1, 2
MOST_CHUNKS, MOST_BLOCK = 8_000_000, 256 << 20


class Hdf5Rows:
    """Rows (first dimension) of one data set of bytes.

    Attributes:
        path: the file.
        shape: (rows, ...).
    """

    def __init__(self, path: Path, key: str) -> None:
        """Read headers and, where there are any, the places of the chunks.

        Raises:
            Hdf5Error: no such data set of bytes, or a file that is damaged or of a layout that is not read here.
            OSError: the file cannot be read.
        """
        self.path = path
        found = read_datasets(path)
        if key not in found:
            raise Hdf5Error("missing class", f"has no data set '{key}', but {', '.join(sorted(found))[:100] or 'none'}")
        data = found[key]
        self.shape = data.shape
        if not data.is_bytes or not data.shape:
            raise Hdf5Error("wrong size", f"has in '{key}' {data.shape} elements of {data.item_bytes} bytes, not bytes")
        if data.offset is None and (data.chunk is None or set(data.filters) - {DEFLATE, SHUFFLE}):
            how = f"filters {list(data.filters)}" if data.chunk else "a layout"
            raise Hdf5Error("not checked", f"has '{key}' stored with {how} that cannot be read here, or not at all")
        self._offset, self._row_bytes = data.offset, math.prod(data.shape[1:])
        if data.offset is not None:
            self._check_end(data.offset + math.prod(data.shape))
            return
        self._chunks = _Chunks(path, data)
        self._blocks: OrderedDict[int, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def _check_end(self, end: int) -> None:
        size = self.path.stat().st_size
        if end > size:
            raise Hdf5Error("truncated", f"is cut short: {size:,} bytes, and it needs {end:,}")

    def read(self, rows: Sequence[int]) -> np.ndarray:
        """Return rows (n,) as (n, ...) uint8, in the order asked for."""
        out = np.empty((len(rows), *self.shape[1:]), np.uint8)
        if self._offset is None:
            for position in np.argsort(np.asarray(rows, np.int64), kind="stable").tolist():
                block, within = divmod(int(rows[position]), self._chunks.shape[0])
                out[position] = self._block(block)[within]
            return out
        with open(self.path, "rb") as file:
            for position, row in enumerate(rows):
                file.seek(self._offset + int(row) * self._row_bytes)
                got = file.read(self._row_bytes)
                if len(got) != self._row_bytes:
                    raise Hdf5Error("truncated", f"is cut short within row {int(row):,}")
                out[position] = np.frombuffer(got, np.uint8).reshape(self.shape[1:])
        return out

    def all(self) -> np.ndarray:
        """Return every row; for small data sets such as labels."""
        if self._offset is None:
            return self.read(range(self.shape[0]))
        with open(self.path, "rb") as file:
            file.seek(self._offset)
            values = np.frombuffer(file.read(math.prod(self.shape)), np.uint8)
        if len(values) != math.prod(self.shape):
            raise Hdf5Error("truncated", "is cut short")
        return values.reshape(self.shape)

    def _block(self, number: int) -> np.ndarray:
        with self._lock:
            if number not in self._blocks:
                while self._blocks and (len(self._blocks) + 1) * self._chunks.block_bytes > MOST_BLOCK:
                    self._blocks.popitem(last=False)
                self._blocks[number] = self._chunks.block(number)
            self._blocks.move_to_end(number)
            return self._blocks[number]


class _Chunks:
    """Where the chunks of a data set lie, and blocks of rows made of them."""

    def __init__(self, path: Path, data: Dataset) -> None:
        self.shape, tree = data.chunk
        self._whole, self._filters, self._path = data.shape, data.filters, path
        counts = [-(-length // step) for length, step in zip(data.shape, self.shape, strict=True)]
        self._across = math.prod(counts[1:])
        self.block_bytes = self.shape[0] * math.prod(data.shape[1:])
        if math.prod(counts) > MOST_CHUNKS or self.block_bytes > MOST_BLOCK:
            raise Hdf5Error(
                "not checked", f"is stored in chunks of {self.shape}, too many or too large to be read here"
            )
        found = self._places(tree, math.prod(counts))
        order = np.argsort(found["start"][:, 0], kind="stable")
        self._found = found[order]
        if len(found) != math.prod(counts):
            raise Hdf5Error(
                "truncated", f"holds {len(found):,} of {math.prod(counts):,} chunks: it was not written to its end"
            )

    def _places(self, tree: int, count: int) -> np.ndarray:
        """Walk the B-tree; one entry a chunk: its bytes, filter mask, start (rank + 1) and address."""
        rank = len(self.shape) + 1
        entry = np.dtype([("bytes", "<u4"), ("mask", "<u4"), ("start", "<u8", (rank,)), ("address", "<u8")])
        size, parts, waiting, total, nodes = self._path.stat().st_size, [], [tree], 0, 0
        with open(self._path, "rb") as file:
            while waiting:
                nodes += 1
                file.seek(waiting.pop())
                head = file.read(24)
                if len(head) < 24 or head[:4] != b"TREE" or head[4] != 1 or nodes > 2 * count + 64:
                    raise Hdf5Error("unreadable", "is an HDF5 file whose chunks cannot be followed")
                used = struct.unpack_from("<H", head, 6)[0]
                body = file.read(used * entry.itemsize)
                if len(body) < used * entry.itemsize:
                    raise Hdf5Error("truncated", "is cut short within the list of its chunks")
                entries = np.frombuffer(body, entry)
                if head[5]:
                    waiting += [int(address) for address in entries["address"] if address < size]
                    continue
                total += used
                if total > count or (entries["address"].astype(float) + entries["bytes"] > size).any():
                    raise Hdf5Error("truncated", "is cut short, or lists chunks that are not there")
                if (entries["start"][:, :-1] >= np.array(self._whole, np.uint64)).any():
                    raise Hdf5Error("unreadable", "is an HDF5 file whose chunks lie outside of their data set")
                parts.append(entries)
        return np.concatenate(parts) if parts else np.empty(0, entry)

    def block(self, number: int) -> np.ndarray:
        """Return rows number * chunk length and on, as (chunk length, ...) uint8."""
        out = np.zeros((self.shape[0], *self._whole[1:]), np.uint8)
        first = number * self._across
        with open(self._path, "rb") as file:
            for entry in self._found[first : first + self._across]:
                if entry["start"][0] != number * self.shape[0]:
                    raise Hdf5Error("unreadable", "is an HDF5 file whose chunks do not cover its rows")
                file.seek(int(entry["address"]))
                values = self._decode(file.read(int(entry["bytes"])), int(entry["mask"]))
                starts = [int(start) for start in entry["start"][1:-1]]
                lengths = [
                    min(step, end - at) for step, end, at in zip(self.shape[1:], self._whole[1:], starts, strict=True)
                ]
                place = tuple(slice(at, at + length) for at, length in zip(starts, lengths, strict=True))
                out[(slice(None), *place)] = values[(slice(None), *(slice(length) for length in lengths))]
        return out

    def _decode(self, content: bytes, mask: int) -> np.ndarray:
        """Undo the filters of one chunk, last one first; bytes have nothing to shuffle."""
        most = math.prod(self.shape)
        for position in reversed(range(len(self._filters))):
            if self._filters[position] == DEFLATE and not mask >> position & 1:
                try:
                    content = zlib.decompressobj().decompress(content, most + 1)
                except zlib.error as error:
                    raise Hdf5Error("unreadable", f"has a damaged chunk ({error})") from error
        if len(content) != most:
            raise Hdf5Error("unreadable", f"has a chunk of {len(content):,} bytes instead of {most:,}")
        return np.frombuffer(content, np.uint8).reshape(self.shape)
