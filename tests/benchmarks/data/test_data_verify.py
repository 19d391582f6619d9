"""Folders of classes: a full one passes, each single fault is named; reports, pipes and dead links."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import data_layouts as layouts
import pytest
from data_checks import counts, problems

from benchmarks.data.command import check_digests, command
from benchmarks.data.report import Report


@pytest.fixture
def fast_folder():
    """A folder that takes 100,000 files quickly: in memory where the system has such a place."""
    shm = "/dev/shm"
    folder = tempfile.mkdtemp(dir=shm if os.access(shm, os.W_OK) else None)
    yield Path(folder)
    shutil.rmtree(folder)


@pytest.mark.slow
def test_a_hundred_thousand_tiles_are_whole_until_one_is_hurt(fast_folder, capsys):
    place = fast_folder / "nct-crc" / "NCT-CRC-HE-100K"
    layouts.write_nct(place.parent)
    assert command(["verify", "nct-crc-he", f"root={fast_folder}"]) == 0
    assert "tiles: 100,000" in capsys.readouterr().out
    place = place.rename(place.with_name("NCT-CRC-HE-100K-NONORM"))
    command(["status", f"root={fast_folder}"])
    told = capsys.readouterr().out
    assert "nct-crc-he-nonorm: complete by count" in told
    assert "nct-crc-he: not here" in told
    tile = sorted((place / "STR").iterdir())[77]
    layouts.replaced(tile, layouts.tiff(224, 224)[:-60])
    found = problems("nct-crc-he-nonorm", fast_folder)
    assert [text.split()[0] for text in found.pop("truncated")] == [f"STR/{tile.name}"]
    assert found == {}


class TestClassFolders:
    name = "crc-val-he-7k"

    @pytest.fixture
    def root(self, tmp_path):
        layouts.write_crc(tmp_path)
        return tmp_path

    @pytest.fixture
    def place(self, root):
        return root / "CRC-VAL-HE-7K"

    def test_whole_seen_from_above_within_and_itself(self, root, place):
        assert problems(self.name, root) == {}
        assert problems(self.name, place) == {}
        below = root / "above"
        (below / "nct-crc").mkdir(parents=True)
        place.rename(below / "nct-crc" / "CRC-VAL-HE-7K")
        assert problems(self.name, below) == {}

    def test_single_faults(self, root, place):
        tiles = sorted((place / "DEB").iterdir())
        layouts.replaced(tiles[0], layouts.tiff(224, 224)[:40])
        layouts.replaced(tiles[1], b"")
        layouts.replaced(tiles[2], layouts.tiff(224, 225))
        layouts.replaced(tiles[3], layouts.tiff(224, 224, channels=1))
        layouts.replaced(tiles[4], layouts.tiff(224, 224, claim=100_000))
        layouts.replaced(tiles[5], b"GIF89a" + b"\0" * 100)
        found = problems(self.name, root)
        assert {kind: len(texts) for kind, texts in found.items()} == {"truncated": 3, "wrong size": 2, "unreadable": 1}
        for tile in tiles[:6]:
            assert sum(tile.name in text for texts in found.values() for text in texts) == 1

    def test_missing_class(self, root, place):
        shutil.rmtree(place / "MUC")
        assert problems(self.name, root) == {"missing class": ["no tile of MUC in CRC-VAL-HE-7K"]}

    def test_missing_tile(self, root, place):
        sorted((place / "TUM").iterdir())[0].unlink()
        assert problems(self.name, root) == {"missing tiles": ["TUM has 1,232 tiles, 1,233 are expected"]}

    def test_duplicate(self, root, place):
        tile = sorted((place / "BACK").iterdir())[0]
        os.link(tile, tile.with_name(f"{tile.stem} (1).tif"))
        assert counts(self.name, root) == {"duplicate": 1, "too many tiles": 1}

    def test_stray_files(self, root, place):
        tile = sorted((place / "BACK").iterdir())[0]
        (place / "notes.txt").write_text("mine")
        (place / "OTHER").mkdir()
        os.link(tile, place / "OTHER" / "OTHER-TCGA-AAAAAAAA.tif")
        tile.rename(place / "TUM" / tile.name)
        found = problems(self.name, root)
        assert {text.split()[0] for text in found["stray file"]} == {
            "notes.txt", "TUM/" + tile.name, "OTHER/OTHER-TCGA-AAAAAAAA.tif",
        }  # fmt: skip
        assert set(found) == {"stray file", "missing tiles", "too many tiles"}

    def test_hidden_files_are_nobodys_business(self, root, place):
        (place / ".DS_Store").write_bytes(b"x")
        (place / "ADI" / "Thumbs.db").write_bytes(b"x")
        assert problems(self.name, root) == {}

    def test_same_content_under_another_name_is_found_by_digests(self, root, place):
        tiles = sorted(place.rglob("*.tif"))
        for number, tile in enumerate(tiles):
            if number > 40:
                tile.unlink()
            else:
                layouts.replaced(tile, layouts.tiff(224, 224) + bytes([number]))
        shutil.copyfile(tiles[3], tiles[17])
        report = Report(self.name, root)
        check_digests(root, place, report)
        same = f"{tiles[17].relative_to(place)} holds the very bytes of {tiles[3].relative_to(place)}"
        assert report.problems == {"same content": [same]}


def test_the_report_names_some_counts_the_rest_and_writes_all(tmp_path, capsys):
    layouts.write_crc(tmp_path / "nct-crc")
    place = tmp_path / "nct-crc" / "CRC-VAL-HE-7K"
    for number in range(9):
        (place / f"stray_{number}.txt").write_text("x")
    sorted((place / "TUM").iterdir())[0].unlink()
    arguments = ["verify", "crc-val-he-7k", f"root={tmp_path}", "show=2", f"out={tmp_path / 'found.json'}"]
    assert command(arguments) == 3
    told = capsys.readouterr().out
    assert told.count("stray_") == 2
    assert "and 7 more" in told
    assert "TUM has 1,232 tiles" in told
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["whole"] is False
    assert len(found["problems"]["stray file"]) == 9


def test_pipes_and_dead_links_are_named_and_not_waited_for(tmp_path, capsys):
    place = tmp_path / "nct-crc" / "CRC-VAL-HE-7K" / "ADI"
    place.mkdir(parents=True)
    os.mkfifo(place / "ADI-AAAAAAAA.tif")
    os.symlink("nowhere", place / "ADI-AAAAAAAB.tif")
    root = f"root={tmp_path / 'nct-crc'}"
    assert command(["status", "crc-val-he-7k", root]) == 0
    assert command(["verify", "crc-val-he-7k", root, "digests=true"]) == 3
    told = capsys.readouterr().out
    assert "ADI/ADI-AAAAAAAA.tif is no regular file" in told
    assert "ADI/ADI-AAAAAAAB.tif [Errno 2]" in told


@pytest.mark.parametrize(
    ("name", "path", "told"),
    [
        ("camelyon16", "annotations/tumor_001.xml", "annotations/tumor_001.xml is no regular file"),
        ("camelyon16", "images/tumor_001.tif", "images/tumor_001.tif is no regular file"),
        ("nucls", "csv/ALL_FOV_LOCATIONS.csv", "ALL_FOV_LOCATIONS.csv is no regular file"),
    ],
)
def test_a_pipe_in_place_of_a_file(tmp_path, capsys, name, path, told):
    (tmp_path / path).parent.mkdir()
    os.mkfifo(tmp_path / path)
    assert command(["verify", name, f"root={tmp_path}"]) == 3
    assert told in capsys.readouterr().out
