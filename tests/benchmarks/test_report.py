"""The comparison of variants: from records and audits on disk to a page."""

import json

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.report import report
from benchmarks.suite import load_suite, plans, run_name
from results.errors import UserError
from results.files import write_json
from results.metrics import score_units
from results.record import write_record


def units(fold, right, seed):
    """Four slides of 25 tiles a fold; a tile is right when its difficulty lies below `right`."""
    world, own = np.random.default_rng(fold), np.random.default_rng([seed, fold, int(100 * right)])
    label = world.integers(2, size=100)
    hit = world.random(100) + own.normal(0, 0.02, 100) < right
    predicted = np.where(hit, label, 1 - label).astype("i4")
    scores = np.eye(2, dtype="f4")[predicted]
    return pa.table(
        {
            "unit": np.arange(100) + 1000 * fold,
            "cluster": [f"s{fold}{k // 25}" for k in range(100)],
            "label": label.astype("i4"),
            "predicted": predicted,
            "score_a": scores[:, 0],
            "score_b": scores[:, 1],
        }
    )


@pytest.fixture
def suite(tmp_path):
    """Two variants on two seeds, `worse` a good deal worse; returns the suite's file."""
    path = tmp_path / "parts.yaml"
    path.write_text(
        f"seeds: [0, 1]\ntask: toy\nbase: whole\nwork: {tmp_path}\nrecords: {tmp_path / 'records'}\ntables: {tmp_path}\n"
        "variants: {whole: {}, worse: {sgcl.radius: 9}, same: {sgcl.radius: 4}}\n"
    )
    name, suite = load_suite(str(path), [])
    for plan, own in plans(suite).items():
        for seed in suite.seeds:
            run = tmp_path / "runs" / run_name(name, suite, plan, own, seed)
            digest = f"{plan}-{seed}"
            write_json(run / "export" / "card.json", {"digest": digest})
            label = {"all": {"share": 0.25 + 0.5 * seed}}
            sets = {"spatial": {"label": label}, "semantic": {"label": label, "size": {"mean": 7.0}}}
            found = {"sets": None if plan == "same" else sets}  # a method without positive sets
            write_json(run / "audit" / "audit.json", found)
            for fold in range(2):
                own_units = units(fold, 0.5 if plan == "worse" else 0.8, seed)
                write_record(tmp_path / "records", record(plan, digest, seed, fold, own_units), own_units)
    return path


def record(plan, digest, seed, fold, own_units):
    return {
        "status": "ok",
        "error": None,
        "task": {
            "name": "toy-tiles",
            "version": 1,
            "kind": "classification",
            "split_digest": "5" * 64,
            "store_digest": "6" * 64,
            "rehearsal": True,
        },
        "encoder": {
            "name": plan,
            "kind": "run",
            "digest": digest,
            "coverage": None,
            "method": "sgcl",
            "seed": seed,
            "card": {"digest": digest},
        },
        "engine": {"name": "knn", "settings": {}},
        "seed": 0,
        "trial": fold,
        "trials": 2,
        "metrics": score_units(own_units),
        "wall_seconds": 1.0,
        "device_hours": 0.0,
        "hardware": {},
        "versions": {},
        "git_revision": "abc",
        "contamination": "unknown",
        "created": "2026-01-01T00:00:00+00:00",
    }


def rows_of(path):
    lines = [line for line in path.read_text().splitlines() if line.startswith("| ")]
    table = [[cell.strip() for cell in line.replace("\\|", "¦").strip("| ").split("|")] for line in lines]
    return {row[0]: dict(zip(table[0], row, strict=True)) for row in table[2:]}


def test_variants_are_held_against_the_base_on_the_same_tiles(suite):
    rows = rows_of(report(str(suite), []))
    assert list(rows) == ["whole", "worse", "same"]
    assert rows["whole"]["knn minus whole"] == ""
    assert rows["worse"]["knn minus whole"].startswith("**-0.")
    assert rows["worse"]["over seeds"].count("-0.") == 2
    assert rows["same"]["over seeds"] == "[+0.000, +0.000]"
    assert not rows["same"]["knn minus whole"].startswith("**")
    assert all(value.startswith("-0.") for value in rows["worse"]["by seed"].split())
    assert len(rows["worse"]["by seed"].split()) == 2
    assert [rows["worse"][f"{kind} purity"] for kind in ("spatial", "semantic", "mined")] == ["0.500", "0.500", "-"]
    assert rows["whole"]["¦S¦"] == "7.0"


def test_one_seed_says_nothing_over_seeds_and_nothing_is_bold(suite):
    rows = rows_of(report(str(suite), ["seeds=[0]"]))
    assert rows["worse"]["over seeds"] == "-"
    assert rows["worse"]["knn minus whole"].startswith("-0.")


def test_a_difference_that_another_seed_may_undo_is_not_bold(suite, tmp_path):
    for path in (tmp_path / "records").glob("*worse*.json"):
        record = json.loads(path.read_text())
        if record["encoder"]["seed"] == 1:
            kept = units(record["trial"], 0.79, 1)
            write_record(tmp_path / "records", {**record, "metrics": score_units(kept), "units": None}, kept)
    cell = rows_of(report(str(suite), []))["worse"]
    slides = [float(value) for value in cell["knn minus whole"].split("[")[1].rstrip("]*").split(",")]
    assert slides[1] < 0
    assert not cell["knn minus whole"].startswith("**")


def test_a_run_without_records_is_named(suite, tmp_path):
    for path in (tmp_path / "records").glob("*same*"):
        path.unlink()
    with pytest.raises(UserError, match=r"2 runs of parts are not scored yet, such as parts-same-s0-"):
        report(str(suite), [])


def test_a_suite_without_a_base_has_nothing_to_compare():
    with pytest.raises(UserError, match="suite demo names no base to compare with: give base=ROW, one of npid, sgcl"):
        report("demo", [])
