"""NPID: instance discrimination against a memory bank, with an MLP neck (sgcl-method.md 2.5 and section 3, `npid/r18_mlp`)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain import methods
from pretrain.backbones import mlp_neck
from pretrain.bank import check_momentum
from pretrain.losses import info_nce
from pretrain.methods.base import Facts, Method, Step, full_precision
from pretrain.options import check_options
from pretrain.randomness import generator
from pretrain.views import View, ViewSettings, global_view


@dataclass
class NPIDOptions:
    """Published values; `bank` is how rows are kept (fp32, bf16, int8), `shard` deals them to the ranks; `negatives` is capped at the number of tiles. `forget_start=false` blends a row's first write, as published."""

    dimension: int = 128
    temperature: float = 0.2
    momentum: float = 0.5
    negatives: int = 65536
    forget_start: bool = True
    neck: str = "mlp"
    bank: str = "fp32"
    shard: bool = False


def linear_neck(dimension: int, out: int) -> nn.Module:
    """One linear layer with Kaiming weights and zero bias, the neck of the first NPID (section 3, `npid/r18_camelyon`)."""
    neck = nn.Linear(dimension, out)
    nn.init.kaiming_normal_(neck.weight, mode="fan_in", nonlinearity="relu")
    nn.init.zeros_(neck.bias)
    return neck


NECKS = {"mlp": mlp_neck, "linear": linear_neck}


class NPID(Method):
    """Every tile is its own class; its bank row is the positive, uniformly drawn rows are the negatives."""

    Options = NPIDOptions

    def __init__(self, options: NPIDOptions, facts: Facts, backbone: str, views: ViewSettings):
        super().__init__(options, facts, backbone, views)
        check_options(methods.name_of(type(self)), options)
        check_momentum(self.key("momentum"), options.momentum)
        self.neck = NECKS[options.neck](self.dimension, options.dimension)
        self.negatives = min(options.negatives, facts.tiles)
        self.remember_rows("global", options.dimension)

    @classmethod
    def check(cls, options: NPIDOptions) -> None:
        super().check(options)
        check_momentum(cls.key("momentum"), options.momentum)

    def remember_rows(self, name: str, dimension: int) -> None:
        """Make a bank as the options say."""
        options = self.options
        self.add_bank(name, dimension, options.momentum, options.forget_start, options.bank, options.shard)

    @property
    def views(self) -> tuple[View, ...]:
        return (global_view(self.view_settings),)

    def resolved(self) -> dict[str, int]:
        return {"negatives": self.negatives}

    def forward(self, views: dict[str, Tensor], tile_ids: Tensor, epoch: int, step: int) -> Step:
        pooled = self.backbone(views["global"])
        q = F.normalize(self.neck(pooled).float(), dim=1)
        drawn = self.draw_negatives(step)
        loss = self.self_invariance(q, tile_ids, drawn)
        return Step({"self": loss}, q, tile_ids, writes={"global": q})

    def draw_negatives(self, step: int) -> Tensor:
        """(K,) tile ids, uniform with replacement, shared by the batch (S4) and different on every rank (D10)."""
        rng = generator(self.facts.seed, step, self.facts.world.rank, "negatives")
        return torch.randint(self.facts.tiles, (self.negatives,), generator=rng).to(self.facts.slide.device)

    def self_invariance(self, q: Tensor, tile_ids: Tensor, drawn: Tensor) -> Tensor:
        """L_self of (B, D) queries; a tile is never its own negative (D10)."""
        bank = self.banks["global"]
        with full_precision(q):
            positive, negatives = (q * bank[tile_ids]).sum(1), q @ bank[drawn].T
        return info_nce(positive, negatives, self.options.temperature, drawn == tile_ids[:, None])
