"""The four commands as they are typed."""

import gzip
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.data.command import command
from benchmarks.data.dataset import SETS, known, load
from benchmarks.data.sets.pcam import FILES

ROOT = Path(__file__).parents[3]
NAMES = ["bcss", "camelyon16", "crc-val-he-7k", "nct-crc-he", "nct-crc-he-nonorm", "nucls", "pcam"]


def test_status_works_with_no_data_at_all(tmp_path, capsys):
    assert main(["data", "status", f"root={tmp_path / 'nowhere'}"]) == 0
    told = capsys.readouterr().out
    for name in NAMES:
        assert f"{name}: not here" in told
        data_set = load(name)
        assert data_set.licence in told
        assert data_set.cite in told
    assert not (tmp_path / "nowhere").exists()


def test_status_tells_archives_and_stopped_downloads(tmp_path, capsys):
    home = tmp_path / "nct-crc"
    home.mkdir()
    (home / "NCT-CRC-HE-100K.zip").write_bytes(b"x" * 2_000_000)
    (home / ".NCT-CRC-HE-100K-NONORM.zip.part").write_bytes(b"x" * 3_000_000)
    assert command(["status", "nct-crc-he", f"root={tmp_path}"]) == 0
    told = capsys.readouterr().out
    assert "archive: NCT-CRC-HE-100K.zip, 2.0 MB" in told
    assert "stopped download: .NCT-CRC-HE-100K-NONORM.zip.part, 3.0 MB" in told
    assert f"next: python -m benchmarks data prepare nct-crc-he root={home}" in told


@pytest.mark.parametrize("folder", ["pcam", "it's (2) my $HOME, data"])
def test_commands_that_are_told_can_be_pasted(tmp_path, capsys, folder):
    root = tmp_path / "with a space" / folder
    home = root if folder == "pcam" else root / "pcam"
    home.mkdir(parents=True)
    asked = []
    command(["status", "pcam", f"root={root}"])
    asked.append(shlex.split(capsys.readouterr().out.rpartition("next: ")[2]))
    archive = home / "camelyonpatch_level_2_split_valid_y.h5.gz"
    archive.write_bytes(gzip.compress(b"x"))
    command(["prepare", "pcam", f"root={root}"])
    asked.append(shlex.split(capsys.readouterr().out.rpartition("next: ")[2]))
    home.rename(tmp_path / "away")
    assert main(["data", "verify", "pcam", f"root={root}"]) == 2
    asked.append(shlex.split(capsys.readouterr().err.rpartition("fetch it with: ")[2]))
    for step, words in zip(("download", "verify", "download"), asked, strict=True):
        assert words == ["python", "-m", "benchmarks", "data", step, "pcam", f"root={home}"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["stat"], "'data stat' is not known"),
        (["status", "camelyon"], "data set 'camelyon' is not known: choose bcss, camelyon16"),
        (["verify"], "takes one data set"),
        (["verify", "bcss", "pcam"], "takes one data set"),
        (["verify", "bcss", "only=[a]"], "has no setting 'only'"),
        (["verify", "bcss", "rot=data"], "did you mean 'root'|root"),
        (["verify", "bcss", "show=many", "root=."], "a whole number is expected"),
        (["verify", "bcss", "root=/no/where"], "is not there"),
        (["prepare", "bcss", "root=/no/where"], "is not there"),
    ],
)
def test_mistakes_are_one_sentence(arguments, text, capsys):
    assert main(["data", *arguments]) == 2
    told = capsys.readouterr().err
    assert re.search(text, told)
    assert told.count("\n") == 1


@pytest.mark.parametrize("action", ["status", "download", "prepare", "verify"])
@pytest.mark.parametrize("inner", [".", "pcam"])
def test_a_file_is_no_folder(action, inner, tmp_path, capsys):
    path = tmp_path / "file" if inner == "." else tmp_path / inner
    path.write_bytes(b"x")
    root = path if inner == "." or action == "status" else tmp_path
    assert main(["data", action, "pcam", f"root={root}"]) == 2
    assert f"{path} is a file, not a folder" in capsys.readouterr().err


def test_status_says_that_sizes_do_not_fit(tmp_path, capsys):
    for name in FILES:
        (tmp_path / name).write_bytes(b"x" * 100_000)
    command(["status", "pcam", f"root={tmp_path}"])
    assert "complete by count, but the sizes do not fit: 0.9 MB where about 17.1 GB belong" in capsys.readouterr().out


def test_prepare_without_archives(tmp_path, capsys):
    (tmp_path / "nucls").mkdir()
    assert main(["data", "prepare", "nucls", f"root={tmp_path}"]) == 2
    assert "holds no archive of nucls: looked for QC*.zip" in capsys.readouterr().err


@pytest.mark.parametrize(("wrong", "said"), [("show=-1", "give 0 or more"), ("out={}", "is a folder: name a file")])
def test_verify_is_refused_before_it_reads(tmp_path, capsys, wrong, said):
    (tmp_path / "nucls").mkdir()
    assert main(["data", "verify", "nucls", f"root={tmp_path}", wrong.format(tmp_path)]) == 2
    told = capsys.readouterr()
    assert said in told.err
    assert not told.out


def test_every_data_set_is_one_file_and_one_page():
    assert known() == NAMES
    for name in NAMES:
        data_set = load(name)
        assert data_set.name == name
        assert (SETS / f"{name.replace('-', '_')}.py").is_file()
        page = (ROOT / "docs" / "data" / f"{name}.md").read_text(encoding="utf-8")
        assert data_set.licence.split(" (")[0] in page
        for doi in re.findall(r"10\.\d{4,}/[\w./()-]+\w", data_set.cite):
            assert doi in page
        for action in ("status", "download", "verify"):
            assert f"data {action} {name}" in page
        assert "## Split" in page
        assert "## Traps" in page


def test_help_names_the_data_sets_and_imports_little(capsys):
    assert main(["data"]) == 0
    assert "camelyon16" in capsys.readouterr().out
    assert main(["data", "--help"]) == 0
    assert "digests=true" in capsys.readouterr().out


@pytest.mark.slow
def test_status_needs_no_array_library_of_training(tmp_path):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "benchmarks", "data", "status", f"root={tmp_path}"],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    modules = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert not modules & {"torch", "pandas", "openslide", "pretrain", "transfer"}
