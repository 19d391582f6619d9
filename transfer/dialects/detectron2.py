"""Detectron2's names: `stem`, `res2` to `res5`, `norm` for a convolution's batch norm, `shortcut` for the downsampling one."""

import pickle
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from results.errors import UserError
from transfer.dialects import refuse

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

ARCHITECTURES = ("resnet18", "resnet50")
ENGINE_FILE = "pkl"
HEADS = {"resnet18": ("fpn",), "resnet50": ("fpn", "c4")}
"""Architecture -> the detectors that can hold all of its weights."""
BLOCK = re.compile(r"layer(\d)\.(\d+)\.(conv\d|bn\d|downsample\.[01])\.(\w+)")
COUNTER = "num_batches_tracked"
"""Frozen batch norm has none, and inference does not read it."""


def translate(state: "dict[str, Tensor]", architecture: str) -> "dict[str, Tensor]":
    """Return the tensors of a ResNet (torchvision's names, no classifier) under Detectron2's, without prefix."""
    refuse(architecture, "Detectron2", ARCHITECTURES, "; torchvision's and timm's names are there for others")
    return {_name(name): value for name, value in state.items() if not name.endswith(COUNTER)}


to_detectron2 = translate


def _name(name: str) -> str:
    stem = re.fullmatch(r"(conv1|bn1)\.(\w+)", name)
    if stem:
        return f"stem.conv1.{'norm.' if stem[1] == 'bn1' else ''}{stem[2]}"
    block = BLOCK.fullmatch(name)
    if block is None:
        raise UserError(f"tensor '{name}' has no place in Detectron2's ResNet: torchvision's names are expected.")
    part, leaf = block[3], block[4]
    place = "shortcut" if part.startswith("downsample") else f"conv{part[-1]}"
    norm = "norm." if part.startswith("bn") or part == "downsample.1" else ""
    return f"res{int(block[1]) + 1}.{block[2]}.{place}.{norm}{leaf}"


def require_head(architecture: str, head: str) -> None:
    """Raise a UserError when the detector with this head (`fpn` or `c4`) cannot hold every weight of the architecture."""
    refuse(architecture, "Detectron2", ARCHITECTURES, "; torchvision's and timm's names are there for others")
    if head.lower() not in HEADS[architecture]:
        raise UserError(
            "resnet18 cannot go into a C4 detector, whose head Detectron2 builds from bottleneck blocks that have no place for "
            "ResNet-18's layer4: take the FPN detector, or resnet50."
            if head.lower() == "c4"
            else f"head '{head}' is not known: fpn and c4 are."
        )


def write_engine_file(state: "dict[str, Tensor]", path: Path) -> None:
    """Write the model-zoo form that `DetectionCheckpointer` reads: arrays by name, to be matched by the ends of the model's names."""
    arrays = {name: value.numpy() for name, value in state.items()}
    content = {"model": arrays, "__author__": "SGCL Bench", "matching_heuristics": True}
    with open(path, "wb") as file:
        pickle.dump(content, file, protocol=4)


def preprocessing(mean: tuple[float, ...], std: tuple[float, ...]) -> dict[str, Any]:
    """Keys of a Detectron2 config; its default is BGR, these weights were trained on RGB."""
    from transfer.dialects.stages import in_255

    return {"INPUT.FORMAT": "RGB", "MODEL.PIXEL_MEAN": in_255(mean), "MODEL.PIXEL_STD": in_255(std)}


def settings(architecture: str) -> dict[str, Any]:
    """Keys of a Detectron2 config without which the weights do not fit, or fit and compute something else."""
    depth, channels = {"resnet18": (18, 64), "resnet50": (50, 256)}[architecture]
    return {
        "MODEL.RESNETS.DEPTH": depth,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": channels,
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
    }


FPN = {
    "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
    "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.ANCHOR_GENERATOR.SIZES": [[16], [32], [64], [128], [256]],
    "MODEL.RPN.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
    "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
    "MODEL.ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4", "p5"],
    "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
    "MODEL.ROI_BOX_HEAD.NUM_FC": 1,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 8,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
}
"""Faster R-CNN on a feature pyramid with a head as small as it gets: the proof looks at the backbone. C4 is Detectron2's default."""


def stages(
    path: Path, architecture: str, image: "np.ndarray", mean: tuple[float, ...], std: tuple[float, ...]
) -> "dict[str, Tensor]":
    """Load the written `.pkl` by `DetectionCheckpointer` into each whole detector that can hold it.

    Returns:
        stage features for a uint8 RGB image (H, W, 3) whose sides are multiples of 32: `layer1` to `layer4` of the FPN detector, and
        `c4 layer1` to `c4 layer4` of the C4 detector, whose last stage sits in its head.
    """
    import torch

    from transfer.dialects.stages import quiet
    from transfer.engines.detectron2.compat import prepare

    prepare()
    found = {}
    rgb = torch.from_numpy(image).permute(2, 0, 1)
    with quiet(), torch.inference_mode():
        for head in HEADS[architecture]:
            model = _detector(path, architecture, head, mean, std)
            bottom = model.backbone.bottom_up if head == "fpn" else model.backbone
            features = bottom.stem(model.preprocess_image([{"image": rgb}]).tensor)
            for number in range(1, 5):
                owner = model.roi_heads if (head, number) == ("c4", 4) else bottom
                features = getattr(owner, f"res{number + 1}")(features)
                found[f"{'' if head == 'fpn' else 'c4 '}layer{number}"] = features
    return found


def _detector(path: Path, architecture: str, head: str, mean: tuple[float, ...], std: tuple[float, ...]) -> Any:
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    config = get_cfg()
    chosen = {"MODEL.DEVICE": "cpu", "MODEL.WEIGHTS": "", **settings(architecture), **preprocessing(mean, std)}
    for key, value in (chosen | (FPN if head == "fpn" else {})).items():
        config.merge_from_list([key, value])
    model = build_model(config).eval()
    DetectionCheckpointer(model).load(str(path))
    return model


def usage(file: str, architecture: str) -> list[str]:
    """Lines of a Detectron2 config that load the file."""
    pairs = [f"{key} = {value!r}" for key, value in settings(architecture).items()]
    heads = (
        "FPN or C4 detectors"
        if "c4" in HEADS[architecture]
        else "FPN detectors only: a C4 head has no place for layer4"
    )
    return [
        f'cfg.MODEL.WEIGHTS = "{file}"  # {heads}',
        *(f"cfg.{pair}" for pair in pairs),
        "# pixel means in card.json: input.detectron2; INPUT.FORMAT is RGB, not Detectron2's default",
    ]
