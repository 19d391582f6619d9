"""PIRL: the tile, and its nine regions in shuffled order, both recognise the tile's bank row (sgcl-method.md section 3).

Misra and van der Maaten, "Self-Supervised Learning of Pretext-Invariant Representations", CVPR 2020.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.losses import info_nce
from pretrain.methods.base import Facts, Step, full_precision
from pretrain.methods.npid import NPID, NPIDOptions, linear_neck
from pretrain.randomness import uniform
from pretrain.views import View, ViewSettings
from results.errors import UserError

CELLS = tuple(
    (f"cell{3 * row + column}", (column / 3, row / 3, (column + 1) / 3, (row + 1) / 3))
    for row in range(3)
    for column in range(3)
)
"""Name and region (left, top, right, bottom as shares of the tile) of a 3 x 3 grid, row by row."""


def cell_views(settings: ViewSettings) -> tuple[View, ...]:
    """Nine views of `local_size` px, one from each cell; published: 64 px out of 255 / 3 = 85."""
    return tuple(View(name, settings.local_size, tuple(settings.local_scale), region) for name, region in CELLS)


@dataclass
class PIRLOptions(NPIDOptions):
    """Published values. The paper's two heads are linear."""

    neck: str = "linear"
    global_weight: float = 0.5
    jigsaw_weight: float = 0.5


class PIRL(NPID):
    """L = 0.5 L_self(tile) + 0.5 L_self(jigsaw): one bank of the tile's feature, one draw of negatives."""

    Options = PIRLOptions

    def __init__(self, options: PIRLOptions, facts: Facts, backbone: str, views: ViewSettings):
        super().__init__(options, facts, backbone, views)
        self.cell_neck = linear_neck(self.dimension, options.dimension)
        self.joint = linear_neck(len(CELLS) * options.dimension, options.dimension)

    @classmethod
    def check(cls, options: PIRLOptions) -> None:
        super().check(options)
        weights = (options.global_weight, options.jigsaw_weight)
        if min(weights) < 0 or sum(weights) == 0:
            raise UserError(
                f"pirl.global_weight={weights[0]:g} and pirl.jigsaw_weight={weights[1]:g} do not fit: give 0 or more, not both 0."
            )

    @property
    def views(self) -> tuple[View, ...]:
        return super().views + cell_views(self.view_settings)

    def forward(self, views: dict[str, Tensor], tile_ids: Tensor, epoch: int, step: int) -> Step:
        q = F.normalize(self.neck(self.backbone(views["global"])).float(), dim=1)
        cells = self.cell_neck(self.backbone(torch.cat([views[name] for name, _ in CELLS])))
        jigsaw = self.join(cells.view(len(CELLS), len(q), -1).transpose(0, 1), self.orders(tile_ids, epoch))
        bank, drawn = self.banks["global"], self.draw_negatives(step)
        negatives, own, absent = bank[drawn].T, bank[tile_ids], drawn == tile_ids[:, None]
        with full_precision(q):
            losses = {
                name: info_nce(
                    (query.float() * own).sum(1), query.float() @ negatives, self.options.temperature, absent
                )
                for name, query in (("self", q), ("jigsaw", jigsaw))
            }
        weights = {"self": self.options.global_weight, "jigsaw": self.options.jigsaw_weight}
        return Step(losses, q, tile_ids, weights, writes={"global": q})

    def orders(self, tile_ids: Tensor, epoch: int) -> Tensor:
        """(B, 9) int64: the cell at every place of each tile's jigsaw, drawn anew in every epoch."""
        draws = uniform(tile_ids.cpu().numpy(), len(CELLS), self.facts.seed, epoch, "jigsaw")
        return torch.from_numpy(draws.argsort(1, kind="stable")).to(tile_ids.device)

    def join(self, cells: Tensor, orders: Tensor) -> Tensor:
        """Unit feature (B, D) of (B, 9, D) cell features taken in the (B, 9) orders."""
        shuffled = cells.gather(1, orders[:, :, None].expand_as(cells))
        return F.normalize(self.joint(shuffled.flatten(1)).float(), dim=1)
