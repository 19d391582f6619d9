"""Whole slides: a full Camelyon16 passes in every layout, and each single fault is named."""

import os
import shutil

import data_layouts as layouts
import pytest
from data_checks import problems

from benchmarks.data.command import check_digests, command
from benchmarks.data.report import Report
from benchmarks.data.sets import camelyon16


class TestCamelyon:
    @pytest.mark.parametrize("layout", ["bucket", "drive"])
    def test_whole_in_both_layouts(self, layout, tmp_path, capsys):
        layouts.write_camelyon(tmp_path / "camelyon16", layout)
        assert command(["verify", "camelyon16", f"root={tmp_path}"]) == 0
        told = capsys.readouterr().out
        assert "slides: 399" in told
        assert "21 slides are only partly annotated" in told
        command(["status", "camelyon16", f"root={tmp_path}"])
        told = capsys.readouterr().out
        assert "complete by count" in told
        assert "159 normal slides, 111 tumor slides, 129 test slides, 160 annotations" in told

    def test_an_older_copy_passes_with_a_remark(self, tmp_path):
        layouts.write_camelyon(tmp_path, "drive", is_older=True)
        report = Report("camelyon16", tmp_path)
        camelyon16.verify(tmp_path, report)
        assert report.problems == {}
        assert report.facts["slides"] == 398
        assert "an older copy: it holds normal_086, test_049" in report.remarks[0]

    def test_names_with_capitals(self, tmp_path):
        layouts.write_camelyon(tmp_path)
        (tmp_path / "images" / "tumor_007.tif").rename(tmp_path / "images" / "Tumor_007.tif")
        assert problems("camelyon16", tmp_path) == {}

    def test_the_lists_are_the_published_ones(self):
        kinds = (camelyon16.NORMALS, camelyon16.TUMORS, camelyon16.TESTS)
        assert [len(kind) for kind in kinds] == [159, 111, 129]
        assert len(camelyon16.TUMOR_TESTS) == 49
        assert len(camelyon16.PARTLY) == 21
        assert camelyon16.PARTLY <= camelyon16.ANNOTATED <= camelyon16.SLIDES

    def test_single_faults(self, tmp_path):
        layouts.write_camelyon(tmp_path)
        images, drawn = tmp_path / "images", tmp_path / "annotations"
        (images / "normal_010.tif").unlink()
        (drawn / "tumor_020.xml").unlink()
        layouts.replaced(images / "tumor_001.tif", layouts.tiff(16384, 16384, tile=1024, is_big=True)[:-300])
        layouts.replaced(images / "tumor_002.tif", layouts.tiff(2048, 4096, tile=256))
        layouts.replaced(images / "tumor_003.tif", layouts.tiff(16384, 16384))
        os.link(images / "test_001.tif", images / "Test_001.tif")
        os.link(images / "test_001.tif", images / "test_131.tif")
        (tmp_path / "images" / "notes.txt").write_text("mine")
        layouts.replaced(drawn / "tumor_004.xml", layouts.POLYGON.replace('"Tumor"', '"necrosis"').encode())
        layouts.replaced(drawn / "tumor_005.xml", layouts.POLYGON[:-40].encode())
        found = problems("camelyon16", tmp_path)
        assert found["missing slides"] == ["normal_010.tif"]
        assert found["missing annotations"] == ["tumor_020.xml"]
        assert [text.split()[0] for text in found["truncated"]] == ["images/tumor_001.tif"]
        assert [text.split()[0] for text in found["wrong size"]] == ["images/tumor_002.tif", "images/tumor_003.tif"]
        assert found["duplicate"] == ["images/test_001.tif is test_001 once more, after images/Test_001.tif"]
        assert [text.split()[0] for text in found["stray file"]] == ["images/notes.txt", "images/test_131.tif"]
        assert [text.split()[0] for text in found["bad annotation"]] == [
            "annotations/tumor_004.xml", "annotations/tumor_005.xml",
        ]  # fmt: skip
        assert len(found) == 7

    def test_a_missing_class_and_a_slide_in_both_layouts(self, tmp_path):
        layouts.write_camelyon(tmp_path, "drive")
        shutil.rmtree(tmp_path / "training" / "normal")
        (tmp_path / "images").mkdir()
        os.link(tmp_path / "testing" / "images" / "test_002.tif", tmp_path / "images" / "test_002.tif")
        found = problems("camelyon16", tmp_path)
        assert found["missing class"] == ["none of the 159 normal slides is there"]
        assert len(found["duplicate"]) == 1
        assert len(found) == 2

    def test_a_slide_in_the_folder_of_others_and_a_wrong_reference(self, tmp_path):
        layouts.write_camelyon(tmp_path, "drive")
        (tmp_path / "training" / "tumor" / "tumor_009.tif").rename(tmp_path / "training" / "normal" / "tumor_009.tif")
        table = tmp_path / "testing" / "reference.csv"
        table.write_text(
            table.read_text().replace("test_003,Normal\n", "").replace("test_001,Tumor", "test_001,normal")
        )
        found = problems("camelyon16", tmp_path)
        assert found["stray file"] == ["training/normal/tumor_009.tif lies in the folder of other slides"]
        assert found["bad table"] == [
            "testing/reference.csv gives test_001 the other class", "testing/reference.csv has no line for test_003",
        ]  # fmt: skip

    def test_the_hosts_list_of_checksums(self, tmp_path):
        (tmp_path / "images").mkdir()
        (tmp_path / "images" / "a.tif").write_bytes(b"abc")
        (tmp_path / "images" / "b.tif").write_bytes(b"abd")
        sums = (
            "900150983cd24fb0d6963f7d28e17f72  images/a.tif\n" * 1 + "900150983cd24fb0d6963f7d28e17f72 *images/b.tif\n"
        )
        (tmp_path / "checksums.md5").write_text(sums)
        report = Report("camelyon16", tmp_path)
        check_digests(tmp_path, tmp_path, report)
        assert list(report.problems) == ["wrong checksum"]
        assert "images/b.tif" in report.problems["wrong checksum"][0]
