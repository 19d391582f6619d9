"""Rows of NuCLS tables: which become boxes, of which class, and what happens to the others."""

import pytest
from nucls_toys import COLUMNS, row, write_rows

from results.errors import UserError
from transfer.tasks import nucls_rows
from transfer.tasks.boxes import IGNORED
from transfer.tasks.nucls_rows import Ledger, boxes_of


def read_rows(path, rows, window=(0, 0, 100, 100), grouping="super", columns=COLUMNS, min_inside=0.25):
    write_rows(path, rows, columns)
    ledger = Ledger()
    boxes, labels = boxes_of(path, window, grouping, min_inside, ledger)
    return boxes, labels, ledger.totals


@pytest.mark.parametrize(
    ("one", "outcome"),
    [
        (row("tumor", (10, 10, 30, 30)), nucls_rows.KEPT),
        (row("tumor", (10, 10, 30, 30), shape="polyline"), nucls_rows.KEPT),
        (row("correction_tumor", (10, 10, 30, 30)), nucls_rows.KEPT),
        (row("correction_tumor", (10, 10, 30, 30), main="correction_tumor_mitotic"), nucls_rows.KEPT),
        (row("unlabeled", (10, 10, 30, 30)), nucls_rows.UNSURE),
        (row("apoptotic_body", (10, 10, 30, 30), main=""), nucls_rows.UNSURE),
        (row("tumor", (90, 10, 130, 30)), nucls_rows.KEPT),
        (row("tumor", (98, 10, 130, 30)), nucls_rows.SLIVER),
        (row("tumor", (100, 10, 130, 30)), nucls_rows.OUTSIDE),
        (row("tumor", ("", "", "", ""), shape="point"), nucls_rows.POINT),
        (row("tumor", ("", "", "", "")), nucls_rows.EMPTY),
        (row("tumor", (30, 10, 30, 20)), nucls_rows.EMPTY),
        (row("tumor", ("a", 10, 30, 20)), nucls_rows.NUMBERS),
        (row("tumor", ("nan", 10, 30, 20)), nucls_rows.NUMBERS),
        (row("fov_basic", (0, 0, 100, 100)), nucls_rows.FIELD),
        (row("correction_FOV_reviewed", (0, 0, 100, 100)), nucls_rows.FIELD),
        (row("adipocyte", (10, 10, 30, 30)), nucls_rows.UNKNOWN),
    ],
)
def test_every_row_has_an_outcome(tmp_path, one, outcome):
    boxes, labels, totals = read_rows(tmp_path / "field.csv", [one])
    assert totals == {outcome: 1}
    assert len(boxes) == len(labels) == (not outcome.startswith("reported"))
    assert ((labels == IGNORED) == outcome.startswith("ignored")).all()


def test_boxes_are_shifted_into_the_window_and_cut_at_its_rim(tmp_path):
    rows = [row("tumor", (20, 30, 40, 60)), row("lymphocyte", (95, 5, 115, 25))]
    boxes, labels, _ = read_rows(tmp_path / "field.csv", rows, window=(10, 10, 110, 90))
    assert boxes.tolist() == [[10, 20, 30, 50], [85, 0, 100, 15]]
    assert labels.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("grouping", "expected"), [("super", [0, 0, 1, 1, 2, 2, 3]), ("main", [0, 1, 2, 3, 4, 5, 6]), ("one", [0] * 7)]
)
def test_groupings(tmp_path, grouping, expected):
    raws = ["tumor", "mitotic_figure", "vascular_endothelium", "macrophage", "lymphocyte", "plasma_cell", "eosinophil"]
    _, labels, _ = read_rows(tmp_path / "f.csv", [row(raw, (1, 1, 9, 9), main="") for raw in raws], grouping=grouping)
    assert labels.tolist() == expected


def test_every_raw_class_has_a_main_and_a_super_class(tmp_path):
    for raw, main in nucls_rows.MAIN.items():
        _, labels, totals = read_rows(tmp_path / "f.csv", [row(raw, (1, 1, 9, 9), main=main)])
        assert totals == {nucls_rows.UNSURE if main == "AMBIGUOUS" else nucls_rows.KEPT: 1}
        if main != "AMBIGUOUS":
            assert nucls_rows.GROUPINGS["super"][labels[0]] == nucls_rows.SUPER[main]


def test_the_earlier_form_with_one_column_group_is_read(tmp_path):
    columns = ("", "group", "type", "xmin", "ymin", "xmax", "ymax")
    rows = [[0, "correction_plasma_cell", "rectangle", 1, 2, 9, 9], [1, "unlabeled", "polyline", 1, 2, 9, 9]]
    _, labels, _ = read_rows(tmp_path / "f.csv", rows, columns=columns)
    assert labels.tolist() == [2, IGNORED]


def test_a_table_without_classes_is_refused(tmp_path):
    with pytest.raises(UserError, match="no column of classes"):
        read_rows(
            tmp_path / "f.csv", [[0, "rectangle", 1, 2, 9, 9]], columns=("", "type", "xmin", "ymin", "xmax", "ymax")
        )
