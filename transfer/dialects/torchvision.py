"""torchvision's names. ResNets are kept in them; a ViT-S is `VisionTransformer`, which torchvision has under no name of its own."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from results.errors import UserError
from transfer.dialects import refuse

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

ARCHITECTURES = ("resnet18", "resnet50", "vit_small")
ENGINE_FILE = None
VIT_SMALL = {"image_size": 224, "patch_size": 16, "num_layers": 12, "num_heads": 6, "hidden_dim": 384, "mlp_dim": 1536}
"""Arguments of `torchvision.models.VisionTransformer`; layer norm epsilon is 1e-6 there and in timm."""
OUTSIDE_BLOCKS = {
    "cls_token": "class_token",
    "pos_embed": "encoder.pos_embedding",
    "patch_embed.proj.weight": "conv_proj.weight",
    "patch_embed.proj.bias": "conv_proj.bias",
    "norm.weight": "encoder.ln.weight",
    "norm.bias": "encoder.ln.bias",
}
IN_BLOCK = {
    "norm1.": "ln_1.",
    "attn.qkv.": "self_attention.in_proj_",
    "attn.proj.": "self_attention.out_proj.",
    "norm2.": "ln_2.",
    "mlp.fc1.": "mlp.0.",
    "mlp.fc2.": "mlp.3.",
}


def translate(state: "dict[str, Tensor]", architecture: str) -> "dict[str, Tensor]":
    """Return the tensors under torchvision's names.

    Args:
        state: a ResNet under torchvision's names or a ViT-S under timm's, without a classifier.
        architecture: `resnet18`, `resnet50` or `vit_small`.
    """
    refuse(architecture, "torchvision", ARCHITECTURES)
    if architecture != "vit_small":
        return dict(state)
    return {_vit_name(name): value for name, value in state.items()}


to_torchvision = translate


def _vit_name(name: str) -> str:
    if name in OUTSIDE_BLOCKS:
        return OUTSIDE_BLOCKS[name]
    block = re.fullmatch(r"blocks\.(\d+)\.(.+\.)(weight|bias)", name)
    if block is None or block[2] not in IN_BLOCK:
        raise UserError(f"tensor '{name}' has no place in torchvision's ViT: a plain timm ViT-S/16 is expected.")
    return f"encoder.layers.encoder_layer_{block[1]}.{IN_BLOCK[block[2]]}{block[3]}"


def preprocessing(mean: tuple[float, ...], std: tuple[float, ...]) -> dict[str, Any]:
    """How images must be brought to the network."""
    return {"channels": "RGB", "range": "0 to 1", "mean": list(mean), "std": list(std)}


def build(architecture: str) -> "nn.Module":
    """Build torchvision's own model without a classifier."""
    import torch
    import torchvision

    if architecture == "vit_small":
        model = torchvision.models.VisionTransformer(**VIT_SMALL)
        model.heads = torch.nn.Identity()
        return model
    model = getattr(torchvision.models, architecture)(weights=None)
    model.fc = torch.nn.Identity()
    return model


def stages(
    path: Path, architecture: str, image: "np.ndarray", mean: tuple[float, ...], std: tuple[float, ...]
) -> "dict[str, Tensor]":
    """Load the written file into torchvision's model and return its stage features for a uint8 RGB image (H, W, 3)."""
    from safetensors.torch import load_file

    from transfer.dialects.stages import RESNET_STAGES, captured, normalised

    model = build(architecture)
    model.load_state_dict(load_file(path))
    modules = (
        {"tokens": "encoder"} if architecture == "vit_small" else dict(zip(RESNET_STAGES, RESNET_STAGES, strict=True))
    )
    return captured(model, modules, normalised(image, mean, std))


def usage(file: str, architecture: str) -> list[str]:
    """Lines of Python that load the file."""
    if architecture == "vit_small":
        arguments = ", ".join(f"{key}={value}" for key, value in VIT_SMALL.items())
        first = [f"model = torchvision.models.VisionTransformer({arguments})", "model.heads = torch.nn.Identity()"]
    else:
        first = [f"model = torchvision.models.{architecture}()", "model.fc = torch.nn.Identity()"]
    return [
        "import safetensors.torch, torch, torchvision",
        *first,
        f'model.load_state_dict(safetensors.torch.load_file("{file}"))',
    ]
