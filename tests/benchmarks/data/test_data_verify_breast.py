"""Fields and regions of breast: full NuCLS and BCSS pass, and each single fault is named."""

import os
import shutil

import data_layouts as layouts
import numpy as np
import pytest
from data_checks import counts, problems
from PIL import Image

from benchmarks.data.command import command


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
        (masks / names[2]).write_bytes(layouts.png_mask(3394, 2468))
        (masks / names[3]).write_bytes((masks / names[3]).read_bytes()[:30])
        (masks / names[4]).write_bytes((images / names[4]).read_bytes())
        width = round((4040 + 7 * 5) * 0.8402)
        (images / names[5]).write_bytes(layouts.png(width, 1200))
        (masks / names[5]).write_bytes(layouts.png_mask(width, 1200))
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

    def test_masks_with_codes_out_of_the_table(self, root):
        masks = sorted((root / "masks").iterdir())[:3]
        size = {path: Image.open(path).size for path in masks}
        masks[0].write_bytes(layouts.png_mask(*size[masks[0]], code=77))
        grey = np.full(size[masks[1]][::-1], 21, np.uint8)
        grey[: len(grey) // 2] = 22
        palette = Image.fromarray(grey, "P")
        palette.putpalette([200, 10, 10] * 256)
        palette.save(masks[1])
        masks[2].write_bytes(layouts.png(*size[masks[2]], channels=1))
        found = problems("bcss", root)
        assert found["unknown code"] == [
            f"masks/{masks[0].name} holds 77 in 100.0% of its px; codes go from 0 to 21",
            f"masks/{masks[1].name} holds 22 in {len(grey) // 2 / len(grey):.1%} of its px; codes go from 0 to 21",
        ]
        assert [text.split()[0] for text in found.pop("unreadable")] == [f"masks/{masks[2].name}"]
        assert list(found) == ["unknown code"]

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
