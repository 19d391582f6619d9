"""`transfer detect` from folder to records."""

import json

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("detectron2")]


def test_the_command_accounts_for_the_data_and_stops_there(nucls_task, tmp_path, capsys):
    from transfer.detect import detect, load

    root = nucls_task.images[0].path.parents[1]
    words = [
        f"task.root={root}",
        "check=true",
        "task.classes=one",
        f"work={tmp_path}",
        f"records={tmp_path / 'records'}",
    ]
    assert detect(load([*words, "encoder=random"])) == 0
    out = capsys.readouterr().out
    assert "6 images in rgb; 36 rows" in out
    assert "trial 3: " in out
    assert out.splitlines()[-1] == "3 cells: 3 to run"
    assert not list(tmp_path.iterdir())


def test_the_command_writes_one_record_a_cell_and_runs_none_twice(nucls_task, tmp_path, capsys):
    from transfer.detect import detect, load

    root = nucls_task.images[0].path.parents[1]
    arguments = [
        "encoder=random", "floors=false", f"task.root={root}", f"work={tmp_path}", f"records={tmp_path / 'records'}", "trials=2",
        "options={iterations: 1, crop: 64, precise_bn: 0}", "device=cpu",
    ]  # fmt: skip
    assert detect(load(arguments)) == 0
    records = [json.loads(path.read_text()) for path in sorted((tmp_path / "records").glob("*.json"))]
    assert len(records) == 2
    assert {record["task"]["kind"] for record in records} == {"detection"}
    assert all("0.6" in record["engine"]["settings"]["detectron2"] for record in records)
    said = capsys.readouterr().out
    assert said.count("  iteration 1 of 1, loss ") == 2
    assert said.count("  predicting 2 validation and 2 test images") == 2
    fewer = [argument.replace("trials=2", "trials=1") for argument in arguments]
    assert detect(load(fewer)) == 0
    assert "1 already there" in capsys.readouterr().out
    assert detect(load(arguments)) == 0
    assert "2 already there" in capsys.readouterr().out
