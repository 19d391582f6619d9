import json
import os
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from results.errors import UserError
from results.record import cell_key, find_record, read_records, record_key, validate, write_record
from results.units import canonical_units


def message_of(call, *arguments):
    with pytest.raises(UserError) as error:
        call(*arguments)
    return str(error.value)


def with_column(units, name, values):
    return units.set_column(units.column_names.index(name), name, values)


def test_round_trip(tmp_path, record_of, units_of):
    units = units_of(0.8)
    record = record_of(units=units)
    path = write_record(tmp_path, record, units)
    assert re.fullmatch(r"rehearsal-knn-npid-t0-[0-9a-f]{8}\.json", path.name)
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name, path.with_suffix(".parquet").name]
    (read,) = read_records(tmp_path)
    assert read.data == {**record, "units": path.with_suffix(".parquet").name}
    assert read.path == path
    assert read.ok
    assert read.units().equals(canonical_units(units, "here"))


def test_crashed_cell_has_no_units(tmp_path, record_of):
    path = write_record(tmp_path, record_of(), None)
    (read,) = read_records(tmp_path)
    assert not read.ok
    assert read.units() is None
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_the_argument_is_not_changed(tmp_path, record_of, units_of):
    units = units_of()
    record = record_of(units=units)
    before = json.dumps(record)
    write_record(tmp_path, record, units)
    assert json.dumps(record) == before


def test_the_same_cell_is_replaced(tmp_path, record_of, units_of):
    units = units_of(0.6)
    write_record(tmp_path, record_of(units=units), units)
    write_record(tmp_path, record_of(units=units, encoder__name="renamed", wall_seconds=2.0), units)
    (read,) = read_records(tmp_path)
    assert (read.data["encoder"]["name"], read.data["wall_seconds"]) == ("renamed", 2.0)


def test_a_crash_replaces_a_crash_and_never_a_scored_cell(tmp_path, record_of, units_of):
    units, crashed = units_of(0.6), record_of()
    first = write_record(tmp_path, crashed, None)
    assert write_record(tmp_path, record_of(error="MemoryError: again"), None) == first
    assert read_records(tmp_path)[0].data["error"] == "MemoryError: again"
    scored = write_record(tmp_path, record_of(units=units), units)
    assert write_record(tmp_path, crashed, None) == scored
    (kept,) = read_records(tmp_path)
    assert kept.ok
    scored.with_suffix(".parquet").write_bytes(b"")
    write_record(tmp_path, crashed, None)
    assert not read_records(tmp_path)[0].ok


def test_a_damaged_record_of_the_same_name_can_be_written_again(tmp_path, record_of, units_of):
    units = units_of()
    path = write_record(tmp_path, record_of(units=units), units)
    path.write_text("{")
    assert write_record(tmp_path, record_of(units=units), units) == path
    assert len(read_records(tmp_path)) == 1


def test_nothing_is_left_when_units_cannot_be_written(tmp_path, record_of, units_of, monkeypatch):
    def full(table, where, **options):
        where.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(pq, "write_table", full)
    units = units_of()
    with pytest.raises(OSError, match="no space"):
        write_record(tmp_path, record_of(units=units), units)
    assert list(tmp_path.iterdir()) == []


def test_cell_key_depends_on_each_part_and_nothing_else(record_of):
    parts = ("task", 1, "split", "encoder", "knn", {"k": 20, "t": 0.1}, 0, 0)
    key = cell_key(*parts)
    assert re.fullmatch(r"[0-9a-f]{64}", key)
    assert cell_key(*parts[:5], {"t": 0.1, "k": 20}, 0, 0) == key
    for place, other in enumerate(("x", 2, "x", "x", "x", {"k": 5}, 1, 1)):
        changed = list(parts)
        changed[place] = other
        assert cell_key(*changed) != key
    assert record_key(record_of()) == record_key(record_of(wall_seconds=9.0, git_revision="b"))


def test_find_record(tmp_path, record_of, units_of):
    units = units_of()
    record = record_of(units=units)
    assert find_record(tmp_path / "absent", record_key(record)) is None
    path = write_record(tmp_path, record, units)
    assert find_record(tmp_path, record_key(record)).path == path
    assert find_record(tmp_path, record_key(record_of(trial=1))) is None
    for damage in (lambda file: file.write_bytes(file.read_bytes()[:-9]), lambda file: file.unlink()):
        damage(path.with_suffix(".parquet"))
        assert find_record(tmp_path, record_key(record)) is None  # its cell is run again


@pytest.mark.parametrize("text", ["[" * 100_000, '{"schema": ' + "9" * 5000 + "}", '{"notes": ["\\ud800"]}'])
def test_json_that_breaks_its_reader_is_one_sentence(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    assert "cannot be read as JSON" in message_of(read_records, tmp_path)


def test_what_is_no_file_is_passed_over(tmp_path, record_of, units_of):
    units = units_of()
    write_record(tmp_path, record_of(units=units), units)
    os.mkfifo(tmp_path / "pipe.json")
    assert len(read_records(tmp_path)) == 1


@pytest.mark.parametrize(
    ("changes", "field", "reason"),
    [
        ({"status": "fine"}, "status", "fine"),
        ({"encoder__kind": "model"}, "encoder.kind", "model"),
        ({"task__rehearsal": "yes"}, "task.rehearsal", "boolean"),
        ({"task__colour": 1}, "task", "colour"),
        ({"note": "x"}, "the record", "note"),
        ({"trial": -1}, "trial", "minimum"),
        ({"wall_seconds": None}, "wall_seconds", "number"),
        ({"contamination": "maybe"}, "contamination", "maybe"),
        ({"created": "yesterday"}, "created", "yesterday"),
        ({"metrics": [{"name": "a", "value": 1.0}]}, "metrics.0", "unit"),
        ({"error": "but ok"}, "error", "null"),
        ({"wall_seconds": float("nan")}, "wall_seconds", "finite"),
        ({"encoder__card": {"hours": float("inf")}}, "encoder.card.hours", "finite"),
        ({"trial": 3}, "trial 3", "3 counted from 0"),
        ({"schema": 0}, "schema", "0 is not one of [1, 2]"),
        ({"schema": 3}, "record schema 3", "update SGCL Bench"),
        ({"task__kind": "regression"}, "task.kind", "regression"),
        ({"encoder__coverage": 1.0}, "encoder.coverage", "1.0 is not of type"),
        ({"encoder__coverage": {"share": 1.5}}, "encoder.coverage.share", "maximum"),
        ({"units": "../elsewhere.parquet"}, "units", "does not match"),
    ],
)
def test_validate_names_file_and_field(record_of, units_of, changes, field, reason):
    record = record_of(units=units_of(), **{k: v for k, v in changes.items() if k != "units"})
    record["units"] = changes.get("units", "x.parquet")
    message = message_of(validate, record, "cell.json")
    assert "cell.json" in message
    assert field in message
    assert reason in message


@pytest.mark.parametrize("value", [None, [], "text", {}])
def test_validate_refuses_what_is_no_record(value):
    assert "cell.json" in message_of(validate, value, "cell.json")


def test_missing_field_is_named(record_of):
    record = record_of()
    del record["seed"]
    assert "'seed' is a required property" in message_of(validate, record, "cell.json")


def test_crashed_needs_an_error_and_no_metrics(record_of):
    assert "error" in message_of(validate, record_of(error=None), "cell.json")
    assert "metrics" in message_of(
        validate, record_of(metrics=[{"name": "a", "value": 1, "unit": "fraction"}]), "cell.json"
    )


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"schema": 1}', b"[1]"])
def test_damaged_json_is_named(tmp_path, content):
    (tmp_path / "cell.json").write_bytes(content)
    assert str(tmp_path / "cell.json") in message_of(read_records, tmp_path)


def test_missing_or_damaged_units_are_named(tmp_path, record_of, units_of):
    units = units_of()
    path = write_record(tmp_path, record_of(units=units), units)
    (record,) = read_records(tmp_path)
    parquet = path.with_suffix(".parquet")
    parquet.write_bytes(b"PAR1 torn")
    assert parquet.name in message_of(record.units)
    parquet.unlink()
    assert f"{path}: field units names {parquet.name}" in message_of(read_records, tmp_path)
    assert parquet.name in message_of(record.units)


def test_the_same_cell_twice_is_refused(tmp_path, record_of, units_of):
    units = units_of()
    path = write_record(tmp_path, record_of(units=units), units)
    (tmp_path / "copy.json").write_text(path.read_text())
    message = message_of(read_records, tmp_path)
    assert "copy.json" in message
    assert path.name in message


def test_missing_and_empty_folders_say_what_makes_records(tmp_path):
    for folder in (tmp_path / "absent", tmp_path):
        message = message_of(read_records, folder)
        assert str(folder) in message
        assert "python -m transfer classify" in message
    (tmp_path / ".half.tmp.json").write_text("{")
    assert "holds no records" in message_of(read_records, tmp_path)


@pytest.mark.parametrize(
    ("change", "column"),
    [
        (lambda t: t.drop_columns(["predicted"]), "predicted"),
        (lambda t: t.drop_columns(["score_stroma", "score_fat"]), "score_"),
        (lambda t: t.append_column("x0", t["unit"]), "x0"),
        (lambda t: t.slice(0, 0), "no rows"),
        (lambda t: with_column(t, "unit", pa.array([1.5] * len(t))), "unit"),
        (lambda t: with_column(t, "cluster", t["label"]), "cluster"),
        (lambda t: with_column(t, "cluster", pa.array([None] * len(t), pa.string())), "cluster"),
        (lambda t: with_column(t, "label", pa.array(np.full(len(t), 3, "i4"))), "label"),
        (lambda t: with_column(t, "predicted", pa.array(np.full(len(t), -1, "i4"))), "predicted"),
        (lambda t: with_column(t, "label", pa.array([0.5] * len(t))), "label"),
        (lambda t: with_column(t, "label", pa.array([2**40] * len(t))), "label"),
        (lambda t: with_column(t, "score_fat", pa.array(np.full(len(t), np.nan, "f4"))), "score_fat"),
        (lambda t: pa.concat_tables([t, t.slice(0, 2)]), "2 row(s)"),
    ],
)
def test_units_that_break_the_contract_are_refused(tmp_path, record_of, units_of, change, column):
    record = record_of(units=units_of())
    assert column in message_of(write_record, tmp_path, record, change(units_of()))
    assert list(tmp_path.iterdir()) == []


def test_units_take_their_canonical_types(units_of):
    units = units_of()
    wide = pa.table(
        {
            "unit": units["unit"].cast(pa.string()).cast(pa.large_string()),
            "cluster": units["cluster"].dictionary_encode(),
            "label": units["label"].cast(pa.int64()),
            "predicted": units["predicted"].cast(pa.int8()),
            **{name: units[name].cast(pa.float64()) for name in units.column_names if name.startswith("score_")},
        }
    )
    found = canonical_units(wide, "here").schema
    kinds = {field.name: field.type for field in found}
    assert kinds["unit"] == kinds["cluster"] == pa.string()
    assert kinds["label"] == kinds["predicted"] == pa.int32()
    assert kinds["score_fat"] == pa.float32()


def test_a_tile_id_may_come_back_on_another_slide(units_of):
    units = units_of().slice(0, 2)
    units = with_column(units, "unit", pa.array([5, 5]))
    units = with_column(units, "cluster", pa.array(["a", "b"]))
    assert canonical_units(units, "here").num_rows == 2
