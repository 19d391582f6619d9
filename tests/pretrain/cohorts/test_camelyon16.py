import csv
import os
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from pretrain.cohorts.camelyon16 import PARTLY, UNANNOTATED, open_camelyon16, slide_facts
from results.errors import UserError

REAL = Path(os.environ.get("SGCL_BENCH_REAL_DATA", Path(__file__).parents[4] / "shared" / "data"))
FACTS = slide_facts()
EMPTY = "<ASAP_Annotations><Annotations/></ASAP_Annotations>"


def touched(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def bucket(root: Path, names=FACTS) -> Path:
    for name in names:
        touched(root / f"images/{name}.tif")
        if FACTS[name].tumor:
            touched(root / f"annotations/{name}.xml").write_text(EMPTY)
    return root


def archive(root: Path, names=FACTS) -> Path:
    for part in ("training", "testing"):
        (root / part).mkdir(parents=True)
        with zipfile.ZipFile(root / part / "lesion_annotations.zip", "w") as file:
            for name in names:
                if FACTS[name].tumor and name.startswith("test") == (part == "testing"):
                    file.writestr(f"{name}.xml", EMPTY)
    for name in names:
        group = name.partition("_")[0]
        touched(root / ("testing/images" if group == "test" else f"training/{group}") / f"{name}.tif")
    rows = [f"{name},{'Tumor' if f.tumor else 'Normal'}\n" for name, f in FACTS.items() if f.part == "test"]
    (root / "testing/reference.csv").write_text("".join(rows))
    return root


def test_facts_are_the_published_counts():
    counts = Counter((facts.part, facts.tumor) for facts in FACTS.values())
    assert counts == {
        ("train", False): 127, ("train", True): 89, ("validation", False): 32, ("validation", True): 22, ("test", False): 80,
        ("test", True): 49,
    }  # fmt: skip
    assert Counter((facts.hospital, facts.part == "test") for facts in FACTS.values()) == {
        ("RUMC", False): 169, ("UMCU", False): 101, ("RUMC", True): 74, ("UMCU", True): 55,
    }  # fmt: skip
    assert sum(facts.partly for facts in FACTS.values()) == 21
    assert all(facts.tumor for facts in FACTS.values() if facts.partly)
    assert not {"normal_086", "test_049"} & FACTS.keys()
    assert {"tumor_111", "normal_160", "test_130"} <= FACTS.keys()


def test_labels_are_those_of_the_collected_list():
    path = REAL / "camelyon16" / "slide_labels.csv"
    if not path.is_file():
        pytest.skip(f"no list of labels: {path} is missing; set SGCL_BENCH_REAL_DATA")
    with open(path, newline="") as file:
        rows = {row["slide_name"]: row["label"] == "1" for row in csv.DictReader(file)}
    assert rows == {name: facts.tumor for name, facts in FACTS.items()}


@pytest.mark.parametrize("layout", [bucket, archive])
def test_both_layouts_give_the_same_slides(tmp_path, layout):
    cohort = open_camelyon16(layout(tmp_path / "c16"), "all")
    assert [slide.name for slide in cohort.slides] == sorted(FACTS)
    assert cohort.notes == ()
    assert cohort.labels == ["normal", "tumor"]
    assert (cohort.name, cohort.rehearsal, cohort.licence) == ("camelyon16", False, "CC0 1.0")
    assert "giy065" in cohort.cite
    slides = {slide.name: slide for slide in cohort.slides}
    assert (slides["normal_001"].tissue_label, slides["normal_001"].annotation) == ("normal", None)
    assert (slides["tumor_001"].tissue_label, slides["tumor_001"].remark) == ("normal", "")
    assert slides["tumor_001"].annotation.name == "tumor_001.xml"
    assert (slides["tumor_010"].tissue_label, slides["tumor_010"].remark) == ("", PARTLY)
    assert slides["test_114"].remark == PARTLY
    assert (slides["tumor_071"].hospital, slides["tumor_071"].patient) == ("UMCU", "tumor_071")


def test_parts_are_disjoint_and_whole(tmp_path):
    root = bucket(tmp_path)
    parts = {part: {s.name for s in open_camelyon16(root, part).slides} for part in ("train", "validation", "test")}
    assert {part: len(names) for part, names in parts.items()} == {"train": 216, "validation": 54, "test": 129}
    assert set.union(*parts.values()) == set(FACTS)
    assert open_camelyon16(root, "test").name == "camelyon16-test"
    with pytest.raises(UserError, match="choose one of train, validation, test or all"):
        open_camelyon16(root, "val")


def test_missing_old_and_contradicting_files_are_named(tmp_path):
    root = archive(tmp_path, [name for name in FACTS if name not in ("tumor_003", "test_005")])
    touched(root / "training/normal/Normal_086.tif")
    touched(root / "testing/images/Test_049.tif")
    (root / "training/normal/normal_001.tif").rename(root / "training/normal/Normal_001.tif")
    (root / "testing/reference.csv").write_text("test_001,Normal\ntest_002.tif,tumor\nTEST_003,Normal\n")
    with zipfile.ZipFile(root / "training/lesion_annotations.zip", "w") as file:
        file.writestr("Tumor_002.xml", EMPTY)
    cohort = open_camelyon16(root, "all")
    notes = "\n".join(cohort.notes)
    assert "2 of 399 slides of all not there: test_005, tumor_003" in notes
    assert "the data set removed them: normal_086, now tumor_111, test_049" in notes
    assert "labelled otherwise in reference.csv, which was not followed: test_001" in notes
    assert "without annotation, so without labels: tumor_001, tumor_004" in notes
    slides = {slide.name: slide for slide in cohort.slides}
    assert len(slides) == 397
    assert slides["normal_001"].path.name == "Normal_001.tif"
    assert (slides["tumor_001"].remark, slides["tumor_001"].tissue_label) == (UNANNOTATED, "")
    assert slides["tumor_002"].tissue_label == "normal"


def test_a_folder_inside_and_a_synthetic_one(tmp_path):
    bucket(tmp_path / "CAMELYON16", ["tumor_001"])
    (tmp_path / "CAMELYON16/cohort.yaml").write_text("rehearsal: true\n")
    cohort = open_camelyon16(tmp_path, "validation")
    assert cohort.rehearsal
    with pytest.raises(UserError, match="holds no train slide of Camelyon16"):
        open_camelyon16(tmp_path, "train")
    with pytest.raises(UserError, match="neither layout"):
        open_camelyon16(tmp_path / "none")
    touched(tmp_path / "zip/images/tumor_001.tif")
    touched(tmp_path / "zip/training/lesion_annotations.zip").write_bytes(b"PK half")
    with pytest.raises(UserError, match="not a whole zip"):
        open_camelyon16(tmp_path / "zip", "all")
