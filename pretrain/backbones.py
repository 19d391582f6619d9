"""Backbones with torchvision's names, without a classifier."""

import torchvision
from torch import nn

FEATURE_DIMS = {"resnet18": 512, "resnet50": 2048}


def build(name: str) -> tuple[nn.Module, int]:
    """Return an untrained backbone (a name of `FEATURE_DIMS`) that maps (B, 3, H, W) to pooled features (B, D), and D.

    Convolutions are initialised with Kaiming's fan-in rule (sgcl-method.md 2.2).
    """
    network = getattr(torchvision.models, name)(weights=None)
    network.fc = nn.Identity()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
    return network, FEATURE_DIMS[name]


def mlp_neck(dimension: int, out: int) -> nn.Module:
    """Linear, ReLU, Linear without batch norm, Kaiming weights and zero bias (sgcl-method.md 2.2)."""
    neck = nn.Sequential(nn.Linear(dimension, dimension), nn.ReLU(inplace=True), nn.Linear(dimension, out))
    for module in neck:
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            nn.init.zeros_(module.bias)
    return neck
