"""Faster R-CNN on an encoder's ResNet, built by Detectron2, and the proof that every weight arrived.

Input is RGB, normalised the encoder's way; every layer trains (`FREEZE_AT` 0) and batch norm is never frozen.
"""

from typing import TYPE_CHECKING

import torch

from results.errors import UserError
from transfer.dialects import detectron2 as dialect
from transfer.encoders.network import Backbone
from transfer.engines.detectron2 import compat
from transfer.engines.detectron2.schedules import PROPOSALS, Schedule

if TYPE_CHECKING:
    from detectron2.config import CfgNode

DETECTIONS = 300
"""Boxes an image at most."""
LEAST_SCORE = 0.01
ANCHORS = (8, 16, 32, 64, 128)
"""Sides in px of the annotated image (nuclei at 0.2 um/px are 10 to 60 px); one a level of the pyramid, all on the one level of C4."""
RATIOS = (0.5, 1.0, 2.0)
STAGES = ["res2", "res3", "res4", "res5"]
COUNTER = "num_batches_tracked"


def configure(
    heads: str,
    architecture: str,
    classes: int,
    schedule: Schedule,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    device: str,
    norm: str,
) -> "CfgNode":
    """Return Detectron2's configuration of one detector and its training.

    Args:
        heads: `fpn` or `c4`.
        architecture: `resnet18` or `resnet50`.
        classes: how many, background left out.
        schedule: training settings.
        mean, std: of RGB in 0 to 1.
        device: of torch.
        norm: `BN`, `SyncBN` or `naiveSyncBN`.
    """
    compat.prepare()
    from detectron2.config import get_cfg

    cfg = get_cfg()
    for key, value in (dialect.settings(architecture) | dialect.preprocessing(mean, std)).items():
        cfg.merge_from_list([key, value])
    model = cfg.MODEL
    model.META_ARCHITECTURE, model.WEIGHTS, model.DEVICE = "GeneralizedRCNN", "", device
    model.BACKBONE.FREEZE_AT, model.RESNETS.NORM = 0, norm
    model.ROI_HEADS.NUM_CLASSES, model.ROI_HEADS.SCORE_THRESH_TEST = classes, LEAST_SCORE
    cfg.TEST.DETECTIONS_PER_IMAGE = DETECTIONS
    _configure_heads(model, heads, norm, [side * schedule.scale for side in ANCHORS])
    _configure_proposals(model, schedule)
    _configure_solver(cfg.SOLVER, schedule)
    return cfg


def _configure_heads(model: "CfgNode", heads: str, norm: str, sides: list[float]) -> None:
    model.ANCHOR_GENERATOR.ASPECT_RATIOS = [list(RATIOS)]
    if heads == "fpn":
        model.BACKBONE.NAME = "build_resnet_fpn_backbone"
        model.RESNETS.OUT_FEATURES, model.FPN.IN_FEATURES, model.FPN.NORM = STAGES, STAGES, norm
        model.ANCHOR_GENERATOR.SIZES = [[side] for side in sides]
        model.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
        model.ROI_HEADS.NAME, model.ROI_HEADS.IN_FEATURES = "StandardROIHeads", ["p2", "p3", "p4", "p5"]
        model.ROI_BOX_HEAD.NAME, model.ROI_BOX_HEAD.NUM_FC = "FastRCNNConvFCHead", 2
        model.ROI_BOX_HEAD.POOLER_RESOLUTION = 7
    else:
        model.BACKBONE.NAME, model.RESNETS.OUT_FEATURES = "build_resnet_backbone", ["res4"]
        model.ANCHOR_GENERATOR.SIZES = [sides]
        model.RPN.IN_FEATURES = ["res4"]
        model.ROI_HEADS.NAME, model.ROI_HEADS.IN_FEATURES = "Res5ROIHeads", ["res4"]
        model.ROI_BOX_HEAD.POOLER_RESOLUTION = 14


def _configure_proposals(model: "CfgNode", schedule: Schedule) -> None:
    numbers = PROPOSALS[schedule.proposals]
    model.RPN.PRE_NMS_TOPK_TRAIN, model.RPN.POST_NMS_TOPK_TRAIN = numbers.before_train, numbers.after_train
    model.RPN.PRE_NMS_TOPK_TEST, model.RPN.POST_NMS_TOPK_TEST = numbers.before_test, numbers.after_test
    model.ROI_HEADS.BATCH_SIZE_PER_IMAGE = numbers.head


def _configure_solver(solver: "CfgNode", schedule: Schedule) -> None:
    solver.IMS_PER_BATCH, solver.MAX_ITER, solver.BASE_LR = schedule.batch, schedule.iterations, schedule.lr
    solver.MOMENTUM, solver.WEIGHT_DECAY = schedule.momentum, schedule.weight_decay
    solver.LR_SCHEDULER_NAME, solver.GAMMA = "WarmupMultiStepLR", 0.1
    solver.STEPS = tuple(sorted({round(share * schedule.iterations) for share in schedule.decay_at}))
    solver.WARMUP_ITERS, solver.WARMUP_FACTOR = min(schedule.warmup, schedule.iterations - 1), 0.001
    solver.CLIP_GRADIENTS.ENABLED = True
    solver.CLIP_GRADIENTS.CLIP_TYPE, solver.CLIP_GRADIENTS.CLIP_VALUE = "norm", schedule.clip


def build(cfg: "CfgNode", heads: str, backbone: Backbone) -> torch.nn.Module:
    """Build the detector and put the encoder's weights into it; new layers are drawn from torch's global generator.

    The C4 head gets one more batch norm after res5, as in the detection protocol of MoCo (He et al., CVPR 2020, section 4.2):
    an encoder without frozen batch norm needs its features renormalised there.
    """
    from detectron2.layers import get_norm
    from detectron2.modeling import build_model

    model = build_model(cfg)
    if heads == "c4":
        channels = cfg.MODEL.RESNETS.RES2_OUT_CHANNELS * 8
        model.roi_heads.res5.add_module("norm", get_norm(cfg.MODEL.RESNETS.NORM, channels).to(model.device))
    load_backbone(model, heads, backbone)
    return model


def load_backbone(model: torch.nn.Module, heads: str, backbone: Backbone) -> None:
    """Copy the encoder's tensors and compare all of them afterwards.

    Raises:
        UserError: when a tensor of the encoder or of the detector's backbone is left over, or did not arrive bit for bit.
    """
    given = {
        _place(name, heads): value
        for name, value in dialect.to_detectron2(backbone.state, backbone.architecture).items()
        if not name.endswith(COUNTER)
    }
    own = model.state_dict()
    homes = ("backbone.bottom_up.",) if heads == "fpn" else ("backbone.", "roi_heads.res5.")
    expected = {
        name
        for name in own
        if name.startswith(homes) and not name.startswith("roi_heads.res5.norm.") and not name.endswith(COUNTER)
    }
    fitting = {name: value for name, value in given.items() if name in own and own[name].shape == value.shape}
    model.load_state_dict(fitting, strict=False)
    landed = model.state_dict()
    lost = sorted(
        name
        for name in expected | given.keys()
        if name not in expected or name not in fitting or not torch.equal(landed[name].cpu(), given[name])
    )
    if lost:
        raise UserError(
            f"{len(lost)} of {len(expected | given.keys())} tensors of the {backbone.architecture} did not reach Detectron2's model "
            f"({', '.join(lost[:3])}): export the encoder again, or give one whose coverage report is complete."
        )


def _place(name: str, heads: str) -> str:
    if heads == "fpn":
        return f"backbone.bottom_up.{name}"
    return f"roi_heads.{name}" if name.startswith("res5.") else f"backbone.{name}"
