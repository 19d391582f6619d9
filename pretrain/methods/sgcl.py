"""SGCL: instance discrimination + spatial and semantic neighbours as positives + quadrant banks (sgcl-method.md 2).

`variant=fixed` is the method as intended, `variant=reference` as the published code computes it; every switch of section 7
marked F can also be set alone (null follows the variant).
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.losses import info_nce, neighbour_loss, ramp_up
from pretrain.methods.base import Facts, Step, full_precision
from pretrain.methods.npid import NPID, NPIDOptions
from pretrain.neighbours import sizes, union, without
from pretrain.neighbours.clusters import Cells, cluster_bank, random_labels
from pretrain.neighbours.search import ExactSearch, Search, check_form, is_sampled, sampled_search, semantic_sets
from pretrain.neighbours.spatial import SpatialIndex
from pretrain.randomness import key
from pretrain.views import QUADRANTS, View, ViewSettings, quadrant_views
from results.errors import UserError

INVARIANCES = ("discrimination", "spatial", "semantic", "inner")


@dataclass
class SGCLOptions(NPIDOptions):
    """Published values; counts are capped by the number of tiles N (`nei_k` at 5 %, `clusters` at N / 40).

    `form`: `exact` compares with the whole bank, `sampled` with `sample` rows at a cost that does not grow with N; `auto` is
    exact up to 2 million tiles. `discrimination`, `spatial`, `semantic` and `inner` are the four invariances. `mining` is the law of the
    mined ranks, null is that of `d6`; `normalise` divides the weights of the losses by their sum (D14); with `inner_statistics` false
    the quadrants leave the stored statistics of batch norm, which the exported encoder uses, to the whole tiles. `d1` ... `d16`, and `forget_start`: true is the fix, false the published behaviour, null follows `variant`.
    """

    variant: str = "fixed"
    form: str = "auto"
    sample: int = 16384
    radius: float = 3.0
    aux: int = 1
    nei_k: int = 4096
    clusters: int = 1000
    clusterings: int = 3
    tau: float = 0.07
    ramp_up: int = 10
    discrimination: bool = True
    spatial: bool = True
    semantic: bool = True
    inner: bool = True
    mining: str | None = None
    normalise: bool = False
    inner_statistics: bool = True
    forget_start: bool | None = None
    d1: bool | None = None
    d2: bool | None = None
    d4: bool | None = None
    d5: bool | None = None
    d6: bool | None = None
    d7: bool | None = None
    d16: bool | None = None


@dataclass(frozen=True)
class Switches:
    """Which defects are mended (sgcl-method.md 7.1)."""

    d1: bool  # mined negatives receive gradient
    d2: bool  # no constant N - |U| in the denominator
    d4: bool  # anchors without positives are left out
    d5: bool  # the anchor is never its own positive
    d6: bool  # ranks by Beta(5, 15) itself
    d7: bool  # every rank has the cluster labels
    d16: bool  # the other quadrants of a tile are negatives


def switches(options: SGCLOptions) -> Switches:
    """Resolve the variant and the single switches."""
    default = options.variant == "fixed"
    chosen = {f.name: getattr(options, f.name) for f in fields(Switches)}
    return Switches(**{name: default if value is None else value for name, value in chosen.items()})


@contextmanager
def statistics_held(module: nn.Module) -> Iterator[None]:
    """Keep the running statistics of batch norm as they are while batches still pass by their own."""
    layers = [
        (layer, layer.momentum) for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)
    ]
    try:
        for layer, _ in layers:
            layer.momentum = 0.0
        yield
    finally:
        for layer, momentum in layers:
            layer.momentum = momentum


class SGCL(NPID):
    """L = L_self + w(epoch) L_neighbours + L_inner, exact over the whole bank."""

    Options = SGCLOptions

    def __init__(self, options: SGCLOptions, facts: Facts, backbone: str, views: ViewSettings):
        if options.forget_start is None:
            options = replace(options, forget_start=options.variant == "fixed")
        super().__init__(options, facts, backbone, views)
        self.switches = switches(options)
        self.nearest = max(1, min(options.nei_k, facts.tiles // 20))
        self.clusters = max(1, min(options.clusters, facts.tiles // 40))
        self.index = SpatialIndex(facts.slide, facts.x, facts.y, options.radius)
        self.cells = Cells(
            random_labels(facts.tiles, self.clusters, options.clusterings, facts.seed, facts.world.device)
        )
        self.law = options.mining or ("fixed" if self.switches.d6 else "reference")
        self.sampled = is_sampled(options.form, facts.tiles)
        if self.sampled and self.law == "hardest":
            raise UserError(
                f"sgcl.mining=hardest needs sgcl.form=exact, and sgcl.form={options.form} samples {facts.tiles:,} tiles."
            )
        if options.spatial or options.semantic:
            self.remember_rows("backbone", self.dimension)
            if not self.sampled:
                self.exact = ExactSearch(self.banks["global"], self.banks["backbone"], self.law, facts.seed)
        if options.inner:
            for name in QUADRANTS:
                self.remember_rows(name, options.dimension)

    @classmethod
    def check(cls, options: SGCLOptions) -> None:
        super().check(options)
        check_form(cls.key, options)
        if options.mining == "hardest" and options.form == "sampled":
            raise UserError("sgcl.mining=hardest needs sgcl.form=exact: a sample does not hold the most similar tiles.")
        if not any(getattr(options, name) for name in INVARIANCES):
            names = ", ".join(cls.key(name) for name in INVARIANCES)
            raise UserError(f"{names} are all false, and nothing is left to learn from: set one of them to true.")

    @classmethod
    def without_coordinates(cls) -> dict[str, Any]:
        return {"spatial": False}

    @property
    def label(self) -> str:
        told = asdict(self.switches)
        usual = asdict(switches(SGCLOptions(variant=self.options.variant)))
        turned = [f"{name}={str(value).lower()}" for name, value in told.items() if value != usual[name]]
        turned += [f"{name}=false" for name in INVARIANCES if not getattr(self.options, name)]
        return f"sgcl ({', '.join([self.options.variant, *turned])})"

    @property
    def views(self) -> tuple[View, ...]:
        return super().views + (quadrant_views(self.view_settings) if self.options.inner else ())

    def resolved(self) -> dict[str, Any]:
        form = "sampled" if self.sampled else "exact"
        return super().resolved() | {"nei_k": self.nearest, "clusters": self.clusters, "form": form}

    def start_epoch(self, epoch: int) -> None:
        """Cluster the bank anew; the fixed form begins after the first epoch, when rows are no longer noise (D8)."""
        if not self.options.semantic or not self.semantic_ready(epoch):
            return
        world = self.facts.world
        labels = cluster_bank(
            self.banks["global"], self.clusters, self.options.clusterings, self.facts.seed, whole=not self.sampled
        )
        if self.switches.d7 or world.rank == 0:
            self.cells = Cells(labels)

    def semantic_ready(self, epoch: int) -> bool:
        """Whether semantic positives are used in this epoch."""
        return epoch >= (1 if self.options.variant == "fixed" else 0)

    def forward(self, views: dict[str, Tensor], tile_ids: Tensor, epoch: int, step: int) -> Step:
        pooled = self.backbone(views["global"])
        q = F.normalize(self.neck(pooled).float(), dim=1)
        drawn = self.draw_negatives(step)
        result = Step({}, q, tile_ids, writes={"global": q})
        if self.options.discrimination:
            result.losses["self"] = self.self_invariance(q, tile_ids, drawn)
        if self.options.spatial or self.options.semantic:
            h = F.normalize(pooled.detach().float(), dim=1)
            result.writes["backbone"] = h
            with full_precision(q):
                result.losses["neighbours"], result.numbers = self.neighbours(q, h, tile_ids, epoch, step)
            result.weights["neighbours"] = ramp_up(epoch, self.options.ramp_up)
        if self.options.inner:
            local = torch.cat([views[name] for name in QUADRANTS])
            with nullcontext() if self.options.inner_statistics else statistics_held(self):
                p = F.normalize(self.neck(self.backbone(local)).float(), dim=1).view(len(QUADRANTS), len(q), -1)
            result.writes |= dict(zip(QUADRANTS, p, strict=True))
            result.losses["inner"] = self.inner_invariance(p, tile_ids, drawn)
        if self.options.normalise:
            weights = {name: result.weights.get(name, 1.0) for name in result.losses}
            result.weights = {name: weight / sum(weights.values()) for name, weight in weights.items()}
        return result

    def search(self, step: int) -> Search:
        """The form that looks through the banks in this step."""
        if not self.sampled:
            return self.exact
        banks = self.banks["global"], self.banks["backbone"]
        return sampled_search(*banks, self.options.sample, self.law, self.facts.seed, step)

    def neighbours(
        self, q: Tensor, h: Tensor, tile_ids: Tensor, epoch: int, step: int
    ) -> tuple[Tensor, dict[str, float]]:
        """L_neighbours of (B, D) queries and (B, F) backbone features, and the mean sizes of the sets."""
        search = self.search(step)
        positives, counts = self.positive_sets(q.detach(), tile_ids, epoch, search)
        rng = np.random.default_rng(key(self.facts.seed, step, "ranks"))
        excluded = union(positives, tile_ids[:, None])
        mined, present, _ = search.mined(q, h, excluded, self.nearest, rng)
        loss = neighbour_loss(
            (q[:, None] * self.banks["global"][positives.clamp(min=0)]).sum(2),
            positives >= 0,
            mined,
            present,
            self.options.tau,
            repel=self.switches.d1,
            constant=None if self.switches.d2 else self.facts.tiles,
            skip_empty=self.switches.d4,
        )
        return loss, counts

    @torch.no_grad()
    def positive_sets(
        self, q: Tensor, tile_ids: Tensor, epoch: int, search: Search | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        """U = P and S of every anchor as a padded (B, U) set, and mean |P|, |S|."""
        spatial = self.index.positives(tile_ids)
        semantic = self.semantic_sets(q, tile_ids, spatial, epoch, search or self.search(0))
        if not self.options.spatial:
            spatial = spatial[:, :0]
        counts = {
            "spatial_positives": sizes(spatial).float().mean(),
            "semantic_positives": sizes(semantic).float().mean(),
        }
        return union(spatial, semantic), counts

    @torch.no_grad()
    def semantic_sets(self, q: Tensor, tile_ids: Tensor, spatial: Tensor, epoch: int, search: Search) -> Tensor:
        """S of every anchor as a padded (B, S) set: of the anchor itself and of its auxiliary anchors."""
        options = self.options
        if not options.semantic or not self.semantic_ready(epoch):
            return spatial[:, :0]
        semantic = semantic_sets(
            search,
            self.cells,
            self.banks["global"],
            q,
            tile_ids,
            spatial,
            options.aux,
            self.nearest,
            arbitrary=not self.switches.d4,
        )
        return union(without(semantic, tile_ids) if self.switches.d5 else semantic)

    def inner_invariance(self, p: Tensor, tile_ids: Tensor, drawn: Tensor) -> Tensor:
        """L_inner of (4, B, D) local queries: own quadrant's row against K/4 tiles in all four banks (2.8b, D16)."""
        banks = [self.banks[name] for name in QUADRANTS]
        own = torch.stack([bank[tile_ids] for bank in banks])
        drawn = drawn[: max(1, len(drawn) // len(banks))]
        with full_precision(p):
            negatives = p.flatten(0, 1) @ torch.cat([bank[drawn] for bank in banks]).T
            siblings = torch.einsum("abd,cbd->abc", p, own).flatten(0, 1)
        absent = (drawn == tile_ids[:, None]).repeat(len(banks), len(banks))
        if self.switches.d16:
            diagonal = torch.eye(len(banks), dtype=torch.bool, device=p.device).repeat_interleave(len(tile_ids), 0)
            negatives, absent = torch.cat([negatives, siblings], 1), torch.cat([absent, diagonal], 1)
        positive = (p * own).sum(2).flatten()
        return info_nce(positive, negatives, self.options.temperature, absent)

    def memory(self) -> dict[str, Tensor]:
        return super().memory() | {"labels": self.cells.labels}

    def load_memory(self, memory: dict[str, Tensor]) -> None:
        super().load_memory(memory)
        self.cells = Cells(memory["labels"].to(self.cells.labels))
