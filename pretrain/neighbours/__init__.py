"""Which tiles belong together: indices in, indices out, no gradients. Absent entries of a padded set are -1."""

import torch
from torch import Tensor


def union(*sets: Tensor) -> Tensor:
    """Unite padded sets row by row.

    Args:
        sets: (B, n_k) int64 tile ids, -1 where absent; duplicates allowed.

    Returns:
        (B, max set size) int64, sorted, without duplicates, -1 padding last.
    """
    merged = torch.cat(sets, 1)
    merged = merged.masked_fill(merged < 0, torch.iinfo(torch.int64).max).sort(1).values
    repeated = torch.zeros_like(merged, dtype=torch.bool)
    repeated[:, 1:] = merged[:, 1:] == merged[:, :-1]
    merged = merged.masked_fill(repeated, torch.iinfo(torch.int64).max).sort(1).values
    absent = merged == torch.iinfo(torch.int64).max
    width = int((~absent).sum(1).max()) if merged.numel() else 0
    return merged.masked_fill(absent, -1)[:, :width]


def without(members: Tensor, excluded: Tensor) -> Tensor:
    """Take (B,) ids out of their rows of a padded (B, n) set."""
    return members.masked_fill(members == excluded[:, None], -1)


def sizes(members: Tensor) -> Tensor:
    """Number of members of every row, (B,) int64."""
    return (members >= 0).sum(1)
