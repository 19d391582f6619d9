"""ODC: DeepCluster in small steps; labels and centroids move with every batch (Zhan et al., "Online Deep Clustering", CVPR 2020).

Published values: the authors' ImageNet configuration in mmselfsup, `configs/selfsup/odc/r50_v1.py`.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.bank import check_momentum
from pretrain.distributed import World
from pretrain.methods.base import Facts, Method, Step
from pretrain.methods.deepcluster import blocked, class_weights, labelled_loss
from pretrain.methods.rotation import classifier
from pretrain.neighbours.clusters import cluster, random_labels
from pretrain.views import View, ViewSettings, global_view
from results.errors import UserError


@dataclass
class ODCOptions:
    """Published values (ImageNet); `clusters` is capped at N / 40. `update_every`: steps between updates of the centroids."""

    clusters: int = 10000
    dimension: int = 256
    hidden: int = 512
    momentum: float = 0.5
    min_cluster: int = 20
    update_every: int = 10


class ODC(Method):
    """Cross-entropy with the sample memory's labels, weighted by 1 / sqrt(size of the class).

    The sample memory is a bank of projected features with a label per tile, the centroid memory a unit vector per class.
    As in `deepcluster`, the first epoch collects features of the untrained network; one k-means of them is the start.
    Rank 0 moves labels and centroids and sends them, so ranks cannot drift apart.
    """

    Options = ODCOptions
    sync_batch_norm = True
    collecting_epochs = 1

    def __init__(self, options: ODCOptions, facts: Facts, backbone: str, views: ViewSettings):
        super().__init__(options, facts, backbone, views)
        self.clusters = max(2, min(options.clusters, facts.tiles // 40))
        self.neck = nn.Sequential(
            nn.Linear(self.dimension, options.hidden),
            nn.BatchNorm1d(options.hidden, affine=False),
            nn.ReLU(inplace=True),
            nn.Linear(options.hidden, options.dimension),
            nn.ReLU(inplace=True),
        )
        self.head = classifier(options.dimension, self.clusters)
        device = facts.world.device
        self.labels = random_labels(facts.tiles, self.clusters, 1, facts.seed, device)[0].long()
        self.centroids = torch.zeros(self.clusters, options.dimension, device=device)
        self.moves = -1  # batches that moved labels; -1 before the first clustering
        self.add_bank("samples", options.dimension, options.momentum, forget_start=True)

    @classmethod
    def check(cls, options: ODCOptions) -> None:
        super().check(options)
        if options.clusters < 2:
            raise UserError(f"odc.clusters={options.clusters} is too small: give 2 or more.")
        check_momentum(cls.key("momentum"), options.momentum)

    @property
    def views(self) -> tuple[View, ...]:
        return (global_view(self.view_settings),)

    def resolved(self) -> dict[str, int]:
        return {"clusters": self.clusters, "collecting_epochs": self.collecting_epochs}

    def start_epoch(self, epoch: int) -> None:
        """Once, before the second epoch: cluster what the first one collected."""
        if epoch < self.collecting_epochs or self.moves >= 0:
            return
        bank, world = self.banks["samples"], self.facts.world
        seen = bank.written.nonzero().flatten()
        if len(seen) >= self.clusters:
            found = cluster(bank.rows[seen], self.clusters, 1, world)[0].long()
            self.labels = torch.full_like(self.labels, -1).index_copy(0, seen, found)
        self.moves = 0
        if world.rank == 0:
            self.move_centroids()
        self.send()

    def forward(self, views: dict[str, Tensor], tile_ids: Tensor, epoch: int, step: int) -> Step:
        features = self.neck(self.backbone(views["global"]))
        logits = self.head(features if self.moves >= 0 else blocked(features)).float()
        loss = labelled_loss(logits, self.labels[tile_ids], class_weights(self.labels, self.clusters, 0.5))
        unit = F.normalize(features.float(), dim=1)
        smallest = self.sizes().min().float()
        return Step({"cluster": loss}, unit, tile_ids, writes={"samples": unit}, numbers={"smallest_class": smallest})

    @torch.no_grad()
    def remember(self, step: Step) -> None:
        """Write the features and give the batch's tiles their nearest class; then no class may be small.

        Every `update_every` steps all centroids move.
        """
        super().remember(step)
        if self.moves < 0:
            return
        world = self.facts.world
        tile_ids = world.gather(step.tile_ids).unique()
        self.moves += 1
        more = self.moves % self.options.update_every == 0  # labels or centroids of other tiles than the batch's
        if world.rank == 0:
            self.labels[tile_ids] = self.nearest(self.banks["samples"][tile_ids])
            resettled = self.resettle()
            if more:
                self.move_centroids()
            more = more or resettled
        if world.share(more):
            self.send()
        else:
            self.labels[tile_ids] = world.broadcast(self.labels[tile_ids])

    def send(self) -> None:
        """Give every rank the labels and centroids of rank 0."""
        self.facts.world.broadcast(self.labels)
        self.facts.world.broadcast(self.centroids)

    def sizes(self) -> Tensor:
        """(K,) int64 tiles in every class."""
        return torch.bincount(self.labels[self.labels >= 0], minlength=self.clusters)

    def nearest(self, features: Tensor, among: Tensor | None = None) -> Tensor:
        """(B,) class whose centroid is nearest to (B, D) unit features, among the (K,) bool classes (default: the inhabited)."""
        among = self.sizes() > 0 if among is None else among
        return (features @ self.centroids.T).masked_fill(~among, -torch.inf).argmax(1)

    def move_centroids(self) -> None:
        """Set every inhabited class's centroid to the direction of the mean of its tiles."""
        rows, known = self.banks["samples"].rows, self.labels >= 0
        sums = torch.zeros_like(self.centroids).index_add_(0, self.labels[known], rows[known])
        inhabited = (self.sizes() > 0)[:, None]
        self.centroids = torch.where(inhabited, F.normalize(sums, dim=1), self.centroids)

    def resettle(self) -> bool:
        """Merge classes of fewer than `min_cluster` tiles into their nearest; refill each by halving the largest class.

        Returns:
            whether a tile changed its class; the centroids of halved classes follow at once.
        """
        rows, least = self.banks["samples"].rows, self.options.min_cluster
        size = self.sizes()
        small = size < least
        if not small.any() or small.all():
            return False
        homeless = (self.labels >= 0) & small[self.labels.clamp(min=0)]
        self.labels[homeless] = self.nearest(rows[homeless], among=~small)
        moved = bool(homeless.any())
        for free in small.nonzero().flatten().tolist():
            size = self.sizes()
            largest = int(size.argmax())
            if size[largest] < 2 * least:
                return moved
            members = (self.labels == largest).nonzero().flatten()
            half = cluster(rows[members], 2, 1, World(device=rows.device))[0] == 1
            if not half.any() or half.all():  # tiles that are all alike: any half will do
                half = torch.arange(len(members), device=rows.device) % 2 == 1
            self.labels[members[half]] = free
            for which, part in ((largest, ~half), (free, half)):
                self.centroids[which] = F.normalize(rows[members[part]].sum(0), dim=0)
            moved = True
        return moved

    def memory(self) -> dict[str, Tensor]:
        moves = torch.tensor(self.moves)
        return super().memory() | {"labels": self.labels, "centroids": self.centroids, "moves": moves}

    def load_memory(self, memory: dict[str, Tensor]) -> None:
        super().load_memory(memory)
        self.labels = memory["labels"].to(self.labels)
        self.centroids = memory["centroids"].to(self.centroids)
        self.moves = int(memory["moves"])
