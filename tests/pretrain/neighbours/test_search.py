"""The two forms against a dense float64 oracle, and the sampled one against the exact one."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pretrain.bank import MemoryBank
from pretrain.distributed import World
from pretrain.neighbours import union
from pretrain.neighbours.clusters import Cells
from pretrain.neighbours.mining import WINDOW, draw_fractions
from pretrain.neighbours.search import ExactSearch, SampledSearch
from pretrain.neighbours.semantic import semantic_positives


def world(tiles: int, seed: int = 0):
    """Banks of clumped unit rows, labels of three noisy clusterings, and the queries of six tiles; two rows are alike."""
    rng = torch.Generator().manual_seed(seed)
    bank, backbone = (MemoryBank(tiles, d, 0.5, seed, name, World()) for d, name in ((16, "a"), (32, "b")))
    clump = torch.randint(12, (tiles,), generator=rng)
    for own in (bank, backbone):
        centre = F.normalize(torch.randn(12, own.rows.shape[1], generator=rng), dim=1)
        own.rows = F.normalize(own.rows + 1.2 * centre[clump], dim=1)
    bank.rows[11] = bank.rows[5]
    labels = torch.stack([torch.where(torch.rand(tiles, generator=rng) < 0.9, clump, 0) for _ in range(3)])
    ids = torch.tensor([5, 11, 0, tiles - 1, tiles // 2, 77])
    return (
        bank,
        backbone,
        Cells(labels),
        ids,
        F.normalize(bank.rows[ids] + 0.1 * torch.randn(6, 16, generator=rng), dim=1),
    )


@pytest.mark.parametrize("tiles", [2000, 50_000])
@pytest.mark.parametrize("nearest", [30, 700])
def test_exact_semantic_sets_are_the_oracles(tiles, nearest):
    bank, backbone, cells, ids, q = world(tiles)
    found = ExactSearch(bank, backbone, "fixed", 0).semantic(q, ids, cells, nearest)
    similarity = q.double() @ bank.rows.double().T
    for row, (tile, s) in enumerate(zip(ids.tolist(), similarity, strict=True)):
        s[tile] = -torch.inf
        close = set(s.sort(descending=True, stable=True).indices[:nearest].tolist())
        together = set((cells.labels == cells.labels[:, [tile]]).all(0).nonzero()[:, 0].tolist())
        assert set(found[row][found[row] >= 0].tolist()) == close & together


def test_wide_cells_and_narrow_cells_agree():
    bank, _, cells, ids, q = world(3000)
    one = Cells(torch.zeros_like(cells.labels))
    wide = semantic_positives(bank.similarity(q), ids, one, 100)
    assert cells.largest(ids) < 400 < one.largest(ids)
    expected = semantic_positives(bank.similarity(q), ids, cells, 100)
    for row in range(len(ids)):
        together = (cells.labels[:, wide[row]] == cells.labels[:, ids[row], None]).all(0)
        assert set(wide[row][together].tolist()) == set(expected[row][expected[row] >= 0].tolist())


@pytest.mark.parametrize("law", ["fixed", "reference"])
def test_exact_mined_negatives_are_the_oracles(law):
    bank, backbone, _, ids, q = world(4000)
    h = F.normalize(torch.randn(6, 32, generator=torch.Generator().manual_seed(3)), dim=1)
    excluded = union(ids[:, None], torch.arange(90).expand(6, 90))
    search = ExactSearch(bank, backbone, law, 0)
    similarity, present, found = search.mined(q, h, excluded, 50, np.random.default_rng(1))
    ranks = search.ranks.draw(50, np.random.default_rng(1))
    for row in range(6):
        close = h[row].double() @ backbone.rows.double().T
        close[excluded[row][excluded[row] >= 0]] = -torch.inf
        assert found[row].tolist() == close.argsort(descending=True)[ranks].tolist()
    assert present.all()
    torch.testing.assert_close(similarity, torch.einsum("bd,bhd->bh", q, bank[found]))


def test_a_sample_of_every_tile_gives_the_exact_semantic_sets():
    bank, backbone, cells, ids, q = world(5000)
    exact = ExactSearch(bank, backbone, "fixed", 0).semantic(q, ids, cells, 200)
    sampled = SampledSearch(bank, backbone, torch.arange(5000), "fixed", 0).semantic(q, ids, cells, 200)
    for a, b in zip(exact, sampled, strict=True):  # the row at the threshold itself may round to either side
        assert len(set(a[a >= 0].tolist()) ^ set(b[b >= 0].tolist())) <= 1
    assert (exact >= 0).sum() > 200


def test_a_sample_never_mines_the_excluded_even_when_drawn_twice():
    bank, backbone, _, ids, q = world(500)
    sample = torch.arange(500).repeat_interleave(3)
    excluded = union(ids[:, None], torch.arange(0, 500, 2).expand(6, 250))
    search = SampledSearch(bank, backbone, sample, "fixed", 0)
    h = F.normalize(backbone.rows[ids], dim=1)
    similarity, present, found = search.mined(q.requires_grad_(), h, excluded, 300, np.random.default_rng(0))
    assert present.all()
    assert (found % 2 == 1).all()
    assert not (found == ids[:, None]).any()
    torch.testing.assert_close(similarity, torch.einsum("bd,bhd->bh", q, bank[found]))
    similarity.sum().backward()
    assert q.grad.abs().sum() > 0


def test_sampled_agrees_with_exact_at_a_hundredth_of_the_rows():
    bank, backbone, cells, ids, q = world(40_000)
    sample = torch.randint(40_000, (4000,), generator=torch.Generator().manual_seed(2)).sort().values
    exact, sampled = ExactSearch(bank, backbone, "fixed", 0), SampledSearch(bank, backbone, sample, "fixed", 0)
    found = zip(exact.semantic(q, ids, cells, 2000), sampled.semantic(q, ids, cells, 2000), strict=True)
    sets = [(set(a[a >= 0].tolist()), set(b[b >= 0].tolist())) for a, b in found]
    shared = [len(a & b) / len(a | b) for a, b in sets if len(a) > 50]
    assert len(shared) >= 2
    assert min(shared) > 0.85
    h = F.normalize(backbone.rows[ids] + 0.1, dim=1)
    close = backbone.similarity(h)
    place = close.argsort(dim=1, descending=True).argsort(1) / len(bank)
    for search in (exact, sampled):
        _, _, found = search.mined(q, h, ids[:, None], 2000, np.random.default_rng(0))
        assert abs(place.gather(1, found).mean().item() - WINDOW * 0.25) < 0.004


@pytest.mark.parametrize(("law", "mean"), [("fixed", 0.25), ("reference", 0.33)])
def test_fractions_follow_the_law(law, mean):
    drawn = draw_fractions(law, 100_000, np.random.default_rng(0))
    assert drawn[0] >= 0
    assert (np.diff(drawn) >= 0).all()
    assert abs(drawn.mean() / WINDOW - mean) < 0.015
