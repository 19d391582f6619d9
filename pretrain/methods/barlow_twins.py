"""Barlow Twins: the cross-correlation of two views goes to the identity (Zbontar et al., 2021); not a published rival of SGCL."""

from dataclasses import dataclass

import torch.nn.functional as F
from lightly.loss import BarlowTwinsLoss
from lightly.models.modules.heads import BarlowTwinsProjectionHead
from torch import Tensor

from pretrain.methods.base import Facts, Method, Step, full_precision
from pretrain.views import View, ViewSettings, two_views


@dataclass
class BarlowTwinsOptions:
    """The paper's weight of the redundancy term; `hidden` and `dimension` are 8192 in the paper, for batches of 2048."""

    hidden: int = 2048
    dimension: int = 2048
    redundancy: float = 0.005


class BarlowTwins(Method):
    """Both views of a tile agree in every output, and outputs do not repeat each other; no negatives, no teacher.

    Deviations: three layers of 2048 units instead of 8192; one learning rate for weights, biases and norms. Correlations are
    summed over the ranks, and batch norm is shared by CUDA ranks.
    """

    Options = BarlowTwinsOptions
    sync_batch_norm = True

    def __init__(self, options: BarlowTwinsOptions, facts: Facts, backbone: str, views: ViewSettings):
        super().__init__(options, facts, backbone, views)
        self.neck = BarlowTwinsProjectionHead(self.dimension, options.hidden, options.dimension)
        self.loss = BarlowTwinsLoss(options.redundancy, gather_distributed=facts.world.size > 1)

    @property
    def label(self) -> str:
        return "barlow twins"

    @property
    def views(self) -> tuple[View, ...]:
        return two_views(self.view_settings)

    def forward(self, views: dict[str, Tensor], tile_ids: Tensor, epoch: int, step: int) -> Step:
        first, second = (self.neck(self.backbone(views[name])).float() for name in ("global", "second"))
        with full_precision(first):
            loss = self.loss(first, second)
        return Step({"correlation": loss}, F.normalize(first, dim=1), tile_ids)
