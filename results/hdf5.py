"""Rows of one data set of bytes in an HDF5 file, by h5py: a few at a time, and from this file alone."""

import itertools
import math
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from h5py import h5d, h5l, h5z

MOST_CHUNK = 64 << 20
FAULTS = (zlib.error, OSError, RuntimeError, ValueError, LookupError, TypeError, ArithmeticError, MemoryError)
"""What h5py raises for a damaged file."""


class Hdf5Error(Exception):
    """A file that is no HDF5 file, is damaged, or holds something else than it should.

    Attributes:
        kind: `unreadable`, `truncated`, `missing class` (there is no such data set) or `wrong size`.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Hdf5Rows:
    """Rows (first dimension) of one data set of bytes.

    Every call opens the file for itself, so forked processes and threads share no handle.

    Attributes:
        path: the file.
        shape: (rows, ...).
    """

    def __init__(self, path: Path, key: str) -> None:
        """Check from the headers that the values are bytes, and all of them in this file; none is read.

        Raises:
            Hdf5Error: no such data set of bytes, a damaged file, or one whose values lie elsewhere or went through foreign filters.
            OSError: the file cannot be read.
        """
        self.path, self._key = path, key
        with _opened(path, key) as data:
            self.shape = data.shape
            _check_written(data, path.stat().st_size)

    def read(self, rows: Sequence[int]) -> np.ndarray:
        """Return rows (n,) as (n, ...) uint8, in the order asked for.

        Raises:
            Hdf5Error: the file is damaged there, or is another one by now.
            OSError: the file cannot be read.
        """
        wanted = np.asarray(rows, np.int64)
        out = np.empty((len(wanted), *self.shape[1:]), np.uint8)
        with _opened(self.path, self._key) as data:
            if data.shape != self.shape:
                raise Hdf5Error("wrong size", f"holds {data.shape} by now, and held {self.shape} when it was opened")
            if _filters(data):
                _inflate(data, wanted, out)
            else:
                _copy(data, wanted, out)
        return out

    def all(self) -> np.ndarray:
        """Return every row; for small data sets such as labels."""
        return self.read(range(self.shape[0]))


@contextmanager
def _opened(path: Path, key: str) -> Iterator[h5py.Dataset]:
    with open(path, "rb") as file:
        if not file.read(1):
            raise Hdf5Error("truncated", "is empty")
    try:
        if not h5py.is_hdf5(path):
            raise Hdf5Error("unreadable", "is not an HDF5 file")
        with h5py.File(path, "r", locking=False) as file:
            yield _dataset(file, key)
    except FAULTS as error:
        if "truncated file" in str(error):
            raise Hdf5Error(
                "truncated", f"is cut short: {path.stat().st_size:,} bytes, and its header states more"
            ) from error
        raise Hdf5Error("unreadable", f"is a damaged HDF5 file ({' '.join(str(error).split())[:200]})") from error


def _dataset(file: h5py.File, key: str) -> h5py.Dataset:
    """Return the data set, after what is asked of it without following a link, another file or a claim."""
    links, name = file.id.links, key.encode()
    if not links.exists(name):
        others = ", ".join(sorted(other.decode("utf-8", "replace") for other in file.id)[:10])[:100]
        raise Hdf5Error("missing class", f"has no data set '{key}', but {others or 'none'}")
    data = file[key] if links.get_info(name).type == h5l.TYPE_HARD else None
    if not isinstance(data, h5py.Dataset):
        raise Hdf5Error("unreadable", f"has a link or a group under the name '{key}' instead of a data set")
    made = data.id.get_create_plist()
    if made.get_layout() == h5d.VIRTUAL or made.get_external_count():
        raise Hdf5Error("unreadable", f"keeps the values of '{key}' in other files, which are not opened")
    foreign = set(_filters(data)) - {h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE}
    if foreign:
        raise Hdf5Error(
            "unreadable", f"has '{key}' behind the filters {sorted(foreign)}, and only deflate and shuffle are undone"
        )
    if data.dtype != np.uint8 or not data.shape:
        raise Hdf5Error("wrong size", f"has in '{key}' {data.shape} elements of {data.dtype}, not rows of bytes")
    return data


def _filters(data: h5py.Dataset) -> list[int]:
    made = data.id.get_create_plist()
    return [made.get_filter(number)[0] for number in range(made.get_nfilters())]


def _check_written(data: h5py.Dataset, size: int) -> None:
    """Refuse a data set that states more than its file (size bytes) holds: h5py would read it as zeros."""
    layout = data.id.get_create_plist().get_layout()
    if layout == h5d.CHUNKED:
        if _filters(data) and math.prod(data.chunks) > MOST_CHUNK:
            raise Hdf5Error(
                "unreadable", f"is packed in chunks of {data.chunks}, and {MOST_CHUNK:,} bytes are the most"
            )
        count = math.prod(-(-length // step) for length, step in zip(data.shape, data.chunks, strict=True))
        if data.id.get_num_chunks() != count:
            raise Hdf5Error(
                "truncated", f"holds {data.id.get_num_chunks():,} of {count:,} chunks: it was not written to its end"
            )
    elif layout == h5d.CONTIGUOUS:
        end = (data.id.get_offset() or size) + math.prod(data.shape)
        if end > size:
            raise Hdf5Error("truncated", f"is cut short: {size:,} bytes, and it needs {end:,}")


def _copy(data: h5py.Dataset, rows: np.ndarray, out: np.ndarray) -> None:
    """Fill out (n, ...) with rows (n,), neighbours at once."""
    order = np.argsort(rows, kind="stable")
    for run in np.split(order, np.flatnonzero(np.diff(rows[order]) > 1) + 1) if len(order) else ():
        first = rows[run[0]]
        found = data[first : rows[run[-1]] + 1]
        out[run] = found if len(found) == len(run) else found[rows[run] - first]


def _inflate(data: h5py.Dataset, rows: np.ndarray, out: np.ndarray) -> None:
    """Fill out (n, ...) with rows (n,) of filtered chunks, each undone once."""
    steps, ends = data.chunks, data.shape
    blocks = rows // steps[0]
    corners = [range(0, end, step) for end, step in zip(ends[1:], steps[1:], strict=True)]
    for block in np.unique(blocks).tolist():
        mine = np.flatnonzero(blocks == block)
        for corner in itertools.product(*corners):
            part = _chunk(data, (block * steps[0], *corner))[rows[mine] - block * steps[0]]
            lengths = [min(step, end - at) for step, end, at in zip(steps[1:], ends[1:], corner, strict=True)]
            place = (slice(at, at + length) for at, length in zip(corner, lengths, strict=True))
            out[(mine, *place)] = part[(slice(None), *map(slice, lengths))]


def _chunk(data: h5py.Dataset, start: tuple[int, ...]) -> np.ndarray:
    """Return one chunk. HDF5's own deflate gives as much memory as a chunk swells to; here it ends at the chunk's size."""
    most, found = math.prod(data.chunks), data.id.get_chunk_info_by_coord(start)
    if found.size > most + most // 100 + 1024:
        raise Hdf5Error("unreadable", f"has a chunk of {found.size:,} bytes that should unpack to {most:,}")
    skipped, content = data.id.read_direct_chunk(start)
    for position, number in enumerate(_filters(data)):
        if number == h5z.FILTER_DEFLATE and not skipped >> position & 1:
            content = zlib.decompressobj().decompress(content, most + 1)
    if len(content) != most:
        raise Hdf5Error("unreadable", f"has a chunk of {len(content):,} bytes instead of {most:,}")
    return np.frombuffer(content, np.uint8).reshape(data.chunks)
