"""DeepCluster: k-means of the features names the classes of the next epoch (sgcl-method.md section 3; Caron et al., ECCV 2018)."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.methods.base import Facts, Method, Step
from pretrain.methods.rotation import classifier
from pretrain.neighbours.clusters import cluster, random_labels
from pretrain.randomness import generator
from pretrain.views import View, ViewSettings, global_view
from results.errors import UserError


@dataclass
class DeepClusterOptions:
    """Published values; both counts are capped at N / 40. `balance=false` weighs every tile alike."""

    clusters: int = 10000
    components: int = 256
    balance: bool = True


class DeepCluster(Method):
    """Cross-entropy with pseudo-labels; the head starts anew with every clustering.

    Features of all tiles come from a bank that each step overwrites (momentum 1), not from a pass of their own. So the first
    epoch only collects features of the untrained backbone, which the first published clustering uses too: its loss trains
    the head on random labels and leaves the backbone alone. Where the published code samples clusters uniformly, the loss
    is weighted by 1 / size of the tile's cluster, which favours the same classes. Few tiles allow few components: whitening
    makes every axis as loud as the first, and those that few tiles determine badly are noise.
    """

    Options = DeepClusterOptions
    collecting_epochs = 1

    def __init__(self, options: DeepClusterOptions, facts: Facts, backbone: str, views: ViewSettings):
        super().__init__(options, facts, backbone, views)
        self.clusters = max(2, min(options.clusters, facts.tiles // 40))
        self.components = max(2, min(options.components, facts.tiles // 40))
        self.head = classifier(self.dimension, self.clusters)
        self.labels = random_labels(facts.tiles, self.clusters, 1, facts.seed, facts.world.device)[0].long()
        self.add_bank("features", self.dimension, momentum=1.0, forget_start=True)

    @classmethod
    def check(cls, options: DeepClusterOptions) -> None:
        super().check(options)
        if options.clusters < 2:
            raise UserError(f"deepcluster.clusters={options.clusters} is too small: give 2 or more.")

    @property
    def views(self) -> tuple[View, ...]:
        return (global_view(self.view_settings),)

    def resolved(self) -> dict[str, int]:
        return {"clusters": self.clusters, "components": self.components, "collecting_epochs": self.collecting_epochs}

    def start_epoch(self, epoch: int) -> None:
        """From the second epoch on: cluster what the last one collected and start the head anew."""
        if epoch < self.collecting_epochs:
            return
        bank, world = self.banks["features"], self.facts.world
        seen = bank.written.nonzero().flatten()
        if len(seen) >= self.clusters:
            points = bank.rows[seen]
            if world.rank == 0:
                points = whitened(points, self.components).to(points.device)
            found = cluster(points, self.clusters, 1, world)[0].long()
            self.labels = torch.full_like(self.labels, -1).index_copy(0, seen, found)
        rng = generator(self.facts.seed, epoch, "head")
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(self.head.weight.shape, generator=rng) * 0.01)
            self.head.bias.zero_()

    def forward(self, views: dict[str, Tensor], tile_ids: Tensor, epoch: int, step: int) -> Step:
        pooled = self.backbone(views["global"])
        features = F.normalize(pooled.float(), dim=1)
        logits = self.head(pooled if epoch >= self.collecting_epochs else blocked(features)).float()
        weights = class_weights(self.labels, self.clusters, 1.0 if self.options.balance else 0.0)
        loss = labelled_loss(logits, self.labels[tile_ids], weights)
        return Step({"cluster": loss}, features, tile_ids, writes={"features": features})

    def memory(self) -> dict[str, Tensor]:
        return super().memory() | {"labels": self.labels}

    def load_memory(self, memory: dict[str, Tensor]) -> None:
        super().load_memory(memory)
        self.labels = memory["labels"].to(self.labels)


def whitened(points: Tensor, components: int) -> Tensor:
    """(N, D) to (N, C) unit rows on at most `components` principal axes of equal variance.

    Axes with less than a millionth of the first one's variance are noise and left out.
    """
    from sklearn.decomposition import PCA

    values = points.cpu().numpy().astype(np.float64)
    count = min(components, values.shape[1], max(1, len(values) - 1))
    pca = PCA(count, svd_solver="covariance_eigh").fit(values)
    spread = pca.explained_variance_
    kept = max(1, int((spread > 1e-6 * spread[0]).sum()))
    scores = pca.transform(values)[:, :kept] / np.sqrt(np.maximum(spread[:kept], 1e-30))
    return F.normalize(torch.from_numpy(scores.astype(np.float32)), dim=1)


def blocked(features: Tensor) -> Tensor:
    """The same values; what made them gets a zero gradient (not none, which DistributedDataParallel would wait for)."""
    return features.detach() + 0.0 * features


def class_weights(labels: Tensor, clusters: int, power: float) -> Tensor:
    """Weight of every class, proportional to size ** -power, with a mean of 1 over the labelled tiles.

    Args:
        labels: (N,) int64, -1 where a tile has none.

    Returns:
        (clusters,) float32, 0 for empty classes.
    """
    size = torch.bincount(labels[labels >= 0], minlength=clusters).double()
    weights = torch.where(size > 0, size.clamp(min=1) ** -power, 0)
    return (weights * size.sum() / (weights * size).sum().clamp(min=1e-12)).float()


def labelled_loss(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of the cross-entropy over the labelled tiles of a batch; 0 where none has a label.

    Divided by the batch's own sum of weights, so that one tile of a tiny class does not blow up a step.

    Args:
        logits: (B, K); labels: (B,) int64, -1 where absent; weights: (K,).
    """
    shares = weights[labels.clamp(min=0)] * (labels >= 0)
    losses = F.cross_entropy(logits, labels.clamp(min=0), reduction="none")
    return (losses * shares).sum() / shares.sum().clamp(min=1e-12)
