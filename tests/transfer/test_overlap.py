"""What counts as having been seen: slides, patients and hospitals under the names of several archives."""

import csv

import pytest
from transfer_toys import write_export

from pretrain.cohorts import open_cohort
from pretrain.cohorts.rehearsal import generate
from pretrain.tiling import Tiling
from pretrain.tiling.run import tile_cohort
from results.record import read_records
from transfer.__main__ import main
from transfer.overlap import Origins, overlap

ARCHIVE = "TCGA-A1-A0SP-01Z-00-DX1.20689348-B9A5-4C39-8C4D-CF6E2E2F6A2C"


@pytest.mark.parametrize(
    ("seen", "found"),
    [
        (Origins.of([ARCHIVE]), "same slide"),
        (Origins.of(["TCGA-A1-A0SP-01Z-00-DX2.AAAA"]), "same patient"),
        (Origins.of(["TCGA-A1-A0SQ-DX1"]), "same hospital"),
        (Origins.of(["TCGA-OL-A66H-DX1"]), "clean"),
        (Origins.of(["slide_7"]), "unknown"),
        (Origins.of(["slide_7"], ["p1"]), "unknown"),
        (Origins.of(["slide_7"], ["p1"], ["RUMC"]), "clean"),
        (Origins.of(["slide_7"], ["TCGA-A1-A0SP"], ["elsewhere"]), "same patient"),
        (Origins.of([]), "unknown"),
    ],
)
def test_a_field_of_view_is_held_against_what_was_seen(seen, found):
    tested = Origins.of(["TCGA-A1-A0SP-DX1"])
    assert overlap(seen, tested) == overlap(tested, seen) == found


def test_one_file_under_two_names_is_the_same_slide():
    seen = Origins.of(["A"], ["P1"], ["H1"], ["d1", "d2"])
    assert overlap(seen, Origins.of(["X"], ["P71"], ["H71"], ["d2"])) == "same slide"
    assert overlap(seen, Origins.of(["X"], ["P71"], ["H71"], ["d3"])) == "clean"
    assert overlap(seen, Origins.of(["X"], ["P71"], ["H71"], [""])) == "clean"


def test_barcodes_tell_slide_patient_and_hospital():
    found = Origins.of([ARCHIVE, "RHSL-H2-0005-DX1"])
    assert found.slides == {"TCGA-A1-A0SP-DX1", "RHSL-H2-0005-DX1"}
    assert found.patients == {"TCGA-A1-A0SP", "RHSL-H2-0005"}
    assert found.hospitals == {"A1", "H2"}


def test_synthetic_cohorts_of_other_seeds_are_other_slides_patients_and_hospitals():
    names = {seed: f"RHSL-H2{seed}-0005-DX1" for seed in ("", "S5", "S51")}
    found = {seed: Origins.of([name]) for seed, name in names.items()}
    assert found["S5"] == Origins(frozenset({names["S5"]}), frozenset({"RHSL-H2S5-0005"}), frozenset({"H2S5"}))
    assert {overlap(found[one], found[two]) for one in found for two in found if one != two} == {"clean"}
    assert overlap(found["S5"], Origins.of(["RHSL-H2S5-0008-DX1"])) == "same hospital"


def test_other_names_stay_as_they_are():
    found = Origins.of(["tumor_001"], ["case 4"], ["UMCU"])
    assert (found.slides, found.patients, found.hospitals) == ({"tumor_001"}, {"case 4"}, {"UMCU"})


@pytest.mark.slow
def test_a_slide_tiled_again_under_another_name_is_marked(tmp_path):
    generate(tmp_path / "s0", 0, 3, 1024)
    with open(tmp_path / "s0" / "cohort.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    renamed = tmp_path / "s0" / "renamed.csv"
    with open(renamed, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(
            {**row, "slide": f"case {i}", "patient": f"P{i}", "hospital": "elsewhere"} for i, row in enumerate(rows)
        )
    one, other = (
        tile_cohort(open_cohort(path), Tiling(tile=64), tmp_path, workers=0, progress=False).origins()
        for path in (tmp_path / "s0", renamed)
    )
    assert not set(one["slides"]) & set(other["slides"])
    assert one["digests"] == other["digests"]
    assert overlap(Origins.of(*one.values()), Origins.of(*other.values())) == "same slide"


@pytest.mark.slow
def test_records_of_an_encoder_that_saw_a_synthetic_cohort_of_another_seed_are_clean(tmp_path):
    """Pretrained on seed 0: its own slides are the same, those of seed 5 are other slides of other hospitals."""
    stores = {
        seed: tile_cohort(
            open_cohort(generate(tmp_path / f"s{seed}", seed, 3, 1024)), Tiling(tile=64), tmp_path, workers=0, progress=False
        )
        for seed in (0, 5)
    }  # fmt: skip
    seen = stores[0].origins()
    assert seen["slides"] == ["RHSL-H1-0001-DX1", "RHSL-H2-0002-DX1", "RHSL-H3-0003-DX1"]
    data = {"cohort": "rehearsal", "store_digest": "0" * 64, "tiles": 9, "slides": 3, "rehearsal": True, "seen": seen}
    write_export(tmp_path / "runs" / "sgcl-r-1", data=data)
    for seed, expected in ((0, "same slide"), (5, "clean")):
        records = tmp_path / f"records{seed}"
        asked = [f"store={stores[seed].root}", f"work={tmp_path}", f"records={records}", "task=rehearsal", "device=cpu"]
        assert main(["classify", *asked, "floors=false", "engines=[knn]"]) == 0
        found = [record.data for record in read_records(records)]
        assert len(found) == 3
        assert {record["contamination"] for record in found} == {expected}
        assert all(record["task"]["rehearsal"] for record in found)
