"""Exports of ours that no torchvision ResNet holds, ViT-S and the narrow ResNet-18, opened and run by their cards."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from results.errors import UserError
from results.files import file_digest
from transfer.encoders.network import build_backbone
from transfer.encoders.specs import EncoderOptions, open_encoder, open_encoders

CPU = EncoderOptions(device="cpu")


WIDTHS = {"vit_small": 384, "resnet18_quarter": 128}


@pytest.fixture(params=WIDTHS)
def export(tmp_path, request):
    torch.manual_seed(0)
    model = build_backbone(request.param)
    folder = tmp_path / "export"
    folder.mkdir()
    save_file(model.state_dict(), folder / "backbone.safetensors")
    card = {
        "schema": 1,
        "digest": file_digest(folder / "backbone.safetensors"),
        "backbone": request.param,
        "feature_dim": WIDTHS[request.param],
        "input": {"size": 40, "mean": [0.5] * 3, "std": [0.5] * 3},
        "method": "dino",
        "data": {"cohort": "toy"},
    }
    (folder / "card.json").write_text(json.dumps(card))
    return tmp_path, request.param, model.eval()


def test_features_are_those_of_the_weights(export):
    folder, name, model = export
    tiles = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), dtype=np.uint8)
    encoder = open_encoder(str(folder), CPU)
    found = encoder.features(tiles)
    with torch.no_grad():
        expected = model((torch.from_numpy(tiles).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5)
    assert found.shape == (3, encoder.feature_dim) == (3, WIDTHS[name])
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)
    assert encoder.coverage["missing"] == encoder.coverage["unexpected"] == 0


def test_floors_take_its_shape_and_no_imagenet_row_is_invented(export, monkeypatch):
    folder, name, _ = export
    encoders, lines = open_encoders([str(folder)], EncoderOptions(device="cpu", download=True), floors=True)
    assert [e.feature_dim for e in encoders if e.name.startswith(f"random ({name}")] == [WIDTHS[name]]
    assert any(f"no ImageNet row for {name}" in line for line in lines)


@pytest.mark.parametrize("name", WIDTHS)
def test_asking_for_its_imagenet_weights_is_refused(name):
    with pytest.raises(UserError, match=name):
        open_encoder("imagenet", EncoderOptions(device="cpu", download=True, backbone=name))
