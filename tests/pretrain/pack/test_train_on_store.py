"""Every method meets a packed store through the command: it trains, with its spatial terms off, or says why it cannot."""

import json
import shutil
import subprocess
import sys

import pytest
import yaml

from pretrain import __main__ as pretrain
from pretrain.config import load
from pretrain.methods import METHODS, find
from pretrain.stores import with_store, without_coordinates
from pretrain.tiles import TileStore
from results.errors import UserError

TINY = [
    "views.size=32",
    "views.local_size=16",
    "train.epochs=1",
    "train.batch_size=16",
    "device=cpu",
    "train.log_every=1",
]


def train(store, work, method, *more):
    return pretrain.main([f"store={store}", f"work={work}", f"method={method}", *TINY, *more])


def only_run(work):
    (run,) = (work / "runs").iterdir()
    return run


@pytest.mark.slow
@pytest.mark.parametrize("method", ["npid", "sgcl", "simclr", "relative_loc", "moco_v2"])
def test_methods_pretrain_on_packed_images(packed, tmp_path, method, capsys):
    assert train(packed, tmp_path, method) == 0
    said = capsys.readouterr()
    run = only_run(tmp_path)
    assert run.name.startswith(f"{method}-images-")
    card = json.loads((run / "export" / "card.json").read_text())
    assert (card["finished"], card["data"]["tiles"], card["data"]["slides"]) == (True, 96, None)
    assert (card["input"]["tile"], card["input"]["mpp"]) == (32, 0.5)
    assert ("have no coordinates, so spatial terms are off: sgcl.spatial=false" in said.err) == (method == "sgcl")
    settings = yaml.safe_load((run / "config.yaml").read_text())
    if method == "sgcl":
        assert settings["sgcl"]["spatial"] is False
        curve = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert {line["spatial_positives"] for line in curve if "loss" in line} == {0}


@pytest.mark.slow
def test_the_same_command_again_and_its_single_steps_do_no_work(packed, tmp_path, capsys):
    assert train(packed, tmp_path, "sgcl") == 0
    before = only_run(tmp_path)
    capsys.readouterr()
    assert train(packed, tmp_path, "sgcl") == 0
    assert "is trained already" in capsys.readouterr().out
    assert pretrain.main(["export", f"store={packed}", f"work={tmp_path}", "method=sgcl", *TINY]) == 0
    assert only_run(tmp_path) == before


@pytest.mark.slow
def test_two_processes_and_an_audit_on_a_store_of_unknown_scale(packed, tmp_path):
    source = json.loads((packed / "store.json").read_text())["root"]
    assert pretrain.main(["pack", source, str(tmp_path / "unknown"), "workers=0"]) == 0
    line = [sys.executable, "-m", "pretrain", f"store={tmp_path / 'unknown'}", f"work={tmp_path}", "method=sgcl", *TINY]
    done = subprocess.run([*line, "train.processes=2"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    run = only_run(tmp_path)
    assert json.loads((run / "export" / "card.json").read_text())["input"]["mpp"] is None
    assert "unknown um/px" in (run / "SUMMARY.md").read_text()
    assert pretrain.main(["audit", f"run={run}", "anchors=8"]) == 0
    assert "unknown um/px" in (run / "audit" / "report.html").read_text()


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_knows_what_to_do_without_coordinates(packed, method):
    config = with_store(load([f"store={packed}", f"method={method}"]))
    store = TileStore(packed)
    if method == "sslp":
        with pytest.raises(UserError, match="needs places on a slide"):
            without_coordinates(config, store)
        return
    found = without_coordinates(config, store, tell=False)
    assert set(find(method).without_coordinates()) == ({"spatial"} if method == "sgcl" else set())
    assert found[method].get("spatial", False) is False


def test_a_spatial_method_alone_is_refused(packed, tmp_path, capsys):
    off = ["sgcl.semantic=false", "sgcl.inner=false", "sgcl.discrimination=false"]
    assert train(packed, tmp_path, "sgcl", *off) == 2
    assert "nothing is left to learn from" in capsys.readouterr().err
    assert train(packed, tmp_path, "sslp") == 2
    assert "method=sslp needs places on a slide" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_settings_that_would_make_other_tiles_are_refused(packed, tmp_path, capsys):
    for more in ("tile=64", "cohort=rehearsal", "tiling.quality=80", "manifest=x.parquet", "mpp=1"):
        assert train(packed, tmp_path, "npid", more) == 2
        error = capsys.readouterr().err
        assert f"leave out {more.partition('=')[0]}=" in error or "manifest x.parquet is not there" in error
    assert pretrain.main(["tile", f"store={packed}"]) == 2
    assert "nothing to tile" in capsys.readouterr().err
    assert pretrain.main([f"store={tmp_path / 'no'}"]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert pretrain.main(["mpp=null", f"work={tmp_path}"]) == 2
    assert "mpp=null does not fit" in capsys.readouterr().err


def test_a_store_that_moved_is_the_same_data(packed, tmp_path):
    from pretrain.config import settings_digest

    shutil.copytree(packed, tmp_path / "moved")
    digests = {
        settings_digest(with_store(load([f"store={p}"])), TileStore(p).digest) for p in (packed, tmp_path / "moved")
    }
    assert len(digests) == 1
