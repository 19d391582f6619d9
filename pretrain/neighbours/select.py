"""Largest values of long rows. On the CPU by numpy, whose partition and sort are many times faster there than torch's."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor


def kth_largest(values: Tensor, k: int) -> Tensor:
    """The k-th largest (from 1) of every row of (B, N) values, (B,)."""
    k = min(k, values.shape[1])
    if values.is_cuda:
        return values.topk(k, dim=1).values[:, -1]
    place = values.shape[1] - k
    rows = values.detach().numpy()
    return torch.tensor(_each_row(rows, lambda row: np.partition(row, place)[place]), dtype=values.dtype)


def at_ranks(values: Tensor, ranks: Tensor) -> Tensor:
    """Columns that stand at the given ranks (0 is the largest) of every row; of equal values the first column goes first (S12).

    Args:
        values: (B, N) floats, N below 2^32.
        ranks: (H,) int64, ascending, repeats allowed; a rank beyond the row means its last.

    Returns:
        (B, H) int64.
    """
    ranks = ranks.clamp(max=values.shape[1] - 1)
    deepest = int(ranks[-1]) + 1 if len(ranks) else 0
    if values.is_cuda or values.dtype != torch.float32:
        return values.sort(dim=1, descending=True, stable=True).indices[:, ranks]
    wanted = ranks.numpy()

    def pick(row: np.ndarray) -> np.ndarray:
        columns = np.arange(len(row))
        if deepest < len(row):
            columns = np.flatnonzero(row >= np.partition(row, len(row) - deepest)[len(row) - deepest])
            if len(columns) < deepest:  # not-a-number, which the loss will tell of, sorts above everything
                return pick(np.nan_to_num(row, nan=-np.inf, posinf=np.inf, neginf=-np.inf))
        bits = row[columns].view(np.int32)
        ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).astype(np.int64)  # integers in the order of the floats
        return np.sort((~ordered << 32) | columns)[wanted] & 0xFFFFFFFF

    return torch.from_numpy(np.stack(_each_row(values.detach().contiguous().numpy(), pick)))


def _each_row(rows: np.ndarray, work: Callable[[np.ndarray], Any]) -> list[Any]:
    """Apply `work` to every row, in as many threads as torch uses; numpy lets go of the interpreter while it sorts."""
    threads = min(torch.get_num_threads(), len(rows))
    if threads < 2:
        return [work(row) for row in rows]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, rows))
