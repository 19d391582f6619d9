"""BYOL: predict a momentum teacher's projection of the other view (Grill et al., 2020; sgcl-method.md section 3)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules.heads import BYOLPredictionHead, BYOLProjectionHead
from lightly.models.utils import update_momentum
from lightly.utils.scheduler import cosine_schedule
from torch import Tensor, nn

from pretrain.backbones import teacher_of
from pretrain.methods.base import Facts, Method, Step
from pretrain.views import View, ViewSettings, two_views


@dataclass
class BYOLOptions:
    """Published values: neck and predictor of `hidden` and `dimension` units; `momentum` goes to 1 by half a cosine."""

    hidden: int = 1024
    dimension: int = 256
    momentum: float = 0.996


class BYOL(Method):
    """No negatives: each view's prediction attracts the teacher's projection of the other view.

    Loss = sum over both directions of 2 - 2 cos. Batch norm is shared by CUDA ranks; CPU ranks keep their own.
    """

    Options = BYOLOptions
    sync_batch_norm = True

    def __init__(self, options: BYOLOptions, facts: Facts, backbone: str, views: ViewSettings):
        super().__init__(options, facts, backbone, views)
        self.neck = BYOLProjectionHead(self.dimension, options.hidden, options.dimension)
        self.predictor = BYOLPredictionHead(options.dimension, options.hidden, options.dimension)
        self.teacher = teacher_of(nn.Sequential(self.backbone, self.neck))
        self.similarity = NegativeCosineSimilarity()

    @property
    def views(self) -> tuple[View, ...]:
        return two_views(self.view_settings)

    def forward(self, views: dict[str, Tensor], tile_ids: Tensor, epoch: int, step: int) -> Step:
        projections = [self.neck(self.backbone(views[name])) for name in ("global", "second")]
        predictions = [self.predictor(z).float() for z in projections]
        with torch.no_grad():
            targets = [self.teacher(views[name]).float() for name in ("second", "global")]
        losses = [2 + 2 * self.similarity(p, z) for p, z in zip(predictions, targets, strict=True)]
        return Step({"predict": sum(losses)}, F.normalize(projections[0].float(), dim=1), tile_ids)

    def after_step(self, step: int, steps: int) -> None:
        momentum = cosine_schedule(step, steps, self.options.momentum, 1.0)
        update_momentum(nn.Sequential(self.backbone, self.neck), self.teacher, momentum)
