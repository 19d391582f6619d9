"""Exports of runs whose files, or whose tile store, are no longer what they were."""

import json
import os
import subprocess
import sys

import pytest

from pretrain.__main__ import main

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A work folder with one trained run, `one`, that is not exported yet."""
    folder = tmp_path_factory.mktemp("work")
    settings = ["recipe=smoke", "method=npid", "backbone=resnet18_quarter", "train.epochs=1", f"work={folder}"]
    for words in (["tile"], ["train", "run=one"]):
        command = [sys.executable, "-m", "pretrain", *words, *settings]
        subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return folder


@pytest.fixture
def restored(work):
    files = [work / "runs" / "one" / name for name in ("run.json", "config.yaml")]
    before = [path.read_bytes() for path in files]
    yield work
    for path, content in zip(files, before, strict=True):
        path.write_bytes(content)
    for path in (work / "runs" / "one").glob("export/*"):
        path.unlink()


def test_a_card_does_not_name_slides_of_another_store_as_seen(restored, capsys):
    path = restored / "runs" / "one" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"store_digest": "0" * 64}))
    assert main(["export", "run=one", f"work={restored}"]) == 0
    assert "holds other tiles than one was trained on" in capsys.readouterr().err
    data = json.loads((path.parent / "export" / "card.json").read_text())["data"]
    assert data["seen"] is data["tiles"] is data["slides"] is data["decoder"] is None
    assert data["rehearsal"] is True
    assert "unknown tiles of unknown slides" in (path.parent / "SUMMARY.md").read_text()


def test_a_card_names_the_slides_that_were_seen(restored, capsys):
    assert main(["export", "run=one", f"work={restored}"]) == 0
    assert not capsys.readouterr().err
    data = json.loads((restored / "runs" / "one" / "export" / "card.json").read_text())["data"]
    assert len(data["seen"]["slides"]) == data["slides"] == 3


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("config.yaml", lambda text: "", "does not say what a run's must"),
        ("config.yaml", lambda text: text.replace("method: npid", "method: foo"), "does not say what a run's must"),
        ("config.yaml", lambda text: text.partition("npid:")[0], "config.yaml"),
        ("run.json", lambda text: json.dumps(json.loads(text) | {"resolved": []}), "run.json is damaged"),
        ("run.json", lambda text: json.dumps(json.loads(text) | {"label": 5}), "run.json is damaged"),
    ],
)
def test_files_that_were_spoilt_are_named_and_nothing_is_exported(restored, capsys, file, change, words):
    path = restored / "runs" / "one" / file
    path.write_text(change(path.read_text()))
    assert main(["export", "run=one", f"work={restored}"]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert not list(path.parent.glob("export/*"))
