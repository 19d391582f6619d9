"""`python -m transfer export`: the bundle, its proof, and what is refused."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from results.files import file_digest
from transfer import bundle
from transfer.__main__ import main
from transfer.dialects import detectron2, mmseg, timm, torchvision
from transfer.encoders import EncoderOptions, open_encoder

ROOT = Path(__file__).parents[2]
LIGHT = "formats=[torchvision,timm]"


def export(out, *words):
    return main(["export", f"out={out}", *words])


def card_of(out):
    return json.loads((out / "card.json").read_text())


def refusal(capsys):
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]


def test_a_runs_export_becomes_a_bundle(run, tmp_path, capsys):
    out = tmp_path / "bundle"
    assert export(out, f"encoder={run}", LIGHT) == 0
    shown = capsys.readouterr().out
    assert "torchvision  largest difference" in shown
    card, source = card_of(out), json.loads((run / "export/card.json").read_text())
    assert {p.name for p in out.iterdir()} == {"torchvision.safetensors", "timm.safetensors", "card.json", "USE.md"}
    assert card["data"] == source["data"]
    assert card["source"]["digest"]
    assert card["backbone"] == "resnet18"
    assert card["licence"]
    for name, entry in card["bundle"]["files"].items():
        assert entry["digest"] == file_digest(out / name)
    for proof in card["bundle"]["proof"]["formats"].values():
        assert set(proof["stages"]) == {"layer1", "layer2", "layer3", "layer4"}
        assert proof["largest"] <= 1e-5
    assert card["input"]["libraries"]["timm"]["mean"] == source["input"]["mean"]
    assert "synthetic rehearsal slides" in (out / "USE.md").read_text()
    assert "checkpoint_path" in (out / "USE.md").read_text()


def test_a_bundle_is_an_encoder(run, tmp_path):
    """Its file under our own names opens by the bundle's card and gives the features of the source."""
    assert export(tmp_path / "bundle", f"encoder={run}", LIGHT) == 0
    tiles = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    options = EncoderOptions(device="cpu")
    one = open_encoder(str(run), options)
    two = open_encoder(str(tmp_path / "bundle" / "torchvision.safetensors"), options)
    assert np.array_equal(one.features(tiles), two.features(tiles))


def test_the_same_export_twice_has_the_same_bytes(run, tmp_path):
    for name in ("a", "b"):
        assert export(tmp_path / name, f"encoder={run}", LIGHT) == 0
    files = [card_of(tmp_path / name)["bundle"]["files"] for name in ("a", "b")]
    assert files[0] == files[1]


def test_a_transformer_goes_to_torchvision_and_timm(tmp_path, capsys):
    out = tmp_path / "vit"
    assert export(out, "encoder=random", "backbone=vit_small") == 0
    assert "detectron2   left out" in capsys.readouterr().out
    card = card_of(out)
    assert set(card["bundle"]["left_out"]) == {"detectron2", "mmseg"}
    proofs = card["bundle"]["proof"]["formats"]
    assert set(proofs) == {"torchvision", "timm"}
    assert proofs["torchvision"]["stages"]["tokens"] <= 1e-5
    assert card["digest"] == card["bundle"]["files"]["timm.safetensors"]["digest"]
    assert "encoder.layers.encoder_layer_11.self_attention.in_proj_weight" in load_file(out / "torchvision.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_all_four_compute_the_same(backbone, tmp_path):
    for library in ("detectron2", "mmseg"):
        pytest.importorskip(library, reason=f"{library} is not installed here") if library == "mmseg" else _detectron2()
    out = tmp_path / "bundle"
    assert export(out, "encoder=random", f"backbone={backbone}") == 0
    card = card_of(out)
    proofs = card["bundle"]["proof"]["formats"]
    assert set(proofs) == {"torchvision", "timm", "detectron2", "mmseg"}
    stages = {f"layer{i}" for i in range(1, 5)}
    for name, proof in proofs.items():
        c4 = {f"c4 {stage}" for stage in stages} if (name, backbone) == ("detectron2", "resnet50") else set()
        assert set(proof["stages"]) == stages | c4
        assert proof["largest"] <= 1e-5
    content = pickle.loads((out / "detectron2.pkl").read_bytes())
    assert content["matching_heuristics"] is True
    tensors = load_file(out / "detectron2.safetensors")
    assert set(content["model"]) == set(tensors)
    assert all(np.array_equal(content["model"][name], value.numpy()) for name, value in tensors.items())
    saved = torch.load(out / "mmseg.pth", weights_only=True)["state_dict"]
    assert all(torch.equal(saved[name], value) for name, value in load_file(out / "mmseg.safetensors").items())
    assert "0.6" in proofs["detectron2"]["library"]


def _detectron2():
    from transfer.engines.detectron2.compat import prepare

    pytest.importorskip("detectron2", reason="Detectron2 is not installed here")
    prepare()


@pytest.mark.slow
def test_a_wrong_stride_does_not_pass(tmp_path, capsys, monkeypatch):
    """Detectron2's default for ResNet-50 strides in the first 1x1 convolution: every weight fits, the features are others."""
    _detectron2()
    right = detectron2.settings
    monkeypatch.setattr(detectron2, "settings", lambda name: right(name) | {"MODEL.RESNETS.STRIDE_IN_1X1": True})
    assert export(tmp_path / "out", "encoder=random", "backbone=resnet50", "formats=[detectron2]") == 2
    assert "layer" in refusal(capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_turned_channels_do_not_pass(tmp_path, capsys, monkeypatch):
    pytest.importorskip("mmseg", reason="mmsegmentation is not installed here")
    right = mmseg.preprocessing
    monkeypatch.setattr(mmseg, "preprocessing", lambda *values: right(*values) | {"bgr_to_rgb": False})
    assert export(tmp_path / "out", "encoder=random", "formats=[mmseg]") == 2
    assert "layer" in refusal(capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("broken", ["swapped", "missing"])
def test_a_failed_proof_leaves_nothing_new(broken, run, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    assert export(out, f"encoder={run}", LIGHT) == 0
    before = {path.name: file_digest(path) for path in out.iterdir()}

    def translate(state, architecture):
        found = dict(state)
        one, two = "layer2.0.bn1.running_var", "layer2.1.bn1.running_var"
        if broken == "missing":
            del found[one]
        else:
            found[one], found[two] = found[two] * 2, found[one]
        return found

    monkeypatch.setattr(timm, "translate", translate)
    capsys.readouterr()
    assert export(out, f"encoder={run}", LIGHT) == 2
    assert "export for timm does not compute" in refusal(capsys)
    assert {path.name: file_digest(path) for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["encoder=mean_rgb"], "has no weights"),
        (["encoder=random", "formats=[onnx]"], "format 'onnx' is not known"),
        (["encoder=random", "formats=[]"], "writes nothing"),
        (["encoder=random", "head=c4"], "cannot go into a C4 detector"),
        (["encoder=random", "head=yolo"], "head=yolo is not known"),
        (["encoder=random", "backbone=vit_small", "formats=[mmseg]"], "vit_small cannot be written for mmseg"),
        (["encoder=random", "backbone=vit_small", "head=fpn"], "vit_small cannot be written for Detectron2"),
        (["encoder=random", "format=timm"], "formats"),
    ],
)
def test_what_cannot_be_had_is_one_sentence(words, reason, tmp_path, capsys):
    assert export(tmp_path / "out", *words) == 2
    assert reason in refusal(capsys)
    assert list(tmp_path.iterdir()) == []


def test_out_must_be_named_and_free(tmp_path, capsys):
    assert main(["export", "encoder=random"]) == 2
    assert "needs out=FOLDER" in refusal(capsys)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("mine")
    assert export(tmp_path / "notes", "encoder=random") == 2
    assert "no bundle of this command" in refusal(capsys)
    assert export(tmp_path / "notes" / "thesis.txt", "encoder=random") == 2
    assert "is a file" in refusal(capsys)
    assert (tmp_path / "notes" / "thesis.txt").read_text() == "mine"


def test_a_library_that_is_not_installed(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        bundle, "LIBRARIES", bundle.LIBRARIES | {"timm": "no_such_library", "detectron2": "no", "mmseg": "no"}
    )
    assert export(tmp_path / "out", f"encoder={run}") == 0
    assert "timm         left out: no_such_library is not installed" in capsys.readouterr().out
    assert set(card_of(tmp_path / "out")["bundle"]["left_out"]) == {"timm", "detectron2", "mmseg"}
    assert export(tmp_path / "two", f"encoder={run}", "formats=[timm]") == 2
    assert "could not be proved" in refusal(capsys)


def test_help_tells_every_setting_without_torch():
    command = [sys.executable, "-X", "importtime", "-m", "transfer", "export", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    for name in bundle.Settings.__dataclass_fields__:
        assert f"  {name}=" in done.stdout, name
    assert not any(line.rpartition("|")[2].strip() == "torch" for line in done.stderr.splitlines())


def test_usage_is_five_lines_at_most():
    for own in (torchvision, timm, detectron2, mmseg):
        for architecture in own.ARCHITECTURES:
            assert 1 <= len(own.usage("file", architecture)) <= 5
