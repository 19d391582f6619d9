"""Semantic neighbours across slides (sgcl-method.md 2.6)."""

import torch
from torch import Tensor

from pretrain.neighbours.clusters import Cells
from pretrain.neighbours.select import kth_largest


def semantic_positives(similarity: Tensor, own: Tensor, cells: Cells, nearest: int) -> Tensor:
    """B_r and C_r: among the nearest rows of query r, those that every clustering puts into r's cluster.

    Args:
        similarity: (R, N) of the queries with the whole bank; the entries of `own` are lost.
        own: (R,) the bank row each query stands for; never among its own nearest (D3: masked by -inf, not 0).
        nearest: size of B_r.

    Returns:
        (R, at most nearest) int64 padded set.
    """
    nearest = min(nearest, similarity.shape[1] - 1)
    masked = similarity.scatter_(1, own[:, None], -torch.inf)
    if cells.largest(own) > nearest:  # a cell wider than B_r: go through B_r instead
        candidates = masked.topk(nearest, dim=1).indices
        together = cells.key[candidates] == cells.key[own][:, None]
        return torch.where(together, candidates, -1)
    members = cells.members(own, nearest)
    close = masked.gather(1, members.clamp(min=0)) >= kth_largest(masked, nearest)[:, None]
    return torch.where((members >= 0) & close, members, -1)


def auxiliary_anchors(similarity: Tensor, spatial: Tensor, count: int) -> Tensor:
    """The `count` spatial positives of every anchor that are most similar to it.

    Args:
        similarity: (B, P) with the spatial positives; spatial: (B, P) padded set.

    Returns:
        (B, min(count, P)) int64 padded set: an anchor with too few positives has fewer (D4).
    """
    if spatial.shape[1] == 0:
        return spatial
    s = similarity.masked_fill(spatial < 0, -torch.inf)
    best, place = s.topk(min(count, spatial.shape[1]), dim=1)
    return torch.where(best > -torch.inf, spatial.gather(1, place), -1)
