"""`python -m pretrain audit` on real run folders, sound ones and others."""

import base64
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from audit_pages import Tags
from omegaconf import OmegaConf
from PIL import Image

from pretrain import loop
from pretrain.__main__ import main
from pretrain.audit import page, report
from pretrain.cohorts import open_cohort
from pretrain.config import load
from pretrain.distributed import World
from pretrain.methods.sgcl import SGCLOptions
from pretrain.runs import open_run
from pretrain.tiling import Tiling
from pretrain.tiling.run import tile_cohort


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Work folder with a labelled toy cohort of 60 tiles on 3 slides and a run of two epochs."""
    torch.set_num_threads(1)
    work = tmp_path_factory.mktemp("audited")
    root = work / "skin"
    root.mkdir()
    for i in range(3):
        image = np.array((225, 150, 190)) + np.random.default_rng(i).integers(-20, 20, size=(320, 256, 3))
        options = {"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER", "compression": "zlib", "metadata": None}
        tifffile.imwrite(root / f"s{i}.tif", image.astype(np.uint8), tile=(64, 64), photometric="rgb", **options)
    mask = np.ones((80, 64), np.uint8)
    mask[:, 32:] = 2
    Image.fromarray(mask).save(root / "m.png")
    rows = "".join(f"s{i},s{i}.tif,p{i},h{i % 2},m.png\n" for i in range(3))
    (root / "cohort.csv").write_text(f"slide,path,patient,hospital,mask\n{rows}")
    (root / "labels.csv").write_text("code,label,kind\n0,,background\n1,tumor,tissue\n2,stroma,tissue\n")
    (root / "cohort.yaml").write_text("rehearsal: true\n")
    store = tile_cohort(open_cohort(root), Tiling(tile=64), work, workers=0, progress=False)
    config = load([
        f"work={work}", f"cohort={root}", "tile=64", "run=toy", "method=sgcl", "device=cpu", "views.size=32", "views.local_size=16",
        "train.batch_size=16", "train.epochs=2", "sgcl.dimension=16", "sgcl.radius=2",
    ])  # fmt: skip
    loop.train(config, store, open_run(config, store, 1), World())
    return work


@pytest.fixture
def work(trained, tmp_path) -> Path:
    """A copy that a test may spoil; its run still points at the first store."""
    return Path(shutil.copytree(trained, tmp_path / "work", symlinks=True))


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.slow
def test_the_command_leaves_a_page_that_holds_together(work, capsys):
    assert main(["audit", "run=toy", f"work={work}", "anchors=30"]) == 0
    lines = capsys.readouterr().out.splitlines()
    run = work / "runs" / "toy"
    assert len(lines) <= 10
    assert "rehearsal" in lines[1]
    assert str(run / "audit" / "report.html") in lines[0]
    assert sorted(files(run / "audit")) == ["audit.json", "report.html"]
    found = json.loads((run / "audit" / "audit.json").read_text(encoding="utf-8"))
    assert (found["schema"], found["epoch"], found["anchors"], found["rehearsal"]) == (1, 2, 30, True)
    text = (run / "audit" / "report.html").read_text(encoding="utf-8")
    tags = Tags(text)
    assert tags.open == []
    assert tags.all("script") == tags.all("link") == []
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:)|url\(|@import""", text)
    for image in tags.all("img"):
        with Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2]))) as picture:
            assert picture.format == "JPEG"
            assert picture.size == (64, 64)
    assert "Rehearsal" in text
    shown = {entry["tile"] for entry in found["gallery"]}
    shown |= {m["tile"] for entry in found["gallery"] for s in entry["sets"].values() for m in s["shown"]}
    store = report.open_store(report.find("toy", work))
    assert (
        page.render(found, {tile: report.picture(store.read(tile)) for tile in shown}) == text
    )  # nothing but the JSON
    first = files(run / "audit")
    assert main(["audit", f"run={run}", "anchors=30"]) == 0
    assert files(run / "audit") == first
    assert not list(work.rglob(".*.tmp*"))


@pytest.mark.slow
def test_a_run_of_an_older_version_takes_the_new_defaults(work):
    path = work / "runs" / "toy" / "config.yaml"
    config = OmegaConf.load(path)
    del config.views["flip"], config.sgcl["tau"], config.train["clip"]
    OmegaConf.save(config, path)
    run = report.find("toy", work)
    _, found = report.audit(run, 20)
    assert found["options"]["tau"] == SGCLOptions().tau


@pytest.mark.slow
def test_a_moved_store_is_found_where_it_is_said_to_be(work, trained, tmp_path, capsys):
    run = work / "runs" / "toy"
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(info | {"store": str(tmp_path / "gone")}))
    before = files(run)
    assert main(["audit", f"run={run}"]) == 2
    assert str(tmp_path / "gone") in capsys.readouterr().err
    assert files(run) == before
    assert main(["audit", f"run={run}", f"store={info['store']}", "anchors=10"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "audit needs run="),
        (["run=none"], "run=none is neither"),
        (["run=toy", "anchors=0"], "anchors=0 is too small"),
        (["run=toy", "anchor=5"], "did you mean 'anchors'"),
        (["run=toy", "anchors=many"], "a whole number is expected"),
    ],
)
def test_mistakes_of_the_command_are_one_sentence(trained, capsys, arguments, sentence):
    before = {str(path) for path in trained.rglob("*")}
    assert main(["audit", f"work={trained}", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert sentence in line
    assert {str(path) for path in trained.rglob("*")} == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda run: shutil.rmtree(run / "checkpoints"), "has no checkpoint yet"),
        (lambda run: (run / "checkpoints" / "last").resolve().write_bytes(b"no"), "is damaged"),
        (lambda run: (run / "run.json").write_text("{"), "is damaged"),
        (lambda run: other_settings(run, "sgcl.dimension", 9), "does not fit this version"),
        (lambda run: other_settings(run, "sgcl.unheard", 9), "config.yaml does not fit this version"),
        (lambda run: changed(run, "backbone: resnet18", "backbone: zz"), "config.yaml does not fit this version"),
        (lambda run: changed(run, "seed: 0", "seed: abc"), "config.yaml does not fit this version"),
        (lambda run: (run / "config.yaml").write_text("seed: 1\n"), "config.yaml does not fit this version"),
        (lambda run: other_info(run, "store", None), "run.json is damaged"),
        (lambda run: other_info(run, "store_digest", 5), "run.json is damaged"),
        (lambda run: other_labels(run), "checkpoints/last does not fit this version"),
        (lambda run: (run / "audit").write_text("mine"), "audit"),
        (lambda run: other_digest(run), "is not the tile store that toy was trained on"),
    ],
)
def test_runs_that_cannot_be_audited_say_why_and_keep_their_files(work, capsys, spoil, sentence):
    run = work / "runs" / "toy"
    spoil(run)
    before = files(run)
    assert main(["audit", "run=toy", f"work={work}"]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert sentence in errors[0]
    assert files(run) == before


def other_settings(run: Path, name: str, value: int) -> None:
    config = OmegaConf.load(run / "config.yaml")
    OmegaConf.update(config, name, value)
    OmegaConf.save(config, run / "config.yaml")


def other_info(run: Path, name: str, value: object) -> None:
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(info | {name: value}))


def other_digest(run: Path) -> None:
    other_info(run, "store_digest", "f" * 64)


def changed(run: Path, old: str, new: str) -> None:
    text = (run / "config.yaml").read_text()
    assert old in text
    (run / "config.yaml").write_text(text.replace(old, new))


def other_labels(run: Path) -> None:
    path = (run / "checkpoints" / "last").resolve()
    content = torch.load(path, weights_only=True)
    content["memory"]["labels"] = content["memory"]["labels"][:, :3]
    torch.save(content, path)


@pytest.mark.slow
def test_a_failed_audit_leaves_the_older_one(work, monkeypatch):
    run = report.find("toy", work)
    report.audit(run, 10)
    before = files(run.root / "audit")

    def broken(*_):
        raise OSError(28, "No space left on device", "report.html")

    monkeypatch.setattr(page, "render", broken)
    with pytest.raises(OSError, match="No space left"):
        report.audit(run, 20)
    assert files(run.root / "audit") == before
    assert not list(run.root.rglob("*.tmp*"))
