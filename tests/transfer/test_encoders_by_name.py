"""`timm:NAME` and `torchvision:NAME`: never untrained by accident, never fetched unasked."""

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from results.errors import UserError
from transfer.classify import load
from transfer.encoders import EncoderOptions, open_encoder, open_encoders
from transfer.encoders.architectures import build_backbone

CPU = EncoderOptions(device="cpu", size=32)
DOWNLOAD = EncoderOptions(device="cpu", size=32, download=True)


@pytest.fixture(scope="module")
def batch():
    return np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)


def normalised(batch, mean, std):
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (mean, std))
    return (torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 255 - mean) / std


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("timm:resnet50.a1_in1k", "timm:resnet50.a1_in1k@FILE or download=true"),
        ("torchvision:resnet50", "torchvision:resnet50@FILE or download=true"),
        ("timm:resnet51", "did you mean timm:resnet"),
        ("timm:resnet18.nope", "a1_in1k"),
        ("torchvision:vgg16", "give timm:NAME"),
        ("torchvision:resnet50.V3", "IMAGENET1K_V2"),
        ("timm:resnet18@nowhere.pth", "nowhere.pth cannot be read"),
    ],
)
def test_names_without_weights_are_refused(spec, words):
    with pytest.raises(UserError, match=words.replace("?", r"\?")) as error:
        open_encoder(spec, CPU)
    assert "\n" not in str(error.value)


def test_a_file_brings_timms_normalisation(tmp_path, batch):
    torch.manual_seed(0)
    model = timm.create_model("vit_small_patch16_224", dynamic_img_size=True)
    save_file(model.state_dict(), tmp_path / "vit.safetensors")
    encoder = open_encoder(f"timm:vit_small_patch16_224@{tmp_path / 'vit.safetensors'}", CPU)
    model.reset_classifier(0)
    with torch.inference_mode():
        expected = model.eval()(normalised(batch, [0.5] * 3, [0.5] * 3)).numpy()
    np.testing.assert_allclose(encoder.features(batch), expected, rtol=1e-5, atol=1e-6)
    assert (encoder.architecture, encoder.kind) == ("vit_small", "file")
    assert encoder.backbone().mean == (0.5, 0.5, 0.5)
    assert encoder.coverage["dropped_heads"] == {"head": 2}
    assert encoder.coverage["assumed"]["normalisation"].startswith("timm's for vit_small_patch16_224.")


def test_any_other_network_of_timm_is_an_encoder_too(tmp_path, batch):
    torch.manual_seed(0)
    model = timm.create_model("test_convnext", num_classes=0).eval()
    torch.save(
        {"state_dict": {f"module.{name}": value for name, value in model.state_dict().items()}}, tmp_path / "w.pth"
    )
    encoders, _ = open_encoders([f"timm:test_convnext@{tmp_path / 'w.pth'}"], CPU, floors=True, dense=True)
    config = timm.get_pretrained_cfg("test_convnext")
    with torch.inference_mode():
        expected = model(normalised(batch, config.mean, config.std)).numpy()
    np.testing.assert_allclose(encoders[0].features(batch), expected, rtol=1e-5, atol=1e-6)
    assert [encoder.architecture for encoder in encoders] == ["timm:test_convnext"] * 2
    assert encoders[1].features(batch).shape == expected.shape


def test_timm_fetches_only_when_asked(monkeypatch, batch):
    torch.manual_seed(1)
    trained, asked, create = build_backbone("resnet18"), [], timm.create_model

    def fetch(name, pretrained=False, **options):
        asked.append((name, pretrained))
        return trained if pretrained else create(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", fetch)
    encoder = open_encoder("timm:resnet18.a1_in1k", DOWNLOAD)
    assert asked == [("resnet18.a1_in1k", True)]
    mine = {name: value.float() for name, value in trained.state_dict().items()}
    torch.testing.assert_close(encoder.backbone().state, mine, rtol=0, atol=0)
    assert (encoder.architecture, encoder.name, encoder.coverage["share"]) == ("resnet18", "timm:resnet18.a1_in1k", 1)

    def fail(name, **options):
        raise ConnectionError("no route")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(UserError, match=r"could not be downloaded \(no route\).*resnet18.a1_in1k@FILE"):
        open_encoder("timm:resnet18.a1_in1k", DOWNLOAD)


def test_a_timm_network_that_has_no_weights_is_not_drawn_in_silence():
    bare = next(name for name in timm.list_models("resnet*") if not timm.list_pretrained(f"{name}.*"))
    with pytest.raises(UserError, match="has no weights"):
        open_encoder(f"timm:{bare}", DOWNLOAD)


def test_torchvision_fetches_the_tag_that_was_asked(monkeypatch):
    urls = []

    def fetch(url, **options):
        urls.append((url, options["weights_only"], options["check_hash"]))
        return torchvision.models.resnet18(weights=None).state_dict()

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fetch)
    encoder = open_encoder("torchvision:resnet18", DOWNLOAD)
    assert urls == [(torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url, True, True)]
    assert encoder.coverage["dropped_heads"] == {"fc": 2}


def test_the_command_line_takes_such_specs():
    specs = ["a/b.pth#student", "timm:vit_small_patch16_224.dino@c.safetensors", "torchvision:resnet50"]
    assert load([f"encoder=[{','.join(specs)}]"]).encoder == specs
    assert load([f"encoder={specs[0]}"]).encoder == specs[:1]
    assert load([f"encoder={specs[1]}"]).encoder == specs[1:2]
