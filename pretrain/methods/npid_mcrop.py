"""NPID + Mcrop: instance discrimination of the tile and of its four quadrants, without neighbours (sgcl-method.md 2.8b, section 3)."""

from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from pretrain.methods.base import Facts, Step
from pretrain.methods.npid import NPIDOptions
from pretrain.methods.sgcl import SGCL, SGCLOptions
from pretrain.views import ViewSettings
from results.errors import UserError


@dataclass
class NPIDMcropOptions(NPIDOptions):
    """Published weights; `siblings`: the other quadrants of a tile are negatives (D16), false is the published behaviour."""

    global_weight: float = 0.2
    local_weight: float = 0.8
    siblings: bool = True


class NPIDMcrop(SGCL):
    """L = 0.2 L_self + 0.8 L_inner: SGCL with its spatial and semantic parts switched off and other weights."""

    Options = NPIDMcropOptions

    def __init__(self, options: NPIDMcropOptions, facts: Facts, backbone: str, views: ViewSettings):
        shared = {f.name: getattr(options, f.name) for f in fields(NPIDOptions)}
        parts = SGCLOptions(**shared, spatial=False, semantic=False, d16=options.siblings)
        super().__init__(parts, facts, backbone, views)
        self.term_weights = {"self": options.global_weight, "inner": options.local_weight}

    @classmethod
    def check(cls, options: NPIDMcropOptions) -> None:
        super(SGCL, cls).check(options)  # of NPID
        weights = (options.global_weight, options.local_weight)
        if min(weights) < 0 or sum(weights) == 0:
            raise UserError(
                f"npid_mcrop.global_weight={weights[0]:g} and npid_mcrop.local_weight={weights[1]:g} do not fit: give 0 or more, not both 0."
            )

    @classmethod
    def without_coordinates(cls) -> dict[str, Any]:
        return {}

    @property
    def label(self) -> str:
        return "npid_mcrop"

    def resolved(self) -> dict[str, int]:
        return {"negatives": self.negatives}

    def forward(self, views: dict[str, Tensor], tile_ids: Tensor, epoch: int, step: int) -> Step:
        result = super().forward(views, tile_ids, epoch, step)
        result.weights = self.term_weights
        return result
