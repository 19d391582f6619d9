import numpy as np
import pyarrow as pa
import pytest
from kind_toys import make_boxes, make_pixels

from results.errors import UserError
from results.metrics import score_units
from results.record import find_record, read_records, record_key, write_record
from results.units import canonical_units, kind_of

MAKERS = {"segmentation": make_pixels, "detection": make_boxes}


def replaced(units, name, values, kind=None):
    return units.set_column(units.column_names.index(name), name, pa.array(values, kind))


def first_list(units, name, change):
    values = units[name].to_pylist()
    place = next(n for n, own in enumerate(values) if own)
    values[place] = change(list(values[place]))
    return replaced(units, name, values)


def at(place, value):
    def change(values):
        values[place] = value
        return values

    return change


@pytest.mark.parametrize("kind", MAKERS)
def test_round_trip_through_parquet(tmp_path, record_of, kind):
    metadata = {"metadata": {"match_px": "9.5", "score_threshold": "0.25", "other": "x"}} if kind == "detection" else {}
    units = MAKERS[kind](**metadata)
    assert kind_of(units) == kind
    record = record_of(units=units, task__kind=kind, engine__name="fcn")
    path = write_record(tmp_path, record, units)
    (read,) = read_records(tmp_path)
    assert read.kind == kind
    assert read.units().equals(canonical_units(units, "here"), check_metadata=True)
    assert score_units(read.units()) == record["metrics"] == read.data["metrics"]
    assert find_record(tmp_path, record_key(record)).path == path
    if kind == "detection":
        assert read.units().schema.metadata == {b"match_px": b"9.5", b"score_threshold": b"0.25"}


def test_defaults_are_written_out():
    assert canonical_units(make_boxes(), "here").schema.metadata == {b"match_px": b"12.0", b"score_threshold": b"0.5"}


@pytest.mark.parametrize("kind", MAKERS)
def test_units_of_another_kind_are_refused(tmp_path, record_of, units_of, kind):
    record = record_of(units=units_of(), task__kind=kind)
    with pytest.raises(UserError, match="the units need each of unit, cluster"):
        write_record(tmp_path, record, units_of())
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="score_<class>"):
        canonical_units(MAKERS[kind](), "here", "classification")
    with pytest.raises(UserError, match="'dense' is not known"):
        canonical_units(MAKERS[kind](), "here", "dense")


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.slice(0, 0), "no rows"),
        (lambda t: t.drop_columns(["cluster"]), "need each of unit, cluster"),
        (lambda t: t.append_column("x0", t["unit"]), "x0"),
        (lambda t: pa.concat_tables([t, t.slice(0, 2)]), "2 row(s) of the units repeat a"),
        (lambda t: replaced(t, "cluster", [None] * len(t), pa.string()), "column 'cluster'"),
        (lambda t: replaced(t, "unit", [0.5] * len(t)), "column 'unit'"),
    ],
)
def test_what_every_kind_refuses(kind, change, reason):
    with pytest.raises(UserError) as error:
        canonical_units(change(MAKERS[kind]()), "cell.parquet", kind)
    assert reason in str(error.value)
    assert str(error.value).startswith("cell.parquet: ")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: first_list(t, "pixels_fat", at(1, -1)), "'pixels_fat' of the units has a negative count of px (-1)"),
        (lambda t: first_list(t, "pixels_fat", lambda v: v[:2]), "by the 3 predicted classes, but has lists of 2 to 3"),
        (lambda t: first_list(t, "pixels_fat", lambda v: [*v, 1]), "lists of 3 to 4"),
        (lambda t: first_list(t, "pixels_fat", at(0, None)), "'pixels_fat' of the units has empty values inside"),
        (lambda t: replaced(t, "pixels_fat", [None, *t["pixels_fat"].to_pylist()[1:]]), "1 empty value(s)"),
        (lambda t: replaced(t, "pixels_fat", [[0.5] * 3] * len(t)), "must be list<int64>"),
        (lambda t: replaced(t, "pixels_fat", [1] * len(t)), "must be list<int64>"),
        (lambda t: replaced(t, "pixels_fat", [[2**63] * 3] * len(t), pa.list_(pa.uint64())), "does not fit"),
        (lambda t: replaced(t, "pixels_fat", [[]] * len(t)), "lists of 0 to 0"),
        (lambda t: t.drop_columns(["pixels_fat", "pixels_stroma"]), "two or more pixels_<class>"),
    ],
)
def test_what_segmentation_refuses(change, reason):
    with pytest.raises(UserError) as error:
        canonical_units(change(make_pixels()), "cell.parquet")
    assert reason in str(error.value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: first_list(t, "truth_tumour", at(2, -5.0)), "x1 < x0"),
        (lambda t: first_list(t, "found_tumour", at(3, -5.0)), "y1 < y0"),
        (lambda t: first_list(t, "truth_tumour", at(4, 0.5)), "ignore 0 or 1, not 0.5"),
        (lambda t: first_list(t, "found_tumour", at(4, 1.01)), "score of 0 to 1, not 1.01"),
        (lambda t: first_list(t, "found_tumour", at(4, -0.1)), "score of 0 to 1"),
        (lambda t: first_list(t, "found_tumour", at(0, float("nan"))), "not finite"),
        (lambda t: first_list(t, "truth_tumour", at(2, float("inf"))), "not finite"),
        (lambda t: first_list(t, "truth_tumour", lambda v: v[:-1]), "five numbers a box"),
        (lambda t: first_list(t, "truth_tumour", at(0, None)), "empty values inside"),
        (lambda t: replaced(t, "truth_tumour", [[1] * 5] * len(t)), "must be list<float>"),
        (lambda t: t.drop_columns(["found_tumour"]), "for every class in one order"),
        (lambda t: t.drop_columns(["truth_tumour", "found_tumour", "truth_lymphocyte"]), "for every class in one order"),
        (lambda t: t.select(["unit", "cluster", "truth_tumour", "truth_lymphocyte", "found_lymphocyte", "found_tumour"]), "one order"),
        (lambda t: t.replace_schema_metadata({"match_px": "near"}), "'match_px' must be a number of 1e-06 to 1e+06, not near"),
        (lambda t: t.replace_schema_metadata({"match_px": "0"}), "'match_px'"),
        (lambda t: t.replace_schema_metadata({"score_threshold": "1.5"}), "'score_threshold' must be a number of 0 to 1"),
        (lambda t: t.replace_schema_metadata({"score_threshold": "nan"}), "'score_threshold'"),
    ],
)  # fmt: skip
def test_what_detection_refuses(change, reason):
    with pytest.raises(UserError) as error:
        canonical_units(change(make_boxes()), "cell.parquet")
    assert reason in str(error.value)


def test_other_types_of_the_same_family_are_taken():
    pixels = make_pixels()
    fixed = replaced(pixels, "pixels_fat", pixels["pixels_fat"].to_pylist(), pa.list_(pa.int32(), 3))
    large = replaced(fixed, "pixels_tumour", pixels["pixels_tumour"].to_pylist(), pa.large_list(pa.uint16()))
    assert canonical_units(large, "here").equals(canonical_units(pixels, "here"))
    boxes = make_boxes()
    wide = replaced(boxes, "found_tumour", boxes["found_tumour"].to_pylist(), pa.list_(pa.float64()))
    assert canonical_units(wide, "here").equals(canonical_units(boxes, "here"))
    nothing = replaced(boxes, "found_tumour", [[] for _ in range(len(boxes))])
    assert canonical_units(nothing, "here")["found_tumour"].type == pa.list_(pa.float32())


def test_slices_and_chunks_read_the_same():
    boxes, pixels = make_boxes(), make_pixels()
    for units in (boxes, pixels):
        parts = pa.concat_tables([units.slice(0, 3), units.slice(3)])
        assert score_units(parts) == score_units(units)
        assert score_units(units.slice(2, 4)) == score_units(units.take(np.arange(2, 6)))
