"""SSLP (MICCAI 2021): instance, spatial and semantic terms against mined negatives, side by side (sgcl-method.md 2.9)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.bank import check_momentum
from pretrain.losses import EPSILON, info_nce, neighbour_loss, ramp_up
from pretrain.methods.base import Facts, Method, Step, full_precision
from pretrain.methods.npid import linear_neck
from pretrain.neighbours import sizes, union, without
from pretrain.neighbours.clusters import Cells, cluster_bank, random_labels
from pretrain.neighbours.search import ExactSearch, Search, check_form, is_sampled, sampled_search, semantic_sets
from pretrain.neighbours.spatial import SpatialIndex
from pretrain.randomness import key
from pretrain.views import View, ViewSettings, global_view
from results.errors import UserError

TERMS = ("self", "spatial", "semantic")
LAW = "fixed"


@dataclass
class SSLPOptions:
    """Published values; counts are capped by the number of tiles N (`nei_k` at 5 %, `clusters` at N / 40).

    `form`, `sample`, `bank` and `shard` are those of `sgcl`: `sampled` costs the same at any N, `auto` is exact up to 2 million tiles.
    """

    dimension: int = 128
    temperature: float = 0.07
    momentum: float = 0.5
    nei_k: int = 4096
    radius: float = 3.0
    aux: int = 1
    clusters: int = 1000
    clusterings: int = 3
    ramp_up: int = 10
    forget_start: bool = True
    form: str = "auto"
    sample: int = 16384
    bank: str = "fp32"
    shard: bool = False


class SSLP(Method):
    """L = L_npid + w(epoch) (L_spatial + L_semantic), all at one temperature, on one bank and a linear neck.

    Each term has its own draw of semi-hard negatives H from the most similar 20 % by the projected similarity; the anchor and
    its positives are in none of them. The slips that `sgcl` mends in both of its variants (masks by minus infinity, integer
    distances, no own row, seeds), and D4 to D8, are mended here too.
    """

    Options = SSLPOptions

    def __init__(self, options: SSLPOptions, facts: Facts, backbone: str, views: ViewSettings):
        super().__init__(options, facts, backbone, views)
        self.neck = linear_neck(self.dimension, options.dimension)
        self.nearest = max(1, min(options.nei_k, facts.tiles // 20))
        self.clusters = max(1, min(options.clusters, facts.tiles // 40))
        self.index = SpatialIndex(facts.slide, facts.x, facts.y, options.radius)
        start = random_labels(facts.tiles, self.clusters, options.clusterings, facts.seed, facts.world.device)
        self.cells = Cells(start)
        self.add_bank("global", options.dimension, options.momentum, options.forget_start, options.bank, options.shard)
        self.sampled = is_sampled(options.form, facts.tiles)
        if not self.sampled:
            bank = self.banks["global"]
            self.exact = ExactSearch(bank, bank, LAW, facts.seed)

    @classmethod
    def check(cls, options: SSLPOptions) -> None:
        super().check(options)
        check_momentum(cls.key("momentum"), options.momentum)
        check_form(cls.key, options)

    @classmethod
    def without_coordinates(cls) -> dict[str, Any]:
        raise UserError(
            "method=sslp needs places on a slide, and these tiles have none: take sgcl, whose spatial term is then switched off, or npid."
        )

    @property
    def views(self) -> tuple[View, ...]:
        return (global_view(self.view_settings),)

    def resolved(self) -> dict[str, Any]:
        form = "sampled" if self.sampled else "exact"
        return {"nei_k": self.nearest, "clusters": self.clusters, "form": form}

    def start_epoch(self, epoch: int) -> None:
        """Cluster the bank anew, from the second epoch on, when its rows are no longer noise (D8)."""
        if epoch >= 1:
            bank, count, seed = self.banks["global"], self.options.clusterings, self.facts.seed
            self.cells = Cells(cluster_bank(bank, self.clusters, count, seed, whole=not self.sampled))

    def forward(self, views: dict[str, Tensor], tile_ids: Tensor, epoch: int, step: int) -> Step:
        q = F.normalize(self.neck(self.backbone(views["global"])).float(), dim=1)
        with full_precision(q):
            losses, numbers = self.terms(q, tile_ids, epoch, step)
        weight = ramp_up(epoch, self.options.ramp_up)
        weights = {"spatial": weight, "semantic": weight}
        return Step(losses, q, tile_ids, weights, {"global": q}, numbers)

    def search(self, step: int) -> Search:
        """The form that looks through the bank in this step."""
        if not self.sampled:
            return self.exact
        bank = self.banks["global"]
        return sampled_search(bank, bank, self.options.sample, LAW, self.facts.seed, step)

    def terms(
        self, q: Tensor, tile_ids: Tensor, epoch: int, step: int
    ) -> tuple[dict[str, Tensor], dict[str, float | Tensor]]:
        """The three losses of (B, D) queries, and the mean sizes of the positive sets."""
        bank, tau = self.banks["global"], self.options.temperature
        search = self.search(step)
        spatial, semantic = self.positive_sets(q.detach(), tile_ids, epoch, search)
        excluded = union(spatial, semantic, tile_ids[:, None])
        mined = {
            term: search.mined(q, q.detach(), excluded, self.nearest, self.draws(step, term))[:2] for term in TERMS
        }
        similarity, present = mined["self"]
        losses = {
            "self": info_nce((q * bank[tile_ids]).sum(1), similarity, tau, ~present),
            "spatial": neighbour_loss(self.scores(q, spatial), spatial >= 0, *mined["spatial"], tau),
            "semantic": sum_of_ratios(self.scores(q, semantic), semantic >= 0, *mined["semantic"], tau),
        }
        counts = {"spatial_positives": spatial, "semantic_positives": semantic}
        return losses, {name: sizes(members).float().mean() for name, members in counts.items()}

    def scores(self, q: Tensor, members: Tensor) -> Tensor:
        """(B, n) similarities of (B, D) queries with their padded sets."""
        return (q[:, None] * self.banks["global"][members.clamp(min=0)]).sum(2)

    def draws(self, step: int, term: str) -> np.random.Generator:
        """What the ranks of one term are drawn by in one step, other ones on every rank (D10)."""
        return np.random.default_rng(key(self.facts.seed, step, self.facts.world.rank, "ranks", term))

    @torch.no_grad()
    def positive_sets(
        self, q: Tensor, tile_ids: Tensor, epoch: int, search: Search | None = None
    ) -> tuple[Tensor, Tensor]:
        """P and S of every anchor as padded (B, n) sets; the anchor is in neither (D5)."""
        spatial = self.index.positives(tile_ids)
        if epoch < 1:
            return spatial, spatial[:, :0]
        bank, search = self.banks["global"], search or self.search(0)
        semantic = semantic_sets(search, self.cells, bank, q, tile_ids, spatial, self.options.aux, self.nearest)
        return spatial, union(without(semantic, tile_ids))

    def memory(self) -> dict[str, Tensor]:
        return super().memory() | {"labels": self.cells.labels}

    def load_memory(self, memory: dict[str, Tensor]) -> None:
        super().load_memory(memory)
        self.cells = Cells(memory["labels"].to(self.cells.labels))


def sum_of_ratios(
    positives: Tensor, positive_mask: Tensor, mined: Tensor, mined_mask: Tensor, temperature: float
) -> Tensor:
    """Mean of -log( sum_{j in S} e_j / (e_j + sum_{k in H} e_k) + 1e-7 ), e = e^{s/tau}, over anchors with a positive.

    The sum of ratios stands inside the log, as published: with |S| > 1 it can exceed 1 and the loss can fall below 0,
    down to -log |S|.

    Args:
        positives: (B, S) similarities; positive_mask: (B, S) bool.
        mined: (B, H) similarities; mined_mask: (B, H) bool.
    """
    floor = torch.finfo(mined.dtype).min / 4
    negative = torch.logsumexp((mined / temperature).masked_fill(~mined_mask, floor), 1)
    ratios = torch.sigmoid(positives / temperature - negative[:, None]) * positive_mask
    present = positive_mask.any(1)
    return (-(ratios.sum(1) + EPSILON).log() * present).sum() / present.sum().clamp(min=1)
