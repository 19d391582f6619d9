"""What counts as having been seen: slides, patients and hospitals under the names of several archives."""

import pytest

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


def test_barcodes_tell_slide_patient_and_hospital():
    found = Origins.of([ARCHIVE, "RHSL-H2-0005-DX1"])
    assert found.slides == {"TCGA-A1-A0SP-DX1", "RHSL-H2-0005-DX1"}
    assert found.patients == {"TCGA-A1-A0SP", "RHSL-H2-0005"}
    assert found.hospitals == {"A1", "H2"}


def test_other_names_stay_as_they_are():
    found = Origins.of(["tumor_001"], ["case 4"], ["UMCU"])
    assert (found.slides, found.patients, found.hospitals) == ({"tumor_001"}, {"case 4"}, {"UMCU"})
