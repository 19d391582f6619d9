"""timm's names: a ViT is kept in them, and a ResNet's are torchvision's."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer.dialects import refuse

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

ARCHITECTURES = ("resnet18", "resnet50", "vit_small")
ENGINE_FILE = None
MODELS = {"resnet18": "resnet18", "resnet50": "resnet50", "vit_small": "vit_small_patch16_224"}
"""Architecture -> the first argument of `timm.create_model`."""


def translate(state: "dict[str, Tensor]", architecture: str) -> "dict[str, Tensor]":
    """Return the tensors under timm's names: those in which ResNets (torchvision's) and ViTs (timm's) come."""
    refuse(architecture, "timm", ARCHITECTURES)
    return dict(state)


to_timm = translate


def preprocessing(mean: tuple[float, ...], std: tuple[float, ...]) -> dict[str, Any]:
    """How images must be brought to the network."""
    return {"channels": "RGB", "range": "0 to 1", "mean": list(mean), "std": list(std)}


def stages(
    path: Path, architecture: str, image: "np.ndarray", mean: tuple[float, ...], std: tuple[float, ...]
) -> "dict[str, Tensor]":
    """Load the written file by timm's own loader and return the stage features for a uint8 RGB image (H, W, 3)."""
    import timm

    from transfer.dialects.stages import RESNET_STAGES, captured, normalised

    model = timm.create_model(MODELS[architecture], pretrained=False, num_classes=0, checkpoint_path=str(path))
    modules = (
        {"tokens": "norm"} if architecture == "vit_small" else dict(zip(RESNET_STAGES, RESNET_STAGES, strict=True))
    )
    return captured(model, modules, normalised(image, mean, std))


def usage(file: str, architecture: str) -> list[str]:
    """Lines of Python that load the file."""
    return [
        "import timm",
        f'model = timm.create_model("{MODELS[architecture]}", num_classes=0, checkpoint_path="{file}")',
        "# other input sides of a ViT: create_model(..., dynamic_img_size=True)"
        if architecture == "vit_small"
        else "# feature maps: model.forward_intermediates(images)",
    ]
