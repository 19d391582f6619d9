"""Segmentation networks: one file each, with `network(architecture, classes, norm)` that returns mmsegmentation's settings."""

import importlib
import pkgutil
from typing import Any

HEADS = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))
DEPTHS = {"resnet18": 18, "resnet50": 50}
WIDTHS = {"resnet18": (64, 128, 256, 512), "resnet50": (256, 512, 1024, 2048)}
"""Channels of the four stages."""


def network(name: str, architecture: str, classes: int, norm: str) -> dict[str, Any]:
    """Return the settings of a whole segmenter under mmsegmentation's names, without weights.

    Args:
        name: one of `HEADS`.
        architecture: one of `DEPTHS`.
        classes: C.
        norm: `BN` or, where several devices train together, `SyncBN`.
    """
    return importlib.import_module(f"{__name__}.{name}").network(architecture, classes, norm)


def backbone(
    architecture: str, norm: str, strides: tuple[int, ...] = (1, 2, 2, 2), dilations: tuple[int, ...] = (1, 1, 1, 1)
) -> dict[str, Any]:
    """Return the settings of a ResNet with torchvision's stem, all stages trained."""
    return {
        "type": "ResNet",
        "depth": DEPTHS[architecture],
        "strides": strides,
        "dilations": dilations,
        "contract_dilation": True,
        "norm_cfg": {"type": norm, "requires_grad": True},
        "norm_eval": False,
    }


def head(kind: str, classes: int, norm: str, weight: float = 1.0, **settings: Any) -> dict[str, Any]:
    """Return the settings of a decoding head with cross entropy over the px that count."""
    loss = {"type": "CrossEntropyLoss", "loss_weight": weight, "avg_non_ignore": True}
    common = {"num_classes": classes, "dropout_ratio": 0.1, "align_corners": False, "loss_decode": loss}
    return {"type": kind, "norm_cfg": {"type": norm, "requires_grad": True}, **common, **settings}
