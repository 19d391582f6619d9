"""VICReg: two views agree while every output keeps its variance and none repeats another (Bardes et al., 2022); not a published rival of SGCL."""

from dataclasses import dataclass

import torch.nn.functional as F
from lightly.loss import VICRegLoss
from lightly.models.modules.heads import VICRegProjectionHead
from torch import Tensor

from pretrain.methods.base import Facts, Method, Step, full_precision
from pretrain.views import View, ViewSettings, two_views


@dataclass
class VICRegOptions:
    """The paper's weights of the three terms; `hidden` and `dimension` are 8192 in the paper, for batches of 2048."""

    hidden: int = 2048
    dimension: int = 2048
    invariance: float = 25.0
    variance: float = 25.0
    covariance: float = 1.0


class VICReg(Method):
    """No negatives, no teacher: variance keeps the outputs from collapsing, covariance from repeating each other.

    Deviations: three layers of 2048 units instead of 8192; one learning rate for weights, biases and norms. Variance and
    covariance are those of all ranks' outputs, and batch norm is shared by CUDA ranks.
    """

    Options = VICRegOptions
    sync_batch_norm = True

    def __init__(self, options: VICRegOptions, facts: Facts, backbone: str, views: ViewSettings):
        super().__init__(options, facts, backbone, views)
        self.neck = VICRegProjectionHead(self.dimension, options.hidden, options.dimension)
        self.loss = VICRegLoss(
            options.invariance, options.variance, options.covariance, gather_distributed=facts.world.size > 1
        )

    @property
    def views(self) -> tuple[View, ...]:
        return two_views(self.view_settings)

    def forward(self, views: dict[str, Tensor], tile_ids: Tensor, epoch: int, step: int) -> Step:
        first, second = (self.neck(self.backbone(views[name])).float() for name in ("global", "second"))
        with full_precision(first):
            loss = self.loss(first, second)
        return Step({"vicreg": loss}, F.normalize(first, dim=1), tile_ids)
