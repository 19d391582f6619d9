"""Several k-means clusterings of a bank through faiss, the same labels on every rank (sgcl-method.md 2.7, D7)."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pretrain.bank import MemoryBank
from pretrain.distributed import World
from pretrain.randomness import generator

FIRST_SEED = 1234
ASSIGNED_AT_ONCE = 1 << 14


POINTS_PER_CLUSTER = 256
"""Rows a cluster that k-means learns from where it does not see them all (S8)."""


def cluster_bank(bank: MemoryBank, clusters: int, clusterings: int, seed: int, whole: bool) -> Tensor:
    """Cluster a bank; every rank takes part and gets all labels.

    Args:
        whole: learn from all rows, as published; False learns from `POINTS_PER_CLUSTER` rows a cluster, drawn by the seed, and
            then gives every row the label of its nearest centre, each rank those that it holds.

    Returns:
        (M, N) int32 labels.
    """
    world = bank.world
    if whole:
        return cluster(bank.rows if bank.rows.dtype == torch.float32 else _all_rows(bank), clusters, clusterings, world)
    labels = torch.empty(clusterings, len(bank), dtype=torch.int32, device=bank.rows.device)
    for which in range(clusterings):
        count = min(len(bank), clusters * POINTS_PER_CLUSTER)
        drawn = torch.randperm(len(bank), generator=generator(seed, which, "clusters"))[:count].sort().values
        points = bank[drawn.to(bank.rows.device)]
        centres = torch.empty(clusters, bank.dimension, device=bank.rows.device)
        if world.rank == 0:
            centres.copy_(torch.from_numpy(_kmeans(points.cpu().numpy(), clusters, FIRST_SEED + which, 20).centroids))
        world.broadcast(centres)
        half = centres.square().sum(1) / 2
        own = torch.cat([(rows @ centres.T - half).argmax(1) for _, rows in bank.chunks(ASSIGNED_AT_ONCE)]).int()
        labels[which] = _dealt(bank, own)
    return labels


def _dealt(bank: MemoryBank, own: Tensor) -> Tensor:
    """Put the ranks' values of their own rows, (own rows,), in tile order, (N,)."""
    if not bank.sharded:
        return own
    longest = -(-len(bank) // bank.step)
    padded = own.new_zeros(longest)
    padded[: len(own)] = own
    return bank.world.gather(padded).view(bank.step, longest).T.flatten()[: len(bank)]


def _all_rows(bank: MemoryBank) -> Tensor:
    return torch.cat([rows for _, rows in bank.chunks()])


def cluster(rows: Tensor, clusters: int, clusterings: int, world: World, iterations: int = 20) -> Tensor:
    """Cluster the rows on rank 0 and give every rank the labels.

    Args:
        rows: (N, D) float32.
        clusters: k of each clustering; clusterings: how many (M), seeded 1234, 1235, ...

    Returns:
        (M, N) int32 labels on the rows' device.
    """
    labels = torch.empty(clusterings, len(rows), dtype=torch.int32, device=rows.device)
    if world.rank == 0:
        points = rows.cpu().numpy()
        for which in range(clusterings):
            trained = _kmeans(points, clusters, FIRST_SEED + which, iterations)
            found = trained.index.search(points, 1)[1][:, 0].astype(np.int32)
            labels[which] = torch.from_numpy(found).to(rows.device)
    return world.broadcast(labels)


class Cells:
    """Tiles that every clustering puts together, found without looking at the others (S2).

    One sorted 64-bit key per tile: 24 bytes a tile beside the labels, O(N log N) to build, O(log N) a look-up.

    Args:
        labels: (M, N) integer cluster labels.
    """

    def __init__(self, labels: Tensor):
        self.labels = labels
        key, span = torch.zeros_like(labels[0], dtype=torch.int64), 1
        for row in labels:
            count = int(row.max()) + 1
            if span * count >= 2**62:
                key = torch.unique(key, return_inverse=True)[1]
                span = int(key.max()) + 1
            key, span = key * count + row, span * count
        self.key = key
        self.sorted_key, self.order = torch.sort(key, stable=True)

    def bounds(self, tile_ids: Tensor) -> tuple[Tensor, Tensor]:
        """First place and size of the cells of (R,) tiles in `order`."""
        wanted = self.key[tile_ids]
        start = torch.searchsorted(self.sorted_key, wanted)
        return start, torch.searchsorted(self.sorted_key, wanted, right=True) - start

    def largest(self, tile_ids: Tensor) -> int:
        """Size of the largest cell among those of (R,) tiles."""
        return int(self.bounds(tile_ids)[1].max())

    def members(self, tile_ids: Tensor, most: int) -> Tensor:
        """Tiles of the cells of (R,) tiles, themselves left out, as a padded (R, C) int64 set.

        Of a cell of more than `most` tiles, `most` are taken at even steps.
        """
        start, size = self.bounds(tile_ids)
        width = min(int(size.max()), most)
        step = torch.arange(width, device=size.device)[None]
        spread = torch.where(size[:, None] > width, step * size[:, None] // width, step)
        inside = step < size[:, None]
        found = self.order[torch.where(inside, start[:, None] + spread, 0)]
        return torch.where(inside & (found != tile_ids[:, None]), found, -1)


def random_labels(count: int, clusters: int, clusterings: int, seed: int, device: torch.device) -> Tensor:
    """The start of the published code: one random label a tile, the same for every clustering; (M, N) int32."""
    one = torch.randint(clusters, (count,), generator=generator(seed, "labels"), dtype=torch.int32)
    return one.expand(clusterings, count).contiguous().to(device)


def _kmeans(points: np.ndarray, clusters: int, seed: int, iterations: int) -> Any:
    """A trained faiss.Kmeans: `centroids` (k, D), and `index` that finds the nearest."""
    import faiss

    kmeans = faiss.Kmeans(
        points.shape[1],
        clusters,
        niter=iterations,
        seed=seed,
        max_points_per_centroid=10_000_000,
        min_points_per_centroid=1,
    )
    kmeans.train(points)
    return kmeans
