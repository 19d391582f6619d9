"""Patches: a full PatchCamelyon passes, and each single fault is named."""

import os

import data_layouts as layouts
import pytest
from data_checks import problems

from benchmarks.data.command import command


class TestPcam:
    @pytest.fixture(scope="class")
    def whole(self, tmp_path_factory):
        root = tmp_path_factory.mktemp("pcam") / "pcam"
        layouts.write_pcam(root)
        return root

    def test_whole(self, whole, capsys):
        assert command(["verify", "pcam", f"root={whole}"]) == 0
        assert "tumour share of valid: 0.5000" in capsys.readouterr().out
        command(["status", "pcam", f"root={whole}"])
        assert "complete by count" in capsys.readouterr().out

    def test_a_slide_in_two_parts(self, whole, tmp_path):
        for path in whole.iterdir():
            os.link(path, tmp_path / path.name)
        table = tmp_path / "camelyonpatch_level_2_split_test_meta.csv"
        text = table.read_text().replace("camelyon16_train_tumor_110", "Tumor_010")
        layouts.replaced(table, text.encode())
        assert problems("pcam", tmp_path) == {"bad split": ["slide tumor_010 is in train and in test"]}

    def test_single_faults(self, whole, tmp_path):
        for path in whole.iterdir():
            os.link(path, tmp_path / path.name)
        name = "camelyonpatch_level_2_split_{}".format
        (tmp_path / name("train_meta.csv")).unlink()
        layouts.write_table(tmp_path / "few.csv", ("", *layouts.pcam.META), [[0, 1, 1, "True", "True", "a"]])
        os.replace(tmp_path / "few.csv", tmp_path / name("valid_meta.csv"))
        for own in ("train_x.h5", "valid_y.h5", "test_y.h5"):
            (tmp_path / name(own)).unlink()
        layouts.hdf5(tmp_path / name("train_x.h5"), "x", (262144, 96, 96, 3))
        os.truncate(tmp_path / name("train_x.h5"), 7000)
        layouts.hdf5(tmp_path / name("valid_y.h5"), "y", (32768, 1, 1, 1), 0)
        layouts.hdf5(tmp_path / name("test_y.h5"), "y", (32767, 1, 1, 1), 0)
        layouts.replaced(tmp_path / name("test_x.h5"), b"no")
        (tmp_path / name("valid_x.h5")).unlink()
        (tmp_path / name("valid_x.h5.gz")).write_bytes(b"x")
        (tmp_path / name("test_x (1).h5")).write_bytes(b"x")
        (tmp_path / "notes.doc").write_bytes(b"x")
        found = problems("pcam", tmp_path)
        assert found["missing files"] == [
            name("train_meta.csv") + " is not there", name("valid_x.h5") + " is still packed: run 'prepare'",
        ]  # fmt: skip
        assert found["wrong count"] == [name("valid_meta.csv") + " has 1 rows, 32,768 are expected"]
        assert [text.split()[0] for text in found["truncated"]] == [name("train_x.h5")]
        assert found["missing class"] == [name("valid_y.h5") + " has the labels [0], not 0 and 1"]
        assert [text.split()[0] for text in found["wrong size"]] == [name("test_y.h5")]
        assert [text.split()[0] for text in found["unreadable"]] == [name("test_x.h5")]
        assert len(found["duplicate"]) == len(found["stray file"]) == 1
