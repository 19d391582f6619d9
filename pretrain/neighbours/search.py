"""Two ways to look through the banks for semantic positives and mined negatives: all of them, or a sample.

`ExactSearch` compares every query with every row: B x N numbers a step, sound up to some millions of tiles. `SampledSearch`
costs the same at any N (S2, S3): a query's cell holds the candidates, and M uniformly drawn rows tell how similar the
`nearest`-th of all rows would be, and what lies at a given share of the similarity list.
"""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from pretrain.bank import MemoryBank
from pretrain.neighbours.clusters import Cells
from pretrain.neighbours.mining import Ranks, draw_fractions, mined_negatives
from pretrain.neighbours.select import kth_largest
from pretrain.neighbours.semantic import auxiliary_anchors, semantic_positives
from pretrain.randomness import generator
from results.errors import UserError

EXACT_LIMIT = 2_000_000
"""Tiles up to which `form=auto` is exact (S2)."""
LEAST_SAMPLE = 100
MOST_CANDIDATES = 4096
"""Of a cell with more tiles than this, a sampled search looks at so many, taken at even steps."""


def check_form(key: Callable[[str], str], options: Any) -> None:
    """Refuse options `form`, `sample` and `shard` of a method that do not go together, with a UserError; `key` gives them as they are typed."""
    if options.sample < LEAST_SAMPLE:
        raise UserError(f"{key('sample')}={options.sample} is too small: give {LEAST_SAMPLE} or more.")
    if options.shard and options.form != "sampled":
        raise UserError(
            f"{key('shard')}=true needs {key('form')}=sampled: the exact form compares with all rows on every rank."
        )


def is_sampled(form: str, tiles: int) -> bool:
    """Whether a form (of `pretrain.options.CHOICES`) looks at a sample of N tiles."""
    return form == "sampled" or (form == "auto" and tiles > EXACT_LIMIT)


class Search(Protocol):
    """What a method asks of either form."""

    def semantic(self, queries: Tensor, own: Tensor, cells: Cells, nearest: int) -> Tensor:
        """Semantic positives of (R, D) unit queries that stand for the bank rows `own` (R,), as a padded (R, n) set."""

    def mined(
        self, queries: Tensor, pooled: Tensor, excluded: Tensor, count: int, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Semi-hard negatives of the anchors.

        Args:
            queries: (B, D) with gradient; pooled: (B, F) backbone features; excluded: (B, n) padded set of tiles.

        Returns:
            (B, count) similarity with the queries, with gradient; (B, count) bool, which exist; (B, count) tile ids.
        """


@torch.no_grad()
def semantic_sets(
    search: Search,
    cells: Cells,
    bank: MemoryBank,
    queries: Tensor,
    tile_ids: Tensor,
    spatial: Tensor,
    aux: int,
    nearest: int,
    arbitrary: bool = False,
) -> Tensor:
    """S of (B,) anchors as a padded (B, n) set: of the anchor itself and of its `aux` auxiliary anchors (sgcl-method.md 2.6).

    Args:
        queries: (B, D); spatial: (B, P) padded spatial positives, among which the auxiliary anchors are.
        arbitrary: take row 0 where an auxiliary anchor is missing, as the published code does (D4).
    """
    chosen = auxiliary_anchors((queries[:, None] * bank[spatial.clamp(min=0)]).sum(2), spatial, aux)
    if arbitrary:
        chosen = chosen.clamp(min=0) if chosen.shape[1] else tile_ids.new_zeros(len(queries), aux)
    rows = torch.cat([tile_ids, chosen.clamp(min=0).flatten()])
    found = search.semantic(torch.cat([queries, bank[rows[len(queries) :]]]), rows, cells, nearest)
    own, others = found[: len(queries)], found[len(queries) :].view(*chosen.shape, -1)
    return torch.cat([own, others.masked_fill((chosen < 0)[..., None], -1).flatten(1)], 1)


class ExactSearch:
    """Every row of both banks, every step.

    Args:
        bank: of the projected features; backbone: of the pooled ones.
        law, seed: see `mining.rank_weights`.
    """

    def __init__(self, bank: MemoryBank, backbone: MemoryBank, law: str, seed: int):
        self.bank, self.backbone, self.ranks = bank, backbone, Ranks(law, len(bank), seed)

    @torch.no_grad()
    def semantic(self, queries: Tensor, own: Tensor, cells: Cells, nearest: int) -> Tensor:
        return semantic_positives(self.bank.similarity(queries), own, cells, nearest)

    def mined(
        self, queries: Tensor, pooled: Tensor, excluded: Tensor, count: int, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        ranks = torch.from_numpy(self.ranks.draw(count, rng)).to(queries.device)
        with torch.no_grad():
            found = mined_negatives(self.backbone.similarity(pooled), excluded, ranks)
            rows = self.bank[found.clamp(min=0)]
        return torch.bmm(rows, queries[:, :, None])[:, :, 0], found >= 0, found


class SampledSearch:
    """A uniform sample of the rows, drawn for one step.

    Args:
        sample: (M,) ascending tile ids, uniform over the cohort, repeats allowed.
        law, seed: see `mining.draw_fractions`.
    """

    def __init__(self, bank: MemoryBank, backbone: MemoryBank, sample: Tensor, law: str, seed: int):
        self.bank, self.backbone, self.sample, self.law, self.seed = bank, backbone, sample, law, seed
        self.rows = bank[sample]
        self.repeats = int(torch.unique_consecutive(sample, return_counts=True)[1].max())

    @torch.no_grad()
    def semantic(self, queries: Tensor, own: Tensor, cells: Cells, nearest: int) -> Tensor:
        members = cells.members(own, MOST_CANDIDATES)
        similarity = queries @ self.rows.T
        self._drop(similarity, own[:, None])
        nearest = max(1, round(nearest * len(self.sample) / len(self.bank)))
        close = torch.bmm(self.bank[members.clamp(min=0)], queries[:, :, None])[:, :, 0]
        return torch.where((members >= 0) & (close >= kth_largest(similarity, nearest)[:, None]), members, -1)

    def mined(
        self, queries: Tensor, pooled: Tensor, excluded: Tensor, count: int, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        fractions = draw_fractions(self.law, count, rng, self.seed)
        ranks = torch.from_numpy((fractions * len(self.sample)).astype(np.int64)).to(queries.device)
        with torch.no_grad():
            rows = self.rows if self.backbone is self.bank else self.backbone[self.sample]
            close = pooled @ rows.T
            found = mined_negatives(close, self._places(excluded), ranks)
        similarity = (queries @ self.rows.T).gather(1, found.clamp(min=0))
        return similarity, found >= 0, torch.where(found >= 0, self.sample[found.clamp(min=0)], -1)

    def _places(self, tiles: Tensor) -> Tensor:
        """Columns of the sample that hold the tiles of a padded (B, n) set, as a padded (B, n * repeats) set."""
        place = torch.searchsorted(self.sample, tiles.contiguous())[..., None] + torch.arange(
            self.repeats, device=tiles.device
        )
        hit = (place < len(self.sample)) & (self.sample[place.clamp(max=len(self.sample) - 1)] == tiles[..., None])
        return torch.where(hit & (tiles[..., None] >= 0), place, -1).flatten(1)

    def _drop(self, similarity: Tensor, tiles: Tensor) -> None:
        places = self._places(tiles)
        row, column = (places >= 0).nonzero(as_tuple=True)
        similarity[row, places[row, column]] = -torch.inf


def sampled_search(bank: MemoryBank, backbone: MemoryBank, count: int, law: str, seed: int, step: int) -> SampledSearch:
    """The sampled form of one step: `count` rows, at most N, drawn by (seed, step), the same on every rank."""
    drawn = torch.randint(len(bank), (min(count, len(bank)),), generator=generator(seed, step, "sample"))
    return SampledSearch(bank, backbone, drawn.sort().values.to(bank.rows.device), law, seed)
