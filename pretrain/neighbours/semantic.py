"""Semantic neighbours across slides (sgcl-method.md 2.6)."""

import torch
from torch import Tensor


def semantic_positives(similarity: Tensor, own: Tensor, labels: Tensor, nearest: int) -> Tensor:
    """B_r and C_r: among the nearest rows of query r, those that every clustering puts into r's cluster.

    Args:
        similarity: (R, N) of the queries with the whole bank; not changed.
        own: (R,) the bank row each query stands for; never among its own nearest (D3: masked by -inf, not 0).
        labels: (M, N) cluster labels.
        nearest: size of B_r.

    Returns:
        (R, nearest) int64 padded set.
    """
    masked = similarity.scatter(1, own[:, None], -torch.inf)
    candidates = masked.topk(min(nearest, masked.shape[1] - 1), dim=1).indices
    together = (labels[:, candidates] == labels[:, own][:, :, None]).all(0)
    return torch.where(together, candidates, -1)


def auxiliary_anchors(similarity: Tensor, spatial: Tensor, count: int) -> Tensor:
    """The `count` spatial positives of every anchor that are most similar to it.

    Args:
        similarity: (B, N); spatial: (B, P) padded set.

    Returns:
        (B, min(count, P)) int64 padded set: an anchor with too few positives has fewer (D4).
    """
    if spatial.shape[1] == 0:
        return spatial
    s = similarity.gather(1, spatial.clamp(min=0)).masked_fill(spatial < 0, -torch.inf)
    best, place = s.topk(min(count, spatial.shape[1]), dim=1)
    return torch.where(best > -torch.inf, spatial.gather(1, place), -1)
