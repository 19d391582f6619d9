"""Full layouts pass, and each single fault is named."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import data_layouts as layouts
import pytest

from benchmarks.data.command import check_digests, command
from benchmarks.data.dataset import load
from benchmarks.data.report import Report
from benchmarks.data.sets import camelyon16


def problems(name, root):
    data_set = load(name)
    report = Report(name, root)
    data_set.verify(data_set.home_in(root), report)
    return report.problems


def counts(name, root):
    return {kind: len(texts) for kind, texts in problems(name, root).items()}


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


class TestNucls:
    @pytest.fixture
    def root(self, tmp_path):
        self.fields = layouts.write_nucls(tmp_path)
        return tmp_path

    def test_whole(self, root, capsys):
        assert command(["verify", "nucls", f"root={root}"]) == 0
        told = capsys.readouterr().out
        for fact in ("fields: 1,746", "slides: 124", "hospitals: 18", "nuclei: 59,541", "without a box: 111"):
            assert fact in told
        (root / "rgbs").rename(root / "rgb")
        (root / "csv" / "ALL_FOV_LOCATIONS.csv").rename(root / "csv" / "all_fov_locations.csv")
        assert problems("nucls", root) == {}
        command(["status", "nucls", f"root={root}"])
        assert "complete by count" in capsys.readouterr().out

    def test_single_faults(self, root):
        fields = self.fields
        images, tables = root / "rgbs", root / "csv"
        (images / f"{fields[0]}.png").unlink()
        layouts.replaced(images / f"{fields[1]}.png", layouts.png(336, 330)[:-6])
        layouts.replaced(images / f"{fields[2]}.png", layouts.png(300, 330))
        os.link(images / f"{fields[3]}.png", images / f"{fields[3]} copy.png")
        (images / "TCGA-thing.png").write_bytes(layouts.png(9, 9))
        (tables / f"{fields[4]}.csv").write_text("raw_classification,type\ntumor,rectangle\n")
        table = tables / f"{fields[5]}.csv"
        table.write_text(table.read_text().replace("tumor,tumor_nonMitotic", "carcinoma,tumor_nonMitotic"))
        table = tables / f"{fields[6]}.csv"
        table.write_text(table.read_text().replace("lymphocyte,lymphocyte,sTIL", "lymphocyte,macrophage,sTIL"))
        (root / "train_test_splits" / "fold_3_test.csv").unlink()
        split = root / "train_test_splits" / "fold_1_train.csv"
        split.write_text("\n".join(split.read_text().splitlines()[:-1]) + "\n")
        found = problems("nucls", root)
        assert (
            found["missing images"]
            == [f"{fields[0]}.png, which ALL_FOV_LOCATIONS.csv lists", f"rgbs/{fields[0]}.png"][::-1]
        )
        assert [text.split()[0] for text in found["truncated"]] == [f"rgbs/{fields[1]}.png"]
        assert {text.split()[0].rstrip(":") for text in found["wrong size"]} == {fields[2], f"mask/{fields[2]}.png"}
        assert [text for text in found["duplicate"] if "copy" in text] == [
            f"rgbs/{fields[3]} copy.png looks like a copy"
        ]
        assert found["stray file"] == ["rgbs/TCGA-thing.png is named after no field"]
        assert found["bad table"][0].startswith(f"csv/{fields[4]}.csv lacks the column main_classification")
        assert {text.split()[0] for text in found["unknown class"]} == {f"csv/{fields[n]}.csv" for n in (5, 6)}
        assert found["missing folds"] == ["train_test_splits/fold_3_test.csv"]
        assert len(found["bad split"]) == 1
        assert set(found["wrong count"]) == {
            "1,745 fields, 1,746 or 1,744 are expected", f"{59541 - 35:,} nuclei, 59,541 or 59,485 are expected",
        }  # fmt: skip

    def test_a_hospital_on_both_sides(self, root):
        split = root / "train_test_splits" / "fold_2_test.csv"
        train = (root / "train_test_splits" / "fold_2_train.csv").read_text().splitlines()
        split.write_text(split.read_text() + train[1] + "\n")
        assert problems("nucls", root)["bad split"][0].startswith("fold 2 has the hospitals A1 on both sides")

    def test_no_windows_and_no_tables(self, root):
        (root / "csv" / "ALL_FOV_LOCATIONS.csv").unlink()
        for name in (root / "csv").iterdir():
            name.unlink()
        found = counts("nucls", root)
        assert found == {"missing tables": 1746, "missing windows": 1}


class TestBcss:
    @pytest.fixture
    def root(self, tmp_path):
        self.names = layouts.write_bcss(tmp_path)
        return tmp_path

    def test_whole(self, root, capsys):
        assert command(["verify", "bcss", f"root={root}"]) == 0
        told = capsys.readouterr().out
        assert "um/px, about: 0.298" in told
        assert "regions of test institutes: 45" in told
        (root / "rgbs_colorNormalized").rename(root / "images")
        assert problems("bcss", root) == {}
        command(["status", "bcss", f"root={root}"])
        assert "complete by count" in capsys.readouterr().out

    def test_single_faults(self, root):
        names = self.names
        images, masks = root / "rgbs_colorNormalized", root / "masks"
        (images / names[0]).unlink()
        (masks / names[1]).unlink()
        (masks / names[2]).write_bytes(layouts.png(3394, 2468, channels=1))
        (masks / names[3]).write_bytes((masks / names[3]).read_bytes()[:30])
        (masks / names[4]).write_bytes((images / names[4]).read_bytes())
        width = round((4040 + 7 * 5) * 0.8402)
        for folder, channels in ((images, 3), (masks, 1)):
            (folder / names[5]).write_bytes(layouts.png(width, 1200, channels))
        (images / names[6].replace(".png", " (1).png")).write_bytes(b"x")
        (images / names[7].replace("0.2500", "0.3000")).write_bytes((images / names[7]).read_bytes())
        (masks / "thing.png").write_bytes(b"x")
        found = problems("bcss", root)
        assert len(found["missing images"]) == len(found["missing masks"]) == 1
        assert [text.split()[0] for text in found["wrong size"]] == [
            f"rgbs_colorNormalized/{names[5]}", f"masks/{names[2]}", f"masks/{names[4]}",
        ]  # fmt: skip
        assert [text.split()[0] for text in found["truncated"]] == [f"masks/{names[3]}"]
        assert len(found["duplicate"]) == 2
        assert found["stray file"] == ["masks/thing.png is not named <slide>_xmin<x>_ymin<y>_MPP-0.2500.png"]
        assert len(found) == 6

    def test_a_missing_institute_and_a_broken_code_table(self, root):
        gone = [name for name in self.names if "-LL-" in name]
        for name in gone:
            (root / "rgbs_colorNormalized" / name).unlink()
            (root / "masks" / name).unlink()
        codes = root / "meta" / "gtruth_codes.tsv"
        codes.write_text(codes.read_text().replace("tumor\t1\n", ""))
        found = problems("bcss", root)
        assert len(found["missing regions"]) == len(gone)
        assert found["wrong count"] == [
            f"{151 - len(gone)} regions, {45 - len(gone)} of them of test institutes; 151 and 45 are expected"
        ]
        assert found["bad table"] == ["meta/gtruth_codes.tsv lacks or renames tumor"]

    def test_without_its_tables(self, root):
        shutil.rmtree(root / "meta")
        assert counts("bcss", root) == {"missing tables": 2}


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
