"""Files made to hurt are refused in one sentence, in a process that is not given more than 500 MB."""

import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import data_layouts as layouts
import pytest

ROOT = Path(__file__).parents[3]
MOST_BYTES, MOST_SECONDS = 500 << 20, 60
RUN = """
import sys
from benchmarks.__main__ import main
status = main(["data", *sys.argv[1:]])
with open("/proc/self/status") as file:
    peak = next(int(line.split()[1]) for line in file if line.startswith("VmHWM:"))
print("PEAK", peak << 10)
sys.exit(status)
"""

pytestmark = pytest.mark.slow


def run(*arguments):
    """Run a command with at most 500 MB of data, and return status, output and its peak resident bytes."""

    def bound():
        resource.setrlimit(resource.RLIMIT_DATA, (MOST_BYTES, MOST_BYTES))

    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=MOST_SECONDS, preexec_fn=bound,
        env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PATH": ""},
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr[-2000:]
    peak = int(done.stdout.rpartition("PEAK ")[2])
    assert peak < MOST_BYTES
    return done.returncode, done.stdout, done.stderr


def test_a_zip_that_climbs(tmp_path):
    home = tmp_path / "nct-crc"
    home.mkdir()
    with zipfile.ZipFile(home / "CRC-VAL-HE-7K.zip", "w") as archive:
        archive.writestr("CRC-VAL-HE-7K/ADI/a.tif", b"x")
        archive.writestr("../x", b"y")
    status, _, told = run("prepare", "crc-val-he-7k", f"root={home}")
    assert status == 2
    assert told.count("\n") == 1
    assert "the path '../x' leaves the folder" in told
    assert {path.name for path in tmp_path.rglob("*")} == {"nct-crc", "CRC-VAL-HE-7K.zip"}


def test_a_bomb(tmp_path):
    home = tmp_path / "nucls"
    home.mkdir()
    with zipfile.ZipFile(home / "QC.zip", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("rgb/a.png", "w") as file:
        for _ in range(160):
            file.write(bytes(1 << 20))
    status, _, told = run("prepare", "nucls", f"root={home}")
    assert status == 2
    assert told.count("\n") == 1
    assert "grows to more than 200 times its size" in told
    assert [path.name for path in home.iterdir()] == ["QC.zip"]


def test_a_png_of_a_hundred_thousand_px_a_side(tmp_path):
    for folder, channels in (("rgbs", 3), ("masks", 1)):
        (tmp_path / folder).mkdir()
        name = "TCGA-A1-A0SK-DX1_xmin45749_ymin25055_MPP-0.2500.png"
        (tmp_path / folder / name).write_bytes(layouts.png(100_000, 100_000, channels))
    status, told, _ = run("verify", "bcss", f"root={tmp_path}")
    assert status == 3
    assert told.count("claims 100,000 x 100,000 px, and at most 20,000 a side are plausible") == 2


def test_a_table_of_ten_thousand_columns(tmp_path):
    (tmp_path / "csv").mkdir()
    table = ",".join(f"column_{n}" for n in range(10_000)) + "\n"
    (tmp_path / "csv" / "ALL_FOV_LOCATIONS.csv").write_text(table + ",".join("0" * 10_000) + "\n")
    status, told, _ = run("verify", "nucls", f"root={tmp_path}")
    assert status == 3
    assert told.count("ALL_FOV_LOCATIONS.csv has 10,000 columns, and at most 64 are plausible") == 1


def test_a_table_without_a_line_end(tmp_path):
    (tmp_path / "csv").mkdir()
    with open(tmp_path / "csv" / "ALL_FOV_LOCATIONS.csv", "wb") as file:
        file.truncate(3 << 30)
    status, told, _ = run("verify", "nucls", f"root={tmp_path}")
    assert status == 3
    assert "ALL_FOV_LOCATIONS.csv has a line of more than" in told


def test_entities_in_annotations(tmp_path):
    (tmp_path / "annotations").mkdir()
    layers = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
    text = f'<!DOCTYPE a [<!ENTITY e0 "ha">{layers}]><ASAP_Annotations>&e11;</ASAP_Annotations>'
    (tmp_path / "annotations" / "tumor_001.xml").write_text(text)
    status, told, _ = run("verify", "camelyon16", f"root={tmp_path}")
    assert status == 3
    assert told.count("annotations/tumor_001.xml defines entities or a document type") == 1


def test_a_slide_whose_tag_claims_four_thousand_million_tiles(tmp_path):
    (tmp_path / "images").mkdir()
    whole = bytearray(layouts.tiff(16384, 16384, tile=1024, is_big=True))
    at = whole.rfind((324).to_bytes(2, "little") + (16).to_bytes(2, "little"))
    whole[at + 4 : at + 12] = (1 << 32).to_bytes(8, "little")
    path = tmp_path / "images" / "tumor_001.tif"
    path.write_bytes(bytes(whole))
    with open(path, "r+b") as file:
        file.truncate(40 << 30)
    status, told, _ = run("verify", "camelyon16", f"root={tmp_path}")
    assert status == 3
    assert "images/tumor_001.tif is a TIFF whose tag 324 claims 4,294,967,296 values" in told
