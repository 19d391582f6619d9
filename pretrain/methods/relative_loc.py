"""Relative location: where does a cell lie as seen from the centre? (sgcl-method.md section 3; Doersch et al., ICCV 2015)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.methods.base import Facts, Method, Step
from pretrain.methods.pirl import CELLS, cell_views
from pretrain.methods.rotation import classifier
from pretrain.views import View, ViewSettings

CENTRE = len(CELLS) // 2
NEIGHBOURS = len(CELLS) - 1


@dataclass
class RelativeLocOptions:
    """`hidden` is the width of the neck; null is twice the backbone's feature dimension.

    That is the proportion of mmselfsup's ImageNet configuration (`configs/selfsup/relative_loc/r50.py`: 4,096 for the 2,048 features
    of ResNet-50).
    """

    hidden: int | None = None


class RelativeLoc(Method):
    """Pairs of the centre cell with each of its eight neighbours, classified by place; crops inside the cells give gaps and jitter."""

    Options = RelativeLocOptions

    def __init__(self, options: RelativeLocOptions, facts: Facts, backbone: str, views: ViewSettings):
        super().__init__(options, facts, backbone, views)
        hidden = options.hidden or 2 * self.dimension
        self.neck = nn.Sequential(nn.Linear(2 * self.dimension, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True))
        self.head = classifier(hidden, NEIGHBOURS)

    @property
    def views(self) -> tuple[View, ...]:
        return cell_views(self.view_settings)

    def forward(self, views: dict[str, Tensor], tile_ids: Tensor, epoch: int, step: int) -> Step:
        cells = self.backbone(torch.cat([views[name] for name, _ in CELLS])).view(len(CELLS), len(tile_ids), -1)
        paired, places = pairs(cells)
        logits = self.head(self.neck(paired)).float()
        right = (logits.argmax(1) == places).float().mean()
        embedding = F.normalize(cells[CENTRE].float(), dim=1)
        return Step({"location": F.cross_entropy(logits, places)}, embedding, tile_ids, numbers={"accuracy": right})


def pairs(cells: Tensor) -> tuple[Tensor, Tensor]:
    """(9, B, D) features, row by row, to (8 B, 2 D) pairs (centre, neighbour) and the neighbours' places (8 B,), 0 to 7."""
    others = torch.cat([cells[:CENTRE], cells[CENTRE + 1 :]])
    paired = torch.cat([cells[CENTRE].expand_as(others), others], 2).flatten(0, 1)
    return paired, torch.arange(NEIGHBOURS, device=cells.device).repeat_interleave(cells.shape[1])
