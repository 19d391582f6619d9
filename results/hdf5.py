"""What an HDF5 file of the classic layout holds, from its headers alone; nothing of the data is read.

Follows the HDF5 File Format Specification 3.0: superblock version 0 or 1 (II.A), symbol table and B-tree of groups (III.A-C),
version-1 object headers (IV.A.1.a), dataspace (IV.A.2.b), datatype (IV.A.2.d), data layout (IV.A.2.i) and filter pipeline (IV.A.2.l)
messages. `results.hdf5_rows` reads the values.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

MAGIC = b"\x89HDF\r\n\x1a\n"
NOWHERE = 0xFFFFFFFFFFFFFFFF
MOST_BLOCK, MOST_BLOCKS = 1 << 20, 64
WHOLE_NUMBER, ENUMERATION = 0, 8


class Hdf5Error(Exception):
    """A file that is no HDF5 file of the classic layout, or a damaged one.

    Attributes:
        kind: `unreadable`, `truncated`, or `not checked` for the newer layout, which is not read here.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


@dataclass(frozen=True)
class Dataset:
    """One data set.

    Attributes:
        shape: its length in every dimension.
        item_bytes: bytes an element.
        offset: where contiguous values begin; None when they are chunked or absent.
        type_class: the format's class of its elements: 0 whole numbers, 8 an enumeration (which booleans are).
        chunk: shape of a chunk and address of their B-tree; None when the values are contiguous or absent.
        filters: numbers of the filters that chunks went through, in the order of writing: 1 deflate, 2 shuffle.
    """

    shape: tuple[int, ...]
    item_bytes: int
    offset: int | None
    type_class: int = WHOLE_NUMBER
    chunk: tuple[tuple[int, ...], int] | None = None
    filters: tuple[int, ...] = ()

    @property
    def is_bytes(self) -> bool:
        """Whether the elements are whole numbers of one byte."""
        return self.item_bytes == 1 and self.type_class in (WHOLE_NUMBER, ENUMERATION)


def read_datasets(path: Path) -> dict[str, Dataset]:
    """Read the data sets in the root group.

    Raises:
        Hdf5Error: no HDF5, cut short, or of the newer layout that this reader does not know (kind `not checked`).
    """
    try:
        with open(path, "rb") as file:
            return _Reader(file, path.stat().st_size).datasets()
    except (struct.error, IndexError) as error:
        raise Hdf5Error("unreadable", "is an HDF5 file with a broken header") from error


class _Reader:
    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size = file, size

    def _read(self, at: int, length: int) -> bytes:
        if not 0 <= length <= MOST_BLOCK:
            raise Hdf5Error("unreadable", f"is an HDF5 file with a header of {length:,} bytes")
        if at + length > self.size:
            raise Hdf5Error("truncated", f"is cut short: {self.size:,} bytes, and it needs byte {at + length:,}")
        self.file.seek(at)
        return self.file.read(length)

    def datasets(self) -> dict[str, Dataset]:
        start = self._read(0, min(96, self.size))
        if not start.startswith(MAGIC):
            raise Hdf5Error("truncated" if not start else "unreadable", "is not an HDF5 file" if start else "is empty")
        if len(start) < 96:
            raise Hdf5Error("truncated", f"is cut short: {self.size:,} bytes")
        if start[8] > 1 or start[13:15] != b"\x08\x08":
            raise Hdf5Error("not checked", "has the newer HDF5 layout, whose shapes are not read here")
        shift = 4 if start[8] == 1 else 0
        end, root = struct.unpack_from("<Q", start, 40 + shift)[0], 56 + shift
        if end > self.size:
            raise Hdf5Error("truncated", f"is cut short: {self.size:,} bytes of {end:,}")
        messages = self._messages(struct.unpack("<Q", self._read(root + 8, 8))[0])
        if 0x11 not in messages:
            raise Hdf5Error("not checked", "has a group without a symbol table, whose shapes are not read here")
        tree, heap = struct.unpack_from("<QQ", messages[0x11])
        names = struct.unpack_from("<Q", self._read(heap, 32), 24)[0]
        return dict(self._entry(names, entry) for entry in self._symbols(tree))

    def _symbols(self, tree: int) -> list[bytes]:
        found, waiting, blocks = [], [tree], 0
        while waiting:
            at, blocks = waiting.pop(), blocks + 1
            if blocks > MOST_BLOCKS:
                raise Hdf5Error("unreadable", "is an HDF5 file with a group of too many parts")
            head = self._read(at, 8)
            if head[:4] == b"TREE":
                count = struct.unpack_from("<H", head, 6)[0]
                body = self._read(at + 24, 16 * count + 8)
                waiting += [struct.unpack_from("<Q", body, 16 * number + 8)[0] for number in range(count)]
            elif head[:4] == b"SNOD":
                count = struct.unpack_from("<H", head, 6)[0]
                body = self._read(at + 8, 40 * count)
                found += [body[40 * number : 40 * number + 40] for number in range(count)]
            else:
                raise Hdf5Error("unreadable", "is an HDF5 file whose group cannot be followed")
        return found

    def _entry(self, names: int, entry: bytes) -> tuple[str, Dataset]:
        name, header = struct.unpack_from("<QQ", entry)
        text = (
            self._read(names + name, min(256, self.size - names - name)).partition(b"\0")[0].decode("utf-8", "replace")
        )
        messages = self._messages(header)
        if 0x1 not in messages or 0x3 not in messages:
            raise Hdf5Error("unreadable", f"is an HDF5 file in which '{text[:40]}' is no data set")
        space, kind, layout = messages[0x1], messages[0x3], messages.get(0x8, b"")
        rank = space[1]
        at = 8 if space[0] == 1 else 4
        shape = struct.unpack_from(f"<{rank}Q", space, at)
        filters = _filters(messages[0xB]) if 0xB in messages else ()
        where = _place(layout, rank) if len(layout) >= 18 and layout[0] == 3 else (None, None)
        offset, chunk = (None if filters else where[0]), where[1]
        item = struct.unpack_from("<I", kind, 4)[0]
        return text, Dataset(shape, item, offset, kind[0] & 15, chunk, filters)

    def _messages(self, at: int) -> dict[int, bytes]:
        """Return message type -> body of a version-1 object header, with its continuations."""
        prefix = self._read(at, 16)
        if prefix[0] != 1:
            raise Hdf5Error("not checked", "has object headers of the newer HDF5 layout, which are not read here")
        messages: dict[int, bytes] = {}
        waiting = [(at + 16, struct.unpack_from("<I", prefix, 8)[0])]
        for _ in range(MOST_BLOCKS):
            if not waiting:
                return messages
            begin, length = waiting.pop()
            block, position = self._read(begin, length), 0
            while position + 8 <= len(block):
                kind, size = struct.unpack_from("<HH", block, position)
                body = block[position + 8 : position + 8 + size]
                if kind == 0x10 and len(body) >= 16:
                    waiting.append(struct.unpack_from("<QQ", body))
                else:
                    messages.setdefault(kind, body)
                position += 8 + size
        raise Hdf5Error("unreadable", "is an HDF5 file with too long a header")


def _place(layout: bytes, rank: int) -> tuple[int | None, tuple[tuple[int, ...], int] | None]:
    """Return where contiguous values begin, or chunk shape and B-tree of chunked ones; None for what is not there."""
    if layout[1] == 1:
        address = struct.unpack_from("<Q", layout, 2)[0]
        return (None if address == NOWHERE else address), None
    if layout[1] != 2 or layout[2] != rank + 1:
        return None, None
    tree = struct.unpack_from("<Q", layout, 3)[0]
    shape = struct.unpack_from(f"<{rank}I", layout, 11)
    return None, (None if tree == NOWHERE or 0 in shape else (shape, tree))


def _filters(body: bytes) -> tuple[int, ...]:
    """Return the filter numbers of a pipeline message of version 1 or 2."""
    version, count = body[0], body[1]
    if version not in (1, 2):
        raise Hdf5Error("not checked", f"has a filter pipeline of version {version}, which is not read here")
    at, found = (8 if version == 1 else 2), []
    for _ in range(count):
        number = struct.unpack_from("<H", body, at)[0]
        named = version == 1 or number >= 256
        length = struct.unpack_from("<H", body, at + 2)[0] if named else 0
        values = struct.unpack_from("<H", body, at + (6 if named else 4))[0]
        at += (8 if named else 6) + (-(-length // 8) * 8 if version == 1 else length) + 4 * values
        at += 4 * (values % 2) if version == 1 else 0
        found.append(number)
    return tuple(found)
