"""Every family of `encoder=FILE`: its layout is made by renaming an untrained network's state dict, and must give that network's features."""

import argparse
import json

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file

from results.errors import UserError
from results.record import read_records
from transfer.classify import classify, load
from transfer.encoders import EncoderOptions, coverage_of, open_encoder
from transfer.encoders.architectures import build_backbone
from transfer.encoders.families import FAMILIES

TILE = 32
CPU = EncoderOptions(device="cpu", size=TILE)
MEAN, STD = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


@pytest.fixture(scope="module")
def batch():
    return np.random.default_rng(0).integers(0, 256, (3, TILE, TILE, 3), dtype=np.uint8)


def made(name, seed):
    torch.manual_seed(seed)
    return build_backbone(name).eval()


@pytest.fixture(scope="module")
def networks():
    """Two untrained networks of each kind: the one to be found, and another beside it (a key encoder, a student)."""
    return {
        "resnet": (made("resnet18", 1), made("resnet18", 2)),
        "vit": (made("vit_tiny", 1), made("vit_tiny", 2)),
    }


def expected(model, batch):
    with torch.inference_mode():
        return model((torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 255 - MEAN) / STD).numpy()


def under(prefix, state):
    return {f"{prefix}{name}": value for name, value in state.items()}


def numbered(state):
    """The same weights in nn.Sequential over a ResNet's children."""
    model = torchvision.models.resnet18(weights=None)
    model.load_state_dict(state, strict=False)
    return torch.nn.Sequential(*list(model.children())[:-1]).state_dict()


def renamed(state, *pairs):
    for old, new in pairs:
        state = {name.replace(old, new): value for name, value in state.items()}
    return state


def mmpretrain(state):
    pairs = [
        ("patch_embed.proj", "patch_embed.projection"),
        ("blocks.", "layers."),
        (".norm1.", ".ln1."),
        (".norm2.", ".ln2."),
    ]
    pairs += [(".mlp.fc1.", ".ffn.layers.0.0."), (".mlp.fc2.", ".ffn.layers.1.")]
    return renamed({name.replace("norm.", "ln1.", 1) if name.startswith("norm.") else name: v for name, v in state.items()}, *pairs)  # fmt: skip


def torchvision_vit(state):
    names = list(state)
    pairs = [("patch_embed.proj", "conv_proj"), ("cls_token", "class_token"), ("pos_embed", "encoder.pos_embedding")]
    pairs += [
        ("blocks.", "encoder.layers.encoder_layer_"),
        (".norm1.", ".ln_1."),
        (".norm2.", ".ln_2."),
        (".attn.qkv.", ".self_attention.in_proj_"),
    ]
    pairs += [(".attn.proj.", ".self_attention.out_proj."), (".mlp.fc1.", ".mlp.0."), (".mlp.fc2.", ".mlp.3.")]
    assert "norm.weight" in names
    return renamed({f"encoder.ln.{n[5:]}" if n.startswith("norm.") else n: v for n, v in state.items()}, *pairs)  # fmt: skip


HEAD = torch.ones(4, 4)
FC = {"fc.weight": HEAD, "fc.bias": HEAD[0]}
NAMESPACE = argparse.Namespace(arch="resnet18", lr=0.1, scores=np.float64(3.5))

# what a file of each family holds: a function of the state to be found (a) and another (b); the kind of network; the family
LAYOUTS = {
    "moco v2": (lambda a, b: {"epoch": 3, "arch": "resnet18", "state_dict": {**under("module.encoder_q.", {**a, **FC}), **under("module.encoder_k.", b), "module.queue": HEAD}, "optimizer": {"state": {0: {"momentum_buffer": HEAD}}}}, "resnet", "MoCo v1, v2"),
    "moco v3": (lambda a, b: {"state_dict": {**under("module.base_encoder.", {**a, "head.0.weight": HEAD}), **under("module.momentum_encoder.", b), "module.predictor.0.weight": HEAD}}, "vit", "MoCo v3"),
    "dino": (lambda a, b: {"student": {**under("module.backbone.", b), "module.head.last_layer.weight_g": HEAD}, "teacher": {**under("backbone.", a), "head.last_layer.weight_g": HEAD}, "args": NAMESPACE, "dino_loss": {"center": HEAD}}, "vit", "DINO, iBOT"),
    "dino resnet": (lambda a, b: {"student": under("module.backbone.", b), "teacher": under("module.backbone.", a)}, "resnet", "DINO, iBOT"),
    "ibot": (lambda a, b: {"teacher": under("backbone.", {**a, "masked_embed": HEAD}), "student": under("module.backbone.", b)}, "vit", "DINO, iBOT"),
    "lightly": (lambda a, b: {"pytorch-lightning_version": "2", "state_dict": {**under("backbone.", a), "projection_head.layers.0.weight": HEAD}}, "resnet", "lightly"),
    "lightly sequential": (lambda a, b: {"state_dict": {**under("backbone.", numbered(a)), **under("backbone_momentum.", numbered(b)), "projection_head.layers.0.weight": HEAD}}, "resnet", "lightly"),
    "lightly dino": (lambda a, b: {"state_dict": {**under("teacher_backbone.", a), **under("student_backbone.", b)}}, "vit", "lightly (DINO)"),
    "solo-learn": (lambda a, b: {"state_dict": {**under("backbone.", a), **under("momentum_backbone.", b), "classifier.weight": HEAD, "projector.0.weight": HEAD}}, "resnet", "solo-learn"),
    "solo-learn encoder": (lambda a, b: {"state_dict": {**under("encoder.", a), **under("momentum_encoder.", b), "classifier.weight": HEAD}}, "resnet", "solo-learn (encoder)"),
    "solo-learn first": (lambda a, b: {"state_dict": under("features_extractor.", a)}, "resnet", "solo-learn (features_extractor)"),
    "mmselfsup": (lambda a, b: {"meta": {"epoch": 1}, "state_dict": {**under("backbone.", a), "neck.fc0.weight": HEAD}}, "resnet", "MMSelfSup, OpenSelfSup, MMPretrain"),
    "mmpretrain vit": (lambda a, b: {"meta": {}, "state_dict": under("backbone.", mmpretrain(a))}, "vit", "MMSelfSup, OpenSelfSup, MMPretrain"),
    "openselfsup moco": (lambda a, b: {"meta": {}, "state_dict": {**under("backbone.", a), **under("encoder_q.0.", a), **under("encoder_k.0.", b)}}, "resnet", "OpenSelfSup, MMSelfSup (MoCo)"),
    "openselfsup byol": (lambda a, b: {"meta": {}, "state_dict": {**under("online_net.0.", a), **under("target_net.0.", b)}}, "resnet", "OpenSelfSup, MMSelfSup (BYOL)"),
    "vissl": (lambda a, b: {"phase": 1, "classy_state_dict": {"base_model": {"model": {"trunk": under("_feature_blocks.", a), "heads": {"0.clf.0.weight": HEAD}}}}}, "resnet", "VISSL"),
    "byol": (lambda a, b: {"online_network_state_dict": {**under("encoder.", numbered(a)), "projetion.net.0.weight": HEAD}, "target_network_state_dict": under("encoder.", numbered(b))}, "resnet", "BYOL"),
    "byol learner": (lambda a, b: {**under("net.", a), **under("online_encoder.net.", a), **under("target_encoder.net.", b)}, "resnet", "BYOL (learner)"),
    "swav": (lambda a, b: {**under("module.", a), "module.projection_head.0.weight": HEAD, "module.prototypes.weight": HEAD}, "resnet", "torchvision, timm or other plain names"),
    "barlow twins": (lambda a, b: {"model": {**under("module.backbone.", a), "module.projector.0.weight": HEAD, "module.bn.running_mean": HEAD[0]}}, "resnet", "Barlow Twins, VICReg"),
    "simsiam": (lambda a, b: {"state_dict": {**under("module.encoder.", {**a, "fc.0.weight": HEAD}), "module.predictor.0.weight": HEAD}}, "resnet", "SimSiam"),
    "simclr": (lambda a, b: {"state_dict": under("backbone.", {**a, "fc.0.weight": HEAD})}, "resnet", "backbone with heads"),
    "encoder": (lambda a, b: under("encoder.", a), "resnet", "encoder with heads"),
    "timm trainer": (lambda a, b: {"arch": "resnet18", "state_dict": {**b, **FC}, "state_dict_ema": {**a, **FC}, "args": NAMESPACE}, "resnet", "weights with their moving average"),
    "mae": (lambda a, b: {"model": {**a, "mask_token": HEAD, "decoder_pos_embed": HEAD, "decoder_blocks.0.norm1.weight": HEAD[0]}, "args": NAMESPACE}, "vit", "torchvision, timm or other plain names"),
    "torchvision": (lambda a, b: {**a, **FC}, "resnet", "torchvision, timm or other plain names"),
    "torchvision vit": (lambda a, b: {**torchvision_vit(a), "heads.head.weight": HEAD}, "vit", "torchvision, timm or other plain names"),
    "sequential": (lambda a, b: numbered(a), "resnet", "torchvision, timm or other plain names"),
    "timm": (lambda a, b: {**a, "head.weight": HEAD}, "vit", "torchvision, timm or other plain names"),
    "compiled": (lambda a, b: {"model_state_dict": under("_orig_mod.module.", a)}, "resnet", "torchvision, timm or other plain names"),
    "one prefix": (lambda a, b: {"state_dict": under("model.resnet.", {**a, **FC})}, "resnet", "one prefix before plain names"),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_of_the_family_gives_the_features_of_its_network(tmp_path, networks, batch, layout):
    build, kind, family = LAYOUTS[layout]
    mine, other = networks[kind]
    path = tmp_path / "weights.pth"
    torch.save(build(mine.state_dict(), other.state_dict()), path)
    encoder = open_encoder(str(path), CPU)
    np.testing.assert_array_equal(encoder.features(batch), expected(mine, batch))
    coverage = encoder.coverage
    assert (coverage["family"], coverage["share"], coverage["unexpected"]) == (family, 1.0, 0)
    assert (encoder.kind, encoder.card, encoder.architecture) == ("file", None, {"resnet": "resnet18", "vit": "vit_tiny_patch16_224"}[kind])  # fmt: skip
    assert coverage["assumed"]["normalisation"] == "ImageNet"
    assert coverage["assumed"]["size"] == TILE
    json.dumps(coverage, allow_nan=False)


def test_every_family_has_a_layout_here():
    assert {family.name for family in FAMILIES} <= {family for _, _, family in LAYOUTS.values()}


def test_the_other_branch_can_be_asked_for(tmp_path, networks, batch):
    mine, other = networks["vit"]
    path = tmp_path / "checkpoint.pth"
    torch.save(LAYOUTS["dino"][0](mine.state_dict(), other.state_dict()), path)
    teacher, student = (open_encoder(f"{path}{branch}", CPU) for branch in ("", "#student"))
    np.testing.assert_array_equal(student.features(batch), expected(other, batch))
    assert teacher.digest != student.digest
    assert (teacher.coverage["branch"], teacher.coverage["others"]) == ("teacher.backbone", ["student.backbone"])
    assert student.coverage["prefix"] == "student.module.backbone."
    assert student.name.endswith("checkpoint.pth#student")
    with pytest.raises(
        UserError, match=r"names 0 backbones of this file: write one of student\.module\.backbone, teacher\.backbone"
    ):
        open_encoder(f"{path}#nobody", CPU)


def test_the_same_weights_are_the_same_encoder_in_any_file(tmp_path, networks):
    state = networks["resnet"][0].state_dict()
    save_file(state, tmp_path / "a.safetensors")
    torch.save({"state_dict": under("module.encoder_q.", state)}, tmp_path / "b.pth")
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    digests = {open_encoder(str(tmp_path / name), CPU).digest for name in ("a.safetensors", "b.pth", "old.pth")}
    assert len(digests) == 1
    assert open_encoder(str(tmp_path / "b.pth"), EncoderOptions(device="cpu", size=64)).digest not in digests


def test_the_report_says_what_was_done(tmp_path, networks):
    mine, other = (network.state_dict() for network in networks["resnet"])
    (tmp_path / "runs").mkdir()
    path = tmp_path / "runs" / "moco.pth"
    torch.save(LAYOUTS["moco v2"][0](mine, other), path)
    assert coverage_of(open_encoder(str(path), CPU)) == [
        "runs/moco.pth: 100 of 100 tensors loaded (100 %), MoCo v1, v2, resnet18",
        "  by stage: stem 5/5, layer1 20/20, layer2 25/25, layer3 25/25, layer4 25/25",
        "  taken from: state_dict.module.encoder_q. (also there: encoder_k; FILE#NAME takes one)",
        "  dropped heads: fc (2)",
        "  left aside: encoder_k (120), queue (1)",
        "  assumed: size 32, normalisation ImageNet",
    ]


def test_a_record_keeps_the_report(tmp_path, store, networks, capsys):
    mine, other = (network.state_dict() for network in networks["resnet"])
    torch.save(LAYOUTS["moco v2"][0](mine, other), tmp_path / "moco.pth")
    arguments = [
        f"encoder={tmp_path / 'moco.pth'}",
        f"store={store.root}",
        f"records={tmp_path / 'records'}",
        "device=cpu",
    ]
    assert classify(load([*arguments, "engines=[knn]", "trials=1", "floors=false", "max_tiles_per_slide=4"])) == 0
    assert "100 of 100 tensors loaded (100 %), MoCo v1, v2, resnet18" in capsys.readouterr().out
    (record,) = read_records(tmp_path / "records")
    encoder = record.data["encoder"]
    assert (encoder["kind"], encoder["card"]) == ("file", None)
    assert encoder["coverage"]["prefix"] == "state_dict.module.encoder_q."
    assert encoder["coverage"]["assumed"] == {"size": TILE, "normalisation": "ImageNet"}


def test_heads_are_read_off_moco_v3s_position_embeddings(tmp_path):
    """ViT-S of MoCo v3 has 12 heads where all others have 6, with the same names and shapes."""
    state = made("vit_small", 0).state_dict()
    waves = 10000.0 ** (-torch.arange(96) / 96)
    y, x = (
        place.flatten()[:, None] * waves for place in torch.meshgrid(torch.arange(14), torch.arange(14), indexing="ij")
    )
    embedding = torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], 1)
    state["pos_embed"] = torch.cat([torch.zeros(1, 384), embedding])[None]
    path = tmp_path / "vit.pth"
    torch.save(state, path)
    encoder = open_encoder(str(path), CPU)
    assert encoder.architecture == "vit_small_patch16_224_12heads"
    assert encoder.coverage["assumed"]["heads"] == 12
    assert encoder.backbone().state.keys() == state.keys()


def test_torchvisions_own_transformer_gives_its_own_features(tmp_path, batch):
    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(32, 16, 12, 3, 192, 768).eval()
    torch.nn.init.normal_(model.class_token)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    model.heads = torch.nn.Identity()
    encoder = open_encoder(str(tmp_path / "w.pth"), CPU)
    np.testing.assert_allclose(encoder.features(batch), expected(model, batch), rtol=1e-4, atol=1e-5)
    assert encoder.architecture == "vit_tiny_patch16_32"


@pytest.mark.parametrize("name", ["resnet34", "resnet50", "resnext50_32x4d", "vit_small"])
def test_the_network_is_read_off_names_and_shapes(tmp_path, name):
    torch.save(made(name, 0).state_dict(), tmp_path / "w.pth")
    assert open_encoder(str(tmp_path / "w.pth"), CPU).architecture == name


def test_half_precision_is_widened(tmp_path, networks, batch):
    mine = networks["resnet"][0]
    half = {name: value.half() if value.is_floating_point() else value for name, value in mine.state_dict().items()}
    torch.save(half, tmp_path / "w.pth")
    encoder = open_encoder(str(tmp_path / "w.pth"), CPU)
    np.testing.assert_allclose(encoder.features(batch), expected(mine, batch), rtol=0.05, atol=0.02)
    assert {v.dtype for n, v in encoder.backbone().state.items() if "num_batches" not in n} == {torch.float32}


def test_a_torchvision_file_of_a_larger_resnet_is_not_taken_for_a_smaller(tmp_path):
    state = torchvision.models.resnet34(weights=None).state_dict()
    torch.save({name: value for name, value in state.items() if not name.startswith("layer3.5")}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"does not fit resnet34.*10 missing.*layer3 55/65"):
        open_encoder(str(tmp_path / "w.pth"), CPU)
