"""Rows of HDF5 files of every layout; files that are damaged, claim too much or point elsewhere are refused."""

import contextlib
import os
import subprocess
import sys
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest

from results.hdf5 import Hdf5Error, Hdf5Rows

ROOT = Path(__file__).resolve().parents[2]
VALUES = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), dtype=np.uint8)
LAYOUTS = {
    "contiguous": {},
    "chunks": {"chunks": (4, 8, 5, 3)},
    "deflated": {"chunks": (4, 8, 5, 3), "compression": "gzip"},
    "shuffled": {"chunks": (3, 8, 8, 2), "compression": "gzip", "shuffle": True},
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.h5"


def write(path, library="earliest", **how):
    with h5py.File(path, "w", libver=library) as file:
        file.create_dataset("x", data=VALUES, **how)
    return path


@pytest.mark.parametrize("library", ["earliest", "latest"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_in_the_order_asked_for(path, layout, library):
    rows = Hdf5Rows(write(path, library, **LAYOUTS[layout]), "x")
    assert rows.shape == VALUES.shape
    assert (rows.all() == VALUES).all()
    assert (rows.read([9, 0, 5, 9, 4, 1]) == VALUES[[9, 0, 5, 9, 4, 1]]).all()
    assert rows.read([]).shape == (0, 8, 8, 3)


def test_small_values_in_the_header(path):
    with h5py.File(path, "w") as file:
        made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        made.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple((5, 1))
        h5py.h5d.create(file.id, b"x", h5py.h5t.STD_U8LE, space, made)
        file["x"][:, 0] = range(5)
    assert Hdf5Rows(path, "x").all()[:, 0].tolist() == [0, 1, 2, 3, 4]


def test_a_chunk_that_deflate_was_skipped_for(path):
    write(path, chunks=(4, 8, 8, 3), compression="gzip")
    with h5py.File(path, "r+") as file:
        file["x"].id.write_direct_chunk((4, 0, 0, 0), bytes(4 * 192), filter_mask=1)
    assert Hdf5Rows(path, "x").read([5]).sum() == 0
    assert (Hdf5Rows(path, "x").read([3]) == VALUES[3]).all()


def test_threads_and_forked_processes_read_side_by_side(path):
    rows = Hdf5Rows(write(path, **LAYOUTS["deflated"]), "x")
    orders = np.random.default_rng(1).integers(0, 10, (40, 6))
    held = threading.Event()

    def right(order):
        held.wait()
        return (rows.read(order) == VALUES[order]).all()

    with ThreadPoolExecutor(8) as readers:
        found = [readers.submit(right, order) for order in orders]
        held.set()
        child = os.fork()
        if not child:
            os._exit(0 if (rows.read([3, 1]) == VALUES[[3, 1]]).all() else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert all(one.result() for one in found)


def link(path):
    with h5py.File(path, "w") as file:
        file["x"] = h5py.ExternalLink("other.h5", "/x")


def soft_link(path):
    with h5py.File(path, "w") as file:
        file["x"] = h5py.SoftLink("/y")
        file["y"] = VALUES


def group(path):
    with h5py.File(path, "w") as file:
        file.create_group("x")


def raw_file(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("x", VALUES.shape, np.uint8, external=[("other.h5", 0, VALUES.size)])


def virtual(path):
    with h5py.File(path, "w", libver="latest") as file:
        layout = h5py.VirtualLayout(VALUES.shape, np.uint8)
        layout[:] = h5py.VirtualSource("other.h5", "x", VALUES.shape)
        file.create_virtual_dataset("x", layout)


def virtual_of_any_length(path):
    with h5py.File(path, "w", libver="latest") as file:
        layout = h5py.VirtualLayout(VALUES.shape, np.uint8, maxshape=(None, 8, 8, 3))
        source = h5py.VirtualSource("other.h5", "x", VALUES.shape, maxshape=(None, 8, 8, 3))
        layout[0 : h5py.h5s.UNLIMITED] = source[0 : h5py.h5s.UNLIMITED]
        file.create_virtual_dataset("x", layout)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (link, "has a link or a group under the name 'x'"),
        (soft_link, "has a link or a group under the name 'x'"),
        (group, "has a link or a group under the name 'x'"),
        (raw_file, "keeps the values of 'x' in other files"),
        (virtual, "keeps the values of 'x' in other files"),
        (virtual_of_any_length, "keeps the values of 'x' in other files"),
    ],
)
def test_no_other_file_is_opened(path, make, words):
    """The other file is a pipe: whoever opens it waits for ever."""
    make(path)
    os.mkfifo(path.with_name("other.h5"))
    with pytest.raises(Hdf5Error, match=words) as error:
        Hdf5Rows(path, "x")
    assert error.value.kind == "unreadable"


def foreign_filter(path):
    with h5py.File(path, "w") as file:
        made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        made.set_chunk(VALUES.shape)
        made.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (1,))
        h5py.h5d.create(file.id, b"x", h5py.h5t.STD_U8LE, h5py.h5s.create_simple(VALUES.shape), made)
        file["x"].id.write_direct_chunk((0, 0, 0, 0), VALUES.tobytes())


def references(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("x", (4, 2), h5py.ref_dtype)


def strings(path):
    with h5py.File(path, "w") as file:
        file["x"] = ["a", "b"]


def no_values(path):
    with h5py.File(path, "w") as file:
        file["x"] = h5py.Empty("u1")


def other_name(path):
    with h5py.File(path, "w") as file:
        file["y"] = file["z"] = file[b"\xff"] = VALUES


def many_rows(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("x", (10**12, 96, 96, 3), np.uint8)


def many_chunks(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("x", (10**12, 96, 96, 3), np.uint8, chunks=(1, 96, 96, 3), compression="gzip")


def large_chunks(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("x", (4000, 400, 400, 3), np.uint8, chunks=(4000, 400, 400, 3), compression="gzip")


def half_written(path):
    write(path, chunks=(4, 8, 8, 3), maxshape=(None, 8, 8, 3))
    with h5py.File(path, "r+") as file:
        file["x"].resize(40, axis=0)


def nothing(path):
    path.write_bytes(b"")


def foreign(path):
    path.write_bytes(b"GIF89a" + bytes(3000))


def cut(path):
    os.truncate(write(path), 3000)


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (foreign_filter, "unreadable", r"behind the filters \[32015\], and only deflate and shuffle are undone"),
        (references, "wrong size", "elements of object, not rows of bytes"),
        (strings, "wrong size", "elements of object, not rows of bytes"),
        (no_values, "wrong size", "not rows of bytes"),
        (other_name, "missing class", "has no data set 'x', but y, z, \ufffd"),
        (many_rows, "truncated", "is cut short"),
        (many_chunks, "truncated", r"holds 0 of 1,000,000,000,000 chunks: it was not written to its end"),
        (large_chunks, "unreadable", "is packed in chunks of"),
        (half_written, "truncated", "holds 3 of 10 chunks"),
        (nothing, "truncated", "is empty"),
        (foreign, "unreadable", "is not an HDF5 file"),
        (cut, "truncated", "is cut short: 3,000 bytes"),
    ],
)
def test_what_is_not_rows_of_bytes_is_refused_before_anything_is_read(path, make, kind, words):
    make(path)
    with pytest.raises(Hdf5Error, match=words) as error:
        Hdf5Rows(path, "x")
    assert error.value.kind == kind
    assert b"\n" not in str(error.value).encode()


def test_a_missing_file_is_an_error_of_the_system(path):
    with pytest.raises(FileNotFoundError):
        Hdf5Rows(path, "x")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (zlib.compress(bytes(10**6)), "has a chunk of 769 bytes instead of 768"),
        (zlib.compress(bytes(500)), "has a chunk of 500 bytes instead of 768"),
        (zlib.compress(bytes(10**8)), "has a chunk of 97,[0-9]{3} bytes that should unpack to 768"),
        (b"no deflate", "is a damaged HDF5 file"),
    ],
)
def test_a_chunk_is_undone_to_its_own_size_and_no_further(path, content, words):
    write(path, chunks=(4, 8, 8, 3), compression="gzip")
    with h5py.File(path, "r+") as file:
        file["x"].id.write_direct_chunk((0, 0, 0, 0), content)
    rows = Hdf5Rows(path, "x")
    assert (rows.read([7]) == VALUES[7]).all()
    with pytest.raises(Hdf5Error, match=words):
        rows.read([7, 1])


def test_another_file_of_the_same_name_is_noticed(path):
    rows = Hdf5Rows(write(path), "x")
    with h5py.File(path, "w") as file:
        file["x"] = VALUES[:5]
    with pytest.raises(Hdf5Error, match=r"holds \(5, 8, 8, 3\) by now"):
        rows.read([7])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_damage_is_an_error_of_ours(path, layout):
    whole = write(path, **LAYOUTS[layout]).read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(Hdf5Error):
            Hdf5Rows(path, "x")
    random = np.random.default_rng(0)
    for at in random.integers(0, len(whole), 150).tolist():
        broken = bytearray(whole)
        broken[at] ^= int(random.integers(1, 256))
        path.write_bytes(bytes(broken))
        with contextlib.suppress(Hdf5Error):
            rows = Hdf5Rows(path, "x")
            if rows.shape == VALUES.shape:
                rows.all()


LOOK = """if True:
    import resource, sys
    from pathlib import Path
    from results.hdf5 import Hdf5Rows
    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    before = peak()
    for _ in range(3):
        assert Hdf5Rows(Path(sys.argv[1]), "x").read([0, 99_999, 50_000]).shape == (3, 96, 96, 3)
    print(peak() - before)
"""


@pytest.mark.parametrize("how", [{}, {"chunks": (1000, 96, 96, 3)}])
def test_memory_is_that_of_the_rows(path, how):
    with h5py.File(path, "w") as file:
        data = file.create_dataset("x", (100_000, 96, 96, 3), np.uint8, fill_time="never", **how)
        for row in range(999, 100_000, 1000) if how else (99_999,):
            data[row] = 7
    done = subprocess.run([sys.executable, "-c", LOOK, path], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 20_000, "KiB, and the file's values are 2.8 GB"
