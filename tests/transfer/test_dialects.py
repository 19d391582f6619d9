"""The names of other libraries, against the models of these libraries themselves."""

import importlib

import pytest
import torch

from results.errors import UserError
from transfer.dialects import LIBRARIES, NATIVE, detectron2, dialect, mmseg, timm, torchvision
from transfer.dialects.proof import PROOF_SIDES, proof_image, prove
from transfer.encoders.network import build_backbone

COUNTER = "num_batches_tracked"
MEAN, STD = (0.7, 0.5, 0.6), (0.2, 0.25, 0.1)


def shapes(state):
    return {name: tuple(value.shape) for name, value in state.items() if not name.endswith(COUNTER)}


@pytest.fixture(scope="module", params=["resnet18", "resnet50", "vit_small"])
def architecture(request):
    return request.param


@pytest.fixture(scope="module")
def state(architecture):
    return build_backbone(architecture).state_dict()


def test_every_dialect_has_the_same_doors():
    for name in LIBRARIES:
        own = dialect(name)
        for door in ("ARCHITECTURES", "ENGINE_FILE", "translate", "preprocessing", "stages", "usage"):
            assert hasattr(own, door), (name, door)
        assert callable(getattr(own, f"to_{name}"))
        assert (own.ENGINE_FILE is not None) == hasattr(own, "write_engine_file")
    assert {name for name in NATIVE if NATIVE[name] in LIBRARIES} == set(NATIVE)
    with pytest.raises(UserError, match="format 'keras' is not known"):
        dialect("keras")


def test_torchvisions_names_fill_torchvisions_model(architecture, state):
    assert shapes(torchvision.to_torchvision(state, architecture)) == shapes(
        torchvision.build(architecture).state_dict()
    )


def test_timms_names_fill_timms_model(architecture, state):
    import timm as library

    model = library.create_model(timm.MODELS[architecture], pretrained=False, num_classes=0)
    assert shapes(timm.to_timm(state, architecture)) == shapes(model.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("depth", [18, 50])
def test_detectron2s_names_fill_its_backbone(depth):
    pytest.importorskip("detectron2", reason="Detectron2 is not installed here")
    from transfer.engines.detectron2.compat import prepare

    prepare()
    from detectron2.config import get_cfg
    from detectron2.layers import ShapeSpec
    from detectron2.modeling.backbone.resnet import build_resnet_backbone

    config = get_cfg()
    for key, value in detectron2.settings(f"resnet{depth}").items():
        config.merge_from_list([key, value])
    config.MODEL.RESNETS.OUT_FEATURES = ["res5"]
    own = build_resnet_backbone(config, ShapeSpec(channels=3)).state_dict()
    found = detectron2.to_detectron2(build_backbone(f"resnet{depth}").state_dict(), f"resnet{depth}")
    assert shapes(found) == shapes(own)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [18, 50])
def test_mmsegs_names_fill_its_backbone(depth):
    pytest.importorskip("mmseg", reason="mmsegmentation is not installed here")
    importlib.import_module("mmseg.models")
    from mmseg.registry import MODELS

    own = MODELS.build(mmseg.settings(f"resnet{depth}")).state_dict()
    assert shapes(mmseg.to_mmseg(build_backbone(f"resnet{depth}").state_dict(), f"resnet{depth}")) == shapes(own)


def test_detectron2s_names():
    value = torch.zeros(1)
    named = {
        "conv1.weight": "stem.conv1.weight",
        "bn1.running_mean": "stem.conv1.norm.running_mean",
        "layer1.0.conv1.weight": "res2.0.conv1.weight",
        "layer2.0.downsample.0.weight": "res3.0.shortcut.weight",
        "layer2.0.downsample.1.running_var": "res3.0.shortcut.norm.running_var",
        "layer4.2.bn3.bias": "res5.2.conv3.norm.bias",
        "layer4.2.bn3.num_batches_tracked": None,
    }
    found = detectron2.to_detectron2(dict.fromkeys(named, value), "resnet50")
    assert set(found) == {name for name in named.values() if name}


@pytest.mark.parametrize("own", [detectron2, torchvision])
def test_a_tensor_without_a_place_is_named(own):
    architecture = "resnet50" if own is detectron2 else "vit_small"
    with pytest.raises(UserError, match=r"blocks\.0\.attn\.extra\.weight"):
        own.translate({"blocks.0.attn.extra.weight": torch.zeros(1)}, architecture)


@pytest.mark.parametrize("own", [detectron2, mmseg])
def test_a_transformer_is_refused_in_one_sentence(own):
    with pytest.raises(UserError, match=r"vit_small cannot be written for .*torchvision's and timm's names"):
        own.translate({}, "vit_small")


def test_resnet18_is_refused_for_a_c4_detector():
    with pytest.raises(UserError, match=r"C4 detector.*layer4.*FPN") as refusal:
        detectron2.require_head("resnet18", "C4")
    assert str(refusal.value).count(". ") == 0
    for architecture, head in (("resnet18", "FPN"), ("resnet50", "fpn"), ("resnet50", "c4")):
        detectron2.require_head(architecture, head)
    with pytest.raises(UserError, match="head 'yolo' is not known"):
        detectron2.require_head("resnet50", "yolo")


def test_means_are_in_each_librarys_convention():
    for own in (torchvision, timm):
        assert own.preprocessing(MEAN, STD)["mean"] == list(MEAN)
    two = detectron2.preprocessing(MEAN, STD)
    assert two["INPUT.FORMAT"] == "RGB"
    assert two["MODEL.PIXEL_MEAN"] == pytest.approx([178.5, 127.5, 153.0])
    assert two["MODEL.PIXEL_STD"] == pytest.approx([51.0, 63.75, 25.5])
    segmentation = mmseg.preprocessing(MEAN, STD)
    assert segmentation["bgr_to_rgb"] is True
    assert segmentation["mean"] == pytest.approx([178.5, 127.5, 153.0])


def test_the_image_of_the_proof_is_fixed():
    for height, width in PROOF_SIDES.values():
        image = proof_image(height, width)
        assert image.shape == (height, width, 3)
        assert (image == proof_image(height, width)).all()
        assert height % 32 == width % 32 == 0


SOURCE = {"layer1": torch.tensor([1.0, -4.0]), "layer2": torch.tensor([2.0])}


def test_the_difference_is_relative_to_the_largest_value():
    found = {"layer1": torch.tensor([1.0, -4.00002]), "c4 layer1": SOURCE["layer1"], "layer2": SOURCE["layer2"]}
    proof = prove("timm", SOURCE, found)
    assert proof["stages"]["layer1"] == pytest.approx(5e-6, rel=0.1)
    assert proof["stages"]["c4 layer1"] == 0
    assert proof["largest"] == proof["stages"]["layer1"]
    assert proof["library"].startswith("timm ")


@pytest.mark.parametrize(
    ("source", "change", "reason"),
    [
        (SOURCE, {"layer2": torch.tensor([2.001])}, "layer2 differs by"),
        (SOURCE, {"layer2": torch.tensor([float("nan")])}, "layer2 differs by nan"),
        (SOURCE, {"layer2": torch.zeros(2)}, r"layer2 is \(2,\)"),
        (SOURCE, {"layer2": None}, "layer2 was not found"),
        ({**SOURCE, "layer2": torch.zeros(1)}, {"layer2": torch.zeros(1)}, "zero everywhere"),
        ({**SOURCE, "layer2": torch.tensor([float("nan")])}, {}, "not a number"),
    ],
)
def test_what_is_no_proof(source, change, reason):
    found = {name: value for name, value in (SOURCE | change).items() if value is not None}
    with pytest.raises(UserError, match=reason):
        prove("timm", source, found)
