"""Encoders in a detector: every weight arrives, or it is refused."""

import json
from dataclasses import replace

import pytest
import torch
from detection_toys import backbone, built, engine

from results.errors import UserError
from transfer.encoders.network import Backbone
from transfer.engines.detectron2 import compat

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("detectron2")]


@pytest.mark.parametrize(("heads", "architecture"), [("fpn", "resnet18"), ("fpn", "resnet50"), ("c4", "resnet50")])
def test_every_weight_arrives(heads, architecture):
    weights = backbone(architecture)
    model = built(heads, weights)
    own = model.state_dict()
    last = "roi_heads.res5" if heads == "c4" else "backbone.bottom_up.res5"
    conv = "conv3" if architecture == "resnet50" else "conv2"
    assert torch.equal(own[f"{last}.1.{conv}.weight"], weights.state[f"layer4.1.{conv}.weight"])
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any("Frozen" in type(module).__name__ for module in model.modules())
    assert ("roi_heads.res5.norm.weight" in own) == (heads == "c4")
    assert torch.allclose(model.pixel_mean.flatten(), 255 * torch.tensor(weights.mean))


@pytest.mark.parametrize("break_it", ["missing", "shape", "value"])
def test_weights_that_do_not_arrive_are_refused(break_it, monkeypatch):
    weights = backbone()
    state = dict(weights.state)
    if break_it == "missing":
        del state["layer3.0.conv1.weight"]
    elif break_it == "shape":
        state["layer3.0.conv1.weight"] = state["layer3.0.conv1.weight"][:, :1]
    else:
        state["layer3.0.bn1.weight"] = state["layer3.0.bn1.weight"] * float("nan")
    with pytest.raises(UserError, match=r"1 of \d+ tensors .*res4\.0\.conv1"):
        built("fpn", replace(weights, state=state))


@pytest.mark.parametrize(
    ("name", "architecture", "message"),
    [
        ("faster_rcnn_c4", "resnet18", "C4"),
        ("faster_rcnn_fpn", "vit_small", "transfer classify"),
        ("faster_rcnn_c4", "vit_small", "transfer classify"),
    ],
)
def test_encoders_that_cannot_be_used_are_refused(name, architecture, message):
    with pytest.raises(UserError, match=message):
        engine(name).check(Backbone(architecture, {}, (0, 0, 0), (1, 1, 1)))


def test_engine_settings_are_checked():
    from transfer.engines.detectron2.engine import FasterRCNN

    with pytest.raises(UserError, match="faster_rcnn_fpn, faster_rcnn_c4"):
        FasterRCNN("yolo")
    with pytest.raises(UserError, match="gpus=2"):
        FasterRCNN(device="cpu", gpus=2)
    settings = engine(bfloat16=True).settings()
    assert json.loads(json.dumps(settings)) == settings
    assert settings["bfloat16"] is False
    assert settings["iterations"] == 2
    assert settings["detections"] == 300
    assert settings["detectron2"] == compat.version()
