"""A ViT-S export of ours, opened and run by its card."""

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


@pytest.fixture
def export(tmp_path):
    torch.manual_seed(0)
    model = build_backbone("vit_small")
    folder = tmp_path / "export"
    folder.mkdir()
    save_file(model.state_dict(), folder / "backbone.safetensors")
    card = {
        "schema": 1,
        "digest": file_digest(folder / "backbone.safetensors"),
        "backbone": "vit_small",
        "feature_dim": 384,
        "input": {"size": 40, "mean": [0.5] * 3, "std": [0.5] * 3},
        "method": "dino",
        "data": {"cohort": "toy"},
    }
    (folder / "card.json").write_text(json.dumps(card))
    return tmp_path, model.eval()


def test_features_are_those_of_the_weights(export):
    folder, model = export
    tiles = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), dtype=np.uint8)
    encoder = open_encoder(str(folder), CPU)
    found = encoder.features(tiles)
    with torch.no_grad():
        expected = model((torch.from_numpy(tiles).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5)
    assert found.shape == (3, encoder.feature_dim) == (3, 384)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)
    assert encoder.coverage["missing"] == encoder.coverage["unexpected"] == 0


def test_floors_take_its_shape_and_no_imagenet_row_is_invented(export, monkeypatch):
    folder, _ = export
    encoders, lines = open_encoders([str(folder)], EncoderOptions(device="cpu", download=True), floors=True)
    assert [e.feature_dim for e in encoders if e.name.startswith("random (vit_small")] == [384]
    assert any("no ImageNet row for vit_small" in line for line in lines)


def test_asking_for_its_imagenet_weights_is_refused():
    with pytest.raises(UserError, match="vit_small"):
        open_encoder("imagenet", EncoderOptions(device="cpu", download=True, backbone="vit_small"))
