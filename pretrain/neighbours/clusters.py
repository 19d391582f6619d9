"""Several k-means clusterings of a bank through faiss, the same labels on every rank (sgcl-method.md 2.7, D7)."""

import numpy as np
import torch
from torch import Tensor

from pretrain.distributed import World
from pretrain.randomness import generator

FIRST_SEED = 1234


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
            labels[which] = torch.from_numpy(_kmeans(points, clusters, FIRST_SEED + which, iterations)).to(rows.device)
    return world.broadcast(labels)


def random_labels(count: int, clusters: int, clusterings: int, seed: int, device: torch.device) -> Tensor:
    """The start of the published code: one random label a tile, the same for every clustering; (M, N) int32."""
    one = torch.randint(clusters, (count,), generator=generator(seed, "labels"), dtype=torch.int32)
    return one.expand(clusterings, count).contiguous().to(device)


def _kmeans(points: np.ndarray, clusters: int, seed: int, iterations: int) -> np.ndarray:
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
    return kmeans.index.search(points, 1)[1][:, 0].astype(np.int32)
