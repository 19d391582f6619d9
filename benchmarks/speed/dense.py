"""The spatial and semantic loss written plainly over all N rows (sgcl-method.md 2.6-2.8, fixed form): the yardstick."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.neighbours.mining import WINDOW


def dense_loss(
    q: Tensor,
    h: Tensor,
    tile_ids: Tensor,
    bank: Tensor,
    backbone: Tensor,
    place: Tensor,
    labels: Tensor,
    ranks: Tensor,
    *,
    radius: float,
    nearest: int,
    tau: float,
) -> tuple[Tensor, Tensor]:
    """L_neighbours with one B x N mask for every set; one auxiliary anchor.

    Args:
        q: (B, D) unit queries with gradient; h: (B, F) unit backbone features; tile_ids: (B,).
        bank: (N, D); backbone: (N, F); place: (N, 3) slide, x, y; labels: (M, N); ranks: (H,) of the mined negatives.

    Returns:
        scalar loss; (B, N) bool mask of the positives.
    """
    rows, everyone = len(q), len(bank)
    own = F.one_hot(tile_ids, everyone).bool()
    similarity = q @ bank.T
    with torch.no_grad():
        apart = (place[tile_ids, None, 1:] - place[None, :, 1:]).pow(2).sum(2)
        spatial = (place[tile_ids, None, 0] == place[None, :, 0]) & (apart > 0) & (apart < radius**2)
        aux = similarity.masked_fill(~spatial, -torch.inf).argmax(1)
        has_aux = spatial.any(1)
        semantic = torch.zeros_like(own)
        for query, row, valid in ((q, tile_ids, torch.ones_like(has_aux)), (bank[aux], aux, has_aux)):
            s = (query @ bank.T).scatter(1, row[:, None], -torch.inf)
            close = torch.zeros_like(own).scatter(1, s.topk(nearest, dim=1).indices, True)
            semantic |= close & (labels[:, row][:, :, None] == labels[:, None]).all(0) & valid[:, None]
        positive = (spatial | semantic) & ~own
        order = (h @ backbone.T).masked_fill(positive | own, -torch.inf).topk(int(WINDOW * everyone), dim=1).indices
        mined = torch.zeros(rows, everyone).scatter(1, order[:, ranks], 1.0)
    weight = torch.exp(similarity / tau)
    numerator, negative = (weight * positive).sum(1), (weight * mined).sum(1)
    present = positive.any(1)
    loss = -torch.log(numerator / (numerator + negative) + 1e-7)[present]
    return (loss.mean() if len(loss) else similarity.sum() * 0), positive
