"""Semi-hard negatives: ranks of the most similar fifth, drawn by a Beta law (sgcl-method.md 2.8, D3, D6)."""

import numpy as np
import torch
from torch import Tensor

from pretrain.neighbours.select import at_ranks
from pretrain.options import CHOICES
from results.errors import UserError

WINDOW = 0.2
ALPHA, BETA = 5.0, 15.0
HISTOGRAM_SAMPLES, HISTOGRAM_BINS = 1_000_000, 100
LAWS = CHOICES["mining"]
"""`fixed` and `reference` are the method's; the others belong to the ablation of the published configurations (2.10)."""


def window_share(law: str) -> float:
    """Return the most similar share of the tiles that a law draws from: all of them for `uniform`."""
    return 1.0 if law == "uniform" else WINDOW


def rank_weights(window: int, law: str, seed: int = 0) -> np.ndarray:
    """Weight of each rank position in the window.

    Args:
        window: number of positions, floor(0.2 N).
        law: `fixed` is the Beta(5, 15) density over [0, 1]; `reference` is the published histogram of 1e6 samples whose
            100 bins span the sample's minimum to maximum, stretched to the window (which shifts its mean from 0.25 to 0.33);
            `late` is Beta(15, 5), `uniform` weighs all alike, and so does `hardest`, which `Ranks` does not draw.

    Returns:
        (window,) float64, not normalised.
    """
    if law in ("uniform", "hardest"):
        return np.ones(window)
    if law in ("fixed", "late"):
        p = (np.arange(window) + 0.5) / window
        p = 1 - p if law == "late" else p
        return p ** (ALPHA - 1) * (1 - p) ** (BETA - 1)
    samples = np.random.default_rng(seed).beta(ALPHA, BETA, HISTOGRAM_SAMPLES)
    counts, _ = np.histogram(samples, HISTOGRAM_BINS)
    return counts[np.arange(window) * HISTOGRAM_BINS // window].astype(np.float64)


def draw_ranks(weights: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw `count` distinct rank positions with probability proportional to the weights, one after the other.

    Efraimidis and Spirakis' exponential keys (2006): the same law as drawing without replacement one by one.
    """
    possible = np.flatnonzero(weights > 0)
    count = min(count, len(possible))
    keys = rng.exponential(size=len(possible)) / weights[possible]
    return np.sort(possible[np.argpartition(keys, count - 1)[:count]])


class Ranks:
    """A law over the similarity list of a cohort, ready to draw rank positions from.

    Args:
        law: one of `LAWS`; tiles: N; seed: see `rank_weights`.
    """

    def __init__(self, law: str, tiles: int, seed: int = 0):
        self.law = law
        self.weights = rank_weights(max(1, int(window_share(law) * tiles)), law, seed)

    def draw(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Return up to `count` distinct positions, int64 ascending; `hardest` takes the first ones."""
        if self.law == "hardest":
            return np.arange(min(count, len(self.weights)))
        return draw_ranks(self.weights, count, rng)


def draw_fractions(law: str, count: int, rng: np.random.Generator, seed: int = 0) -> np.ndarray:
    """Draw rank fractions of the whole bank, WINDOW x Beta(5, 15) or another law, with replacement (S3).

    Returns:
        (count,) float64 in [0, `window_share(law)`), ascending.
    """
    if law == "hardest":
        raise UserError("mining=hardest needs form=exact: a sample does not hold the most similar tiles.")
    if law == "uniform":
        return np.sort(rng.random(count))
    if law in ("fixed", "late"):
        drawn = rng.beta(ALPHA, BETA, count)
        return np.sort(WINDOW * (1 - drawn if law == "late" else drawn))
    weights = rank_weights(HISTOGRAM_BINS, law, seed)
    bins = rng.choice(HISTOGRAM_BINS, count, p=weights / weights.sum())
    return np.sort(WINDOW * (bins + rng.random(count)) / HISTOGRAM_BINS)


def mined_negatives(similarity: Tensor, excluded: Tensor, ranks: Tensor) -> Tensor:
    """Tiles at the drawn ranks of every anchor's similarity list.

    Args:
        similarity: (B, N) backbone similarity with the bank, or with a sample of it; the excluded entries are lost.
        excluded: (B, n) padded set of columns (the anchor and its positives), masked by -inf.
        ranks: (H,) int64 ascending rank positions, shared by the batch.

    Returns:
        (B, H) int64 columns; -1 where the list, without the excluded, is too short.
    """
    row, place = (excluded >= 0).nonzero(as_tuple=True)
    similarity[row, excluded[row, place]] = -torch.inf
    chosen = at_ranks(similarity, ranks)
    return torch.where(similarity.gather(1, chosen) > -torch.inf, chosen, -1).masked_fill(
        ranks >= similarity.shape[1], -1
    )
