"""SimCLR: two views of a tile against all other tiles of the batch (Chen et al., 2020; sgcl-method.md section 3)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from lightly.loss import NTXentLoss
from lightly.models.modules.heads import SimCLRProjectionHead
from torch import Tensor

from pretrain.methods.base import Facts, Method, Step, full_precision
from pretrain.views import View, ViewSettings, two_views


@dataclass
class SimCLROptions:
    """Published values: a neck with layers of `hidden` and `dimension` units."""

    hidden: int = 512
    dimension: int = 128
    temperature: float = 0.1


class SimCLR(Method):
    """Both views of a tile attract each other; the views of the other tiles of all ranks are negatives.

    Batch norm is shared by CUDA ranks, as published; CPU ranks keep their own.
    """

    Options = SimCLROptions
    sync_batch_norm = True

    def __init__(self, options: SimCLROptions, facts: Facts, backbone: str, views: ViewSettings):
        super().__init__(options, facts, backbone, views)
        self.neck = SimCLRProjectionHead(self.dimension, options.hidden, options.dimension)
        self.loss = NTXentLoss(options.temperature, gather_distributed=facts.world.size > 1)

    @property
    def views(self) -> tuple[View, ...]:
        return two_views(self.view_settings)

    def forward(self, views: dict[str, Tensor], tile_ids: Tensor, epoch: int, step: int) -> Step:
        both = torch.cat([views["global"], views["second"]])
        first, second = F.normalize(self.neck(self.backbone(both)).float(), dim=1).chunk(2)
        with full_precision(first):
            loss = self.loss(first, second)
        return Step({"contrast": loss}, first, tile_ids)
