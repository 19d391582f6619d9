"""SIGTERM and Ctrl-C end a download and an unpacking, as processes of their own, in one sentence; the next call goes on."""

import gzip
import hashlib
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import data_layouts as layouts
import pytest
from data_host import serving

from benchmarks.data.class_folders import CLASSES

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
GOES_ON = "stopped: nothing half-written; the same command goes on from here.\n"
BEGINS_ANEW = (
    "stopped: nothing was finished by this call, what earlier ones finished stays; the same command begins anew.\n"
)
SIGNALS = pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
CONTENT = bytes(range(256)) * (3 << 12)
CAME, PASSED = 2 << 20, (2 << 20) + 5000

DOWNLOAD = """
import sys
from dataclasses import replace
from benchmarks.__main__ import main
from benchmarks.data import command
from benchmarks.data.dataset import Source, load
from benchmarks.data.fetch import Net

url, size, md5, root = sys.argv[1:]
source = Source(url + "/a.zip", "NCT-CRC-HE-100K.zip", int(size), md5)
command.load = lambda name: replace(load(name), sources=(source,), size=0)
command.Net = lambda: Net(schemes=("http",))
sys.exit(main(["data", "download", "nct-crc-he", f"root={root}"]))
"""
"""The command itself, with the data set's one file on this machine."""


def started(*arguments):
    return subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env={**os.environ, "no_proxy": "127.0.0.1", "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip


def waited(child, is_there):
    """Wait until something is on disk, and hold the process there."""
    deadline = time.monotonic() + 300
    while not is_there():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline, "nothing came"
        time.sleep(0.002)
    os.kill(child.pid, signal.SIGSTOP)


def stopped(child, number):
    """Send the signal, let the process go on; return its status and what it said on stderr."""
    os.kill(child.pid, number)
    os.kill(child.pid, signal.SIGCONT)
    _, said = child.communicate(timeout=300)
    return child.returncode, said


def finished(*arguments):
    child = started(*arguments)
    out, said = child.communicate(timeout=300)
    assert (child.returncode, said) == (0, "")
    return out


@SIGNALS
def test_a_stopped_download_keeps_what_came_and_goes_on_there(tmp_path, number, status):
    part, target = tmp_path / "nct-crc" / ".NCT-CRC-HE-100K.zip.part", tmp_path / "nct-crc" / "NCT-CRC-HE-100K.zip"
    with serving(files={"/a.zip": CONTENT}, stall_after=PASSED) as host:
        asked = ("-c", DOWNLOAD, host.url, str(len(CONTENT)), hashlib.md5(CONTENT).hexdigest(), str(tmp_path))
        child = started(*asked)
        waited(child, lambda: part.exists() and part.stat().st_size >= CAME)
        assert stopped(child, number) == (status, GOES_ON)
        assert part.read_bytes() == CONTENT[:CAME]
        assert not target.exists()
        host.stall_after = None
        assert "2.1 of 3.1 MB are here" in finished(*asked)
        assert [wanted for _, wanted in host.asked] == [None, f"bytes={CAME}-"]
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == [target.name]


@SIGNALS
def test_a_stopped_unpacking_leaves_the_folder_as_it_was(tmp_path, number, status):
    home, tile = tmp_path / "nct-crc", layouts.tiff(224, 224)
    home.mkdir()
    with zipfile.ZipFile(home / "NCT-CRC-HE-100K.zip", "w") as archive:
        for i in range(8_000):
            kind = CLASSES[i % len(CLASSES)]
            archive.writestr(f"NCT-CRC-HE-100K/{kind}/{kind}-{layouts.code_of(i)}.tif", tile)
    asked = ("-m", "benchmarks", "data", "prepare", "nct-crc-he", f"root={tmp_path}")
    child = started(*asked)
    waited(child, lambda: any(home.glob(".unpacking-*/NCT-CRC-HE-100K/*/*.tif")))
    assert stopped(child, number) == (status, BEGINS_ANEW)
    assert [path.name for path in home.iterdir()] == ["NCT-CRC-HE-100K.zip"]
    assert "8,000 files" in finished(*asked)
    assert len(list((home / "NCT-CRC-HE-100K").glob("*/*.tif"))) == 8_000
    assert sorted(path.name for path in home.iterdir()) == [".prepared.json", "NCT-CRC-HE-100K", "NCT-CRC-HE-100K.zip"]


@SIGNALS
def test_a_stopped_gunzip_leaves_no_half_a_file(tmp_path, number, status):
    name, content = "camelyonpatch_level_2_split_valid_x.h5", os.urandom(1 << 20) * 96
    with gzip.open(tmp_path / f"{name}.gz", "wb", compresslevel=1) as file:
        file.write(content)
    asked = ("-m", "benchmarks", "data", "prepare", "pcam", f"root={tmp_path}")
    child = started(*asked)
    waited(child, lambda: any(tmp_path.glob(".camelyonpatch*.tmp*")))
    assert stopped(child, number) == (status, BEGINS_ANEW)
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}.gz"]
    assert "unpacked, 100.7 MB" in finished(*asked)
    assert (tmp_path / name).read_bytes() == content
