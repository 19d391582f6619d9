import csv
import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
from kind_toys import boxes_table, make_boxes, make_pixels

from results import statistics
from results.__main__ import main
from results.errors import UserError
from results.metrics import METRICS, Boxes, Pixels, Predictions
from results.record import read_records, write_record
from results.render import latex, long_csv, markdown
from results.statistics import Trial, best_of, bootstrap, inside_floor, tied_with_best
from results.table import build_tables
from results.units import canonical_units

NUMBER = r"\d\.\d{3} ± \d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\]"


@pytest.fixture
def mixed(tmp_path, record_of, whole_row):
    """Three kinds of task in one folder, two encoders and a floor each, three trials."""
    for encoder, quality, kind in (("sgcl", 0.9, "run"), ("npid", 0.7, "run"), ("random", 0.3, "floor")):
        whole_row(encoder, quality, kind=kind, engines=("knn",))
        for task, engine, make in (("segmentation", "fcn", make_pixels), ("detection", "faster_rcnn_fpn", make_boxes)):
            for trial in range(3):
                units = make(quality, noise_seed=trial)
                record = record_of(
                    encoder, kind, engine, trial, 3, units, task__name=task, task__kind=task, engine__settings={}
                )
                write_record(tmp_path / "records", record, units)
    return tmp_path / "records"


def tables_by_kind(folder, **options):
    return {table.kind: table for table in build_tables(read_records(folder), 100, **options)}


def test_one_table_a_kind_with_its_own_columns_and_words(mixed):
    tables = tables_by_kind(mixed)
    assert {kind: table.metrics for kind, table in tables.items()} == {kind: list(METRICS[kind]) for kind in METRICS}
    assert list(tables["segmentation"].metrics) == ["miou", "mdice", "pixel_accuracy"]
    assert list(tables["detection"].metrics)[:4] == ["ap", "ap50", "ap75", "f1_iou50"]
    for kind, noun, count, header in (
        ("classification", "tiles", 360, "kNN balanced accuracy"),
        ("segmentation", "regions", 8, "FCN mIoU"),
        ("detection", "images", 10, "Faster R-CNN FPN AP50"),
    ):
        text = markdown(tables[kind])
        assert f"test slide(s), {count} {noun}. Fractions" in text
        assert f"over test slides, and {noun} within them" in text
        assert header in text
        assert [row.name for row in tables[kind].rows] == ["sgcl", "npid", "random"]
        (best,) = [line for line in text.splitlines() if line.startswith("| sgcl")]
        assert len(re.findall(NUMBER, best)) == len(METRICS[kind])
        assert "**" in best
        others = {"tiles", "regions", "images"} - {noun}
        assert not any(re.search(rf"\b{word}\b", text.split("\n| ")[0]) for word in others)


def test_notes_say_how_the_numbers_are_made(mixed):
    texts = {kind: markdown(table) for kind, table in tables_by_kind(mixed).items()}
    assert "boxes scored 0.5 or more" in texts["detection"]
    assert "centres at most 12 px apart" in texts["detection"]
    assert "summed, ignored px left out" in texts["segmentation"]
    assert "lower is better" in texts["classification"]
    assert "(↓: the lowest is best)" in texts["classification"]
    assert "↓" not in texts["detection"]


def test_single_classes_are_shown_when_asked_for(mixed):
    tables = tables_by_kind(mixed, per_class=True)
    assert tables["segmentation"].metrics[-3:] == ["iou_tumour", "iou_stroma", "iou_fat"]
    assert tables["detection"].metrics[-2:] == ["ap_tumour", "ap_lymphocyte"]
    assert tables["classification"].metrics == list(METRICS["classification"])
    assert "FCN IoU stroma" in markdown(tables["segmentation"])


def test_a_metric_orders_the_tables_that_have_it(mixed):
    tables = tables_by_kind(mixed, metric="ap50")
    assert tables["detection"].metrics[0] == "ap50"
    assert tables["segmentation"].metrics[0] == "miou"
    assert tables_by_kind(mixed, metric="iou_fat")["segmentation"].metrics == ["iou_fat", *METRICS["segmentation"]]
    for unknown in ("iou_bone", "dice", "ap_"):
        with pytest.raises(UserError, match=r"balanced_accuracy.*ap50.*miou"):
            tables_by_kind(mixed, metric=unknown)


def test_a_metric_of_an_absent_kind_is_refused(tmp_path, whole_row):
    whole_row("npid", 0.7, engines=("knn",))
    with pytest.raises(UserError, match="metric=miou is of none of these records"):
        tables_by_kind(tmp_path / "records", metric="miou")


def test_command_writes_every_kind_in_every_form(mixed, tmp_path, capsys):
    assert main(["table", f"records={mixed}", f"out={tmp_path / 'out'}", "replicates=100", "per_class=true"]) == 0
    assert len(list((tmp_path / "out").iterdir())) == 9
    printed = capsys.readouterr().out
    assert printed.startswith("# detection")
    assert "index created" not in printed
    rows = list(csv.DictReader((tmp_path / "out" / "detection.csv").read_text().splitlines()))
    assert {(row["kind"], row["images"], row["weights_loaded"]) for row in rows} == {("detection", "10", "1")}
    assert len(rows) == 3 * 7
    rows = list(csv.DictReader((tmp_path / "out" / "segmentation.csv").read_text().splitlines()))
    assert {row["regions"] for row in rows} == {"8"}
    text = (tmp_path / "out" / "rehearsal.tex").read_text()
    assert r"$\downarrow$" in text
    assert r"F1 (IoU 0.5)" in (tmp_path / "out" / "detection.tex").read_text()


def test_lower_is_better_for_the_calibration_error(mixed):
    table = tables_by_kind(mixed, metric="calibration_error")["classification"]
    cells = {row.name: row.cells["knn", "calibration_error"] for row in table.rows}
    means = {name: cell.estimate.mean() for name, cell in cells.items()}
    assert [row.name for row in table.rows if not row.floor] == sorted(["sgcl", "npid"], key=means.get)
    best = min(means, key=means.get)
    assert cells[best].tied
    worst = max(means, key=means.get)
    assert not cells[worst].tied
    for name in ("sgcl", "npid"):
        if means[name] > means["random"]:
            assert cells[name].inside_floor


def sure(share_right):
    """A trial that is always 90 % sure and right as often as told."""
    label = np.zeros(200, dtype=np.int32)
    predicted = (np.arange(200) >= share_right * 200).astype(np.int32)
    scores = np.where(np.eye(2)[predicted] == 1, 0.9, 0.1)
    slides = (np.arange(200) % 20).astype(str)
    return Trial(0, slides, np.arange(200).astype(str), Predictions(label, predicted, scores, ("a", "b")))


def test_direction_turns_best_ties_and_floor():
    rows = {name: [sure(right)] for name, right in (("honest", 0.9), ("boastful", 0.5))}
    found = bootstrap(rows, ["calibration_error", "accuracy"], 200)
    error = {name: found[name, "calibration_error"] for name in rows}
    assert error["honest"].mean() == pytest.approx(0)
    assert error["boastful"].mean() == pytest.approx(0.4)
    assert best_of(error) == "honest"
    assert tied_with_best(error) == {"honest"}
    assert inside_floor(error["boastful"], error["honest"])
    assert not inside_floor(error["honest"], error["boastful"])


def test_partly_loaded_encoders_say_so(tmp_path, cell):
    cell("old", trial=0, encoder__coverage={"share": 1.0})
    cell("old", trial=1, encoder__coverage={"share": 0.7519, "missing": 25})
    cell("nearly", encoder__coverage={"share": 0.99999})
    cell("plain", encoder__coverage=None)
    (table,) = build_tables(read_records(tmp_path / "records"), 100)
    text = markdown(table)
    assert "| old, seed 0 (75.1 % loaded) |" in text
    assert "- old: only 75.1 % of the encoder's weights found their place" in text
    assert "| nearly, seed 0 (99.9 % loaded) |" in text
    assert "| plain, seed 0 |" in text
    assert r"old, seed 0 (75.1 \% loaded)" in latex(table)
    rows = {row["encoder"]: row["weights_loaded"] for row in csv.DictReader(long_csv(table).splitlines())}
    assert rows == {"old": "0.7519", "nearly": "0.99999", "plain": "1"}


def test_scale_mismatch_of_the_coverage_is_a_note(tmp_path, cell):
    cell("old", encoder__coverage={"share": 1.0, "scale_mismatch": {"tiles": 64}})
    sides = {"tiles": {"px": 96, "mpp": 0.25}, "encoder": {"px": 32, "mpp": 0.5}}
    cell("new", encoder__coverage={"share": 1.0, "scale_mismatch": sides})
    text = markdown(build_tables(read_records(tmp_path / "records"), 100)[0])
    assert '- old: scale mismatch, {"tiles": 64}.' in text
    assert "- new: scale mismatch, scored on 96 px at 0.25 um/px, trained on 32 px at 0.5 um/px." in text


def test_records_of_schema_1_are_read_as_classification(tmp_path, cell, units_of):
    path = cell("old", trials=1)
    data = json.loads(path.read_text())
    data["schema"] = 1
    del data["task"]["kind"]
    data["encoder"]["coverage"] = 0.5
    data["metrics"] = data["metrics"][:3]
    path.write_text(json.dumps(data))
    (record,) = read_records(tmp_path / "records")
    assert (record.kind, record.loaded) == ("classification", 0.5)
    assert record.units().equals(canonical_units(units_of(folds=1), "here"))
    (table,) = build_tables([record], 100)
    assert table.metrics == list(METRICS["classification"])
    data["task"]["kind"] = "detection"
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match=r"task\.kind"):
        read_records(tmp_path / "records")
    del data["task"]["kind"]
    path.write_text(json.dumps({**data, "schema": 2}))
    with pytest.raises(UserError, match=r"'kind' is a required property|coverage"):
        read_records(tmp_path / "records")


def test_a_wide_latex_table_is_cut_between_engines(tmp_path, cell):
    for engine in ("knn", "linear", "finetune"):
        cell("sgcl", engine=engine)
    text = latex(build_tables(read_records(tmp_path / "records"), 100)[0])
    first, second = text.split(r"\begin{tabular}")[1:]
    assert first.count(r"\shortstack{kNN\\{}") == 5
    assert "finetune" not in first
    assert second.count(r"\shortstack{finetune\\{}") == 5
    assert text.count(r"\end{tabular}") == 2
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 1


def test_crashed_dense_cells_are_named(tmp_path, record_of, mixed):
    record = record_of("late", engine="fcn", task__name="segmentation", task__kind="segmentation", engine__settings={})
    write_record(mixed, record, None)
    text = markdown(tables_by_kind(mixed)["segmentation"])
    assert "| late, seed 0 | unknown | crashed | crashed | crashed |" in text
    assert "- crashed: late, fcn, trial 0: RuntimeError: out of memory" in text


def test_only_crashes_of_detection_still_make_a_table(tmp_path, record_of):
    write_record(tmp_path, record_of(task__kind="detection"), None)
    (table,) = build_tables(read_records(tmp_path), 100, per_class=True)
    assert "0 images" in markdown(table)


def test_one_task_of_two_kinds_is_refused(tmp_path, record_of):
    units = make_pixels()
    write_record(tmp_path, record_of("a", units=units, task__kind="segmentation"), units)
    write_record(tmp_path, record_of("b", task__kind="detection"), None)
    with pytest.raises(UserError, match=r"of detection and .* of segmentation"):
        build_tables(read_records(tmp_path), 100)


@pytest.mark.parametrize("kind", ["segmentation", "detection"])
def test_metrics_that_the_units_do_not_give_are_refused(mixed, kind):
    make, name = (make_pixels, "miou") if kind == "segmentation" else (make_boxes, "ap")
    (path,) = mixed.glob(f"{kind}-*-sgcl-t1-*.parquet")
    pq.write_table(canonical_units(make(0.1), "x"), path)
    with pytest.raises(UserError, match=f"field metrics says {name} ="):
        tables_by_kind(mixed)


def trial_of(units):
    units = canonical_units(units, "here")
    return Trial.of(0, units)


def test_units_that_disagree_on_the_truth_are_refused():
    other = boxes_table([{"a": ([(0, 0, 9, 9, 0)], [])}])
    for first, second, noun in (
        (make_pixels(), make_pixels().slice(1).append_column("x", make_pixels().slice(1)["unit"]), "regions"),
        (boxes_table([{"a": ([(0, 0, 9, 9, 1)], [])}]), other, "images"),
        (boxes_table([{"a": ([(0, 0, 9, 9, 0)], [])}], {"match_px": "7"}), other, "images"),
        (boxes_table([{"b": ([(0, 0, 9, 9, 0)], [])}], classes=("b",)), other, "images"),
    ):
        if noun == "regions":
            values = second["pixels_fat"].to_pylist()
            values[0][0] += 1
            second = second.drop_columns(["x"])
            place = second.column_names.index("pixels_fat")
            second = second.set_column(place, "pixels_fat", [values])
        with pytest.raises(UserError, match=f"other labels or classes to {noun}"):
            bootstrap({"a": [trial_of(first)], "b": [trial_of(second)]}, [], 100)


def test_another_order_or_threshold_of_the_same_images_is_no_disagreement():
    units = make_boxes()
    turned = units.take(list(range(len(units)))[::-1]).replace_schema_metadata({"score_threshold": "0.2"})
    found = bootstrap({"a": [trial_of(units)], "b": [trial_of(turned)]}, ["ap", "f1_iou50"], 100)
    assert found["a", "ap"].mean() == pytest.approx(found["b", "ap"].mean())
    assert found["a", "ap"].replicates == pytest.approx(found["b", "ap"].replicates)
    assert found["a", "f1_iou50"].mean() != found["b", "f1_iou50"].mean()


@pytest.mark.parametrize(("make", "answers", "metric"), [(make_pixels, Pixels, "miou"), (make_boxes, Boxes, "ap50")])
def test_the_bootstrap_scores_every_draw(make, answers, metric, monkeypatch):
    units = canonical_units(make(0.6), "here")
    rows = {"a": [Trial.of(0, units)]}
    whole = bootstrap(rows, [metric], 100, seed=3)["a", metric]
    monkeypatch.setattr(statistics, "CHUNK_CELLS", 70)
    assert bootstrap(rows, [metric], 100, seed=3)["a", metric].replicates == pytest.approx(whole.replicates)
    low, high = whole.interval()
    assert low < whole.mean() < high
    assert (whole.slides, whole.tiles) == (len(set(units["cluster"].to_pylist())), len(units))
    assert whole.mean() == METRICS[answers.kind][metric](answers.of(units))
