"""mmsegmentation's names: its `ResNet` has torchvision's, and its own loader wants a `.pth`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer.dialects import refuse

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

ARCHITECTURES = ("resnet18", "resnet50")
ENGINE_FILE = "pth"
DEPTHS = {"resnet18": 18, "resnet50": 50}


def translate(state: "dict[str, Tensor]", architecture: str) -> "dict[str, Tensor]":
    """Return the tensors of a ResNet (torchvision's names) under the names of mmsegmentation's `ResNet`, without prefix."""
    refuse(architecture, "mmseg", ARCHITECTURES, "; torchvision's and timm's names are there for others")
    return dict(state)


to_mmseg = translate


def write_engine_file(state: "dict[str, Tensor]", path: Path) -> None:
    """Write a `.pth` of tensors only, which loads with `weights_only=True`."""
    import torch

    torch.save({"state_dict": state}, path)


def preprocessing(mean: tuple[float, ...], std: tuple[float, ...]) -> dict[str, Any]:
    """Arguments of mmsegmentation's data preprocessor; its loader reads BGR, which the preprocessor turns round."""
    from transfer.dialects.stages import in_255

    return {"type": "SegDataPreProcessor", "mean": in_255(mean), "std": in_255(std), "bgr_to_rgb": True}


def settings(architecture: str) -> dict[str, Any]:
    """Keys of mmsegmentation's own `ResNet` (not `ResNetV1c`, whose stem is another) that the weights were made for."""
    return {"type": "mmseg.ResNet", "depth": DEPTHS[architecture], "style": "pytorch", "out_indices": (0, 1, 2, 3)}


def stages(
    path: Path, architecture: str, image: "np.ndarray", mean: tuple[float, ...], std: tuple[float, ...]
) -> "dict[str, Tensor]":
    """Load the written `.pth` through `init_cfg` and return the stage features for a uint8 RGB image (H, W, 3)."""
    import mmseg.models  # noqa: F401  fills the registry
    import torch
    from mmseg.registry import MODELS

    from transfer.dialects.stages import RESNET_STAGES, captured, quiet

    with quiet():
        model = MODELS.build(settings(architecture) | {"init_cfg": {"type": "Pretrained", "checkpoint": str(path)}})
        model.init_weights()
        prepare = MODELS.build(preprocessing(mean, std) | {"type": "mmseg.SegDataPreProcessor"})
    bgr = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1)
    inputs = prepare({"inputs": [bgr]}, training=False)["inputs"]
    return captured(model, dict(zip(RESNET_STAGES, RESNET_STAGES, strict=True)), inputs)


def usage(file: str, architecture: str) -> list[str]:
    """Lines of a config that load the file."""
    keys = ", ".join(f"{key}={value!r}" for key, value in settings(architecture).items())
    return [
        f'backbone = dict({keys}, init_cfg=dict(type="Pretrained", checkpoint="{file}"))',
        "# not ResNetV1c: its stem of three convolutions has no place for these weights",
        "# dilated heads: dilations=(1, 1, 2, 4), strides=(1, 2, 1, 1) keep every weight",
    ]
