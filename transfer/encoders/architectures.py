"""The networks that encoders are made of: built by name, told from the names and shapes of a state dict."""

import functools
import hashlib
import math
import re
from collections.abc import Mapping
from difflib import get_close_matches

import torch
import torchvision

from results.errors import UserError

Shapes = Mapping[str, tuple[int, ...]]

RESNETS = (
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d",
    "wide_resnet50_2", "wide_resnet101_2",
)  # fmt: skip
TRANSFORMERS = {192: ("tiny", 12, 3), 384: ("small", 12, 6), 768: ("base", 12, 12), 1024: ("large", 24, 16)}
"""Dimensions of a token -> timm's size, blocks, attention heads (DeiT, arXiv 2012.12877, table 1; ViT, arXiv 2010.11929)."""
VIT = re.compile(r"vit_(tiny|small|base|large)(?:_patch([0-9]{1,5})_([0-9]{1,5}))?(?:_([0-9]{1,5})heads)?")
MOST_PATCH, MOST_SIDE, MOST_GRID = 64, 1024, 256
"""Px of a patch and of the input side, and patches along it, beyond which no transformer is built."""
QUARTER = "resnet18_quarter"
"""A ResNet-18 whose stages have a quarter of the channels, behind the whole stem: what pretraining rehearses with on a CPU."""
TIMM = "timm:"
"""Before the name of any other network of timm."""
MOCO_HEADS = 12
"""Of MoCo v3's ViT-S (arXiv 2104.02057, section 5); everybody else's has 6, and no tensor of the two differs in shape."""


def known_backbones() -> str:
    """Name what `build_backbone` builds, for messages."""
    return f"{', '.join(RESNETS)}, vit_tiny, vit_small, vit_base, vit_large, {QUARTER} and {TIMM}NAME"


def build_backbone(name: str) -> torch.nn.Module:
    """Build a backbone without a classifier, (B, 3, S, S) to (B, D); weights are drawn from torch's global generator.

    Args:
        name: torchvision's ResNet; `vit_small` (16 px patches, 224 px), `vit_base_patch8_224`, `vit_small_patch16_224_12heads`;
            or `timm:NAME`. Transformers take any input side: it is padded to whole patches and position embeddings are interpolated.
    """
    if name in RESNETS:
        model = getattr(torchvision.models, name)(weights=None)
        model.fc = torch.nn.Identity()
        return model
    sizes = VIT.fullmatch(name)
    if sizes:
        return _transformer(*sizes.groups())
    if name == QUARTER:
        import timm

        return timm.create_model("resnet18", channels=(16, 32, 64, 128), zero_init_last=False, num_classes=0)
    if name.startswith(TIMM):
        import timm

        return timm.create_model(_timm_name(name.removeprefix(TIMM)), pretrained=False, num_classes=0)
    raise UserError(f"backbone '{name[:80]}' is not known here: {known_backbones()} are.")


def _transformer(size: str, patch: str | None, side: str | None, heads: str | None) -> torch.nn.Module:
    patch_px, side_px = int(patch or 16), int(side or 224)
    width = next(width for width, (word, _, _) in TRANSFORMERS.items() if word == size)
    if not 1 <= patch_px <= MOST_PATCH or not 1 <= side_px <= MOST_SIDE or side_px % patch_px:
        raise UserError(
            f"backbone vit_{size} cannot have {patch_px} px patches of {side_px} px images: patches of 1 to {MOST_PATCH} px that "
            f"divide a side of at most {MOST_SIDE} px are expected."
        )
    if side_px // patch_px > MOST_GRID:
        raise UserError(
            f"backbone vit_{size} with {side_px // patch_px} patches a side is too large: {MOST_GRID} are the most."
        )
    if heads and (int(heads) < 1 or width % int(heads)):
        raise UserError(
            f"backbone vit_{size} cannot have {int(heads)} heads: a number that divides its {width} dimensions is expected."
        )
    import timm

    shape = {
        "patch_size": patch_px,
        "img_size": side_px,
        "dynamic_img_size": True,
        "dynamic_img_pad": True,
    }
    own_heads = {"num_heads": int(heads)} if heads else {}
    return timm.create_model(f"vit_{size}_patch16_224", pretrained=False, num_classes=0, **shape, **own_heads)  # fmt: skip


def _timm_name(name: str) -> str:
    import timm

    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        near = get_close_matches(architecture, timm.list_models(), n=1)
        raise UserError(f"timm has no network '{architecture}'" + (f": did you mean {TIMM}{near[0]}?" if near else "."))
    return architecture


def common_name(timm_name: str) -> str:
    """Our name of a network of timm: torchvision's or a plain transformer's where they are the same function, else `timm:NAME`."""
    architecture = _timm_name(timm_name)
    if architecture == "vit_small_patch16_224":
        return "vit_small"
    return architecture if architecture in RESNETS or VIT.fullmatch(architecture) else f"{TIMM}{architecture}"


def drawn_backbone(name: str, seed: int, trial: int) -> torch.nn.Module:
    """Build a backbone whose weights follow from (name, seed, trial) alone; torch's generator is left as it was."""
    mixed = hashlib.sha256(f"untrained backbone {name} {seed} {trial}".encode(errors="backslashreplace")).digest()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int.from_bytes(mixed[:8], "little") >> 1)
        return build_backbone(name)


def feature_dim(model: torch.nn.Module) -> int:
    """D of a network that `build_backbone` made."""
    if not hasattr(model, "layer4") or hasattr(model, "num_features"):
        return getattr(model, "head_hidden_size", None) or model.num_features
    return model.layer4[-1].get_submodule("bn3" if hasattr(model.layer4[-1], "bn3") else "bn2").num_features


@functools.cache
def _shapes(name: str) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {key: tuple(value.shape) for key, value in build_backbone(name).state_dict().items()}


def recognise(state: Mapping[str, torch.Tensor]) -> str | None:
    """Return the name of the network that a state dict (torchvision's or timm's names) fits best; None where no name is alike."""
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    if "patch_embed.proj.weight" in shapes:
        return _recognise_transformer(state, shapes)
    bottleneck = any(name.endswith(".conv3.weight") for name in shapes)
    candidates = [name for name in RESNETS if ("layer1.0.conv3.weight" in _shapes(name)) == bottleneck]

    def fit(name: str) -> int:
        own = _shapes(name)
        return sum(1 if own.get(key) == shape else -1 for key, shape in shapes.items()) - len(own.keys() - shapes)

    best = max(candidates, key=fit)
    return best if not _shapes(best).keys().isdisjoint(shapes) else None


def _recognise_transformer(state: Mapping[str, torch.Tensor], shapes: Shapes) -> str | None:
    projection = shapes["patch_embed.proj.weight"]
    tokens = shapes.get("pos_embed", (1, 197, 0))
    if len(projection) != 4 or len(tokens) != 3 or projection[0] not in TRANSFORMERS:
        return None
    size, _, usual = TRANSFORMERS[projection[0]]
    patch, grid = projection[2], math.isqrt(max(tokens[1] - 1, 0))
    if not (1 <= patch <= 64 and 1 <= grid <= 256):
        return None
    heads = MOCO_HEADS if size == "small" and _sine_cosine(state.get("pos_embed"), grid, projection[0]) else usual
    plain = f"vit_{size}" if (size, patch, grid) == ("small", 16, 14) else f"vit_{size}_patch{patch}_{grid * patch}"
    if heads == usual:
        return plain
    return f"vit_{size}_patch{patch}_{grid * patch}_{heads}heads"


def _sine_cosine(embedding: torch.Tensor | None, grid: int, width: int) -> bool:
    """Whether position embeddings (1, 1 + grid^2, D) are the fixed ones of MoCo v3: sines and cosines along x, then along y."""
    if embedding is None or embedding.shape != (1, grid * grid + 1, width):
        return False
    if embedding.layout != torch.strided or not embedding.is_floating_point() or embedding[0, 0].any():
        return False
    quarter = embedding.shape[2] // 4
    waves = 10000.0 ** (-torch.arange(quarter) / quarter)
    angles = torch.arange(grid)[:, None] * waves
    first = angles.repeat_interleave(grid, 0)
    second = angles.repeat(grid, 1)
    found = embedding[0, 1:].float()
    return any(
        torch.allclose(found, torch.cat([a.sin(), a.cos(), b.sin(), b.cos()], 1), atol=1e-2)
        for a, b in ((first, second), (second, first))
    )
