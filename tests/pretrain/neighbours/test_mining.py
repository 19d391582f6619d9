import numpy as np
import pytest
import torch

from pretrain.neighbours.mining import draw_ranks, mined_negatives, rank_weights

WINDOW = 40_000  # 0.2 of N = 200,000


@pytest.mark.parametrize(("law", "mean", "tolerance"), [("fixed", 0.25, 0.006), ("reference", 0.33, 0.015)])
def test_mean_rank_of_the_law(law, mean, tolerance):
    weights = rank_weights(WINDOW, law)
    rng = np.random.default_rng(0)
    got = np.mean([draw_ranks(weights, 4096, rng).mean() / WINDOW for _ in range(5)])
    assert abs(got - mean) < tolerance


@pytest.mark.parametrize(("law", "mean"), [("fixed", 0.295), ("reference", 0.345)])
def test_small_banks_exhaust_the_mode(law, mean):
    window = int(0.2 * 40_960)
    rng = np.random.default_rng(0)
    got = np.mean([draw_ranks(rank_weights(window, law), 4096, rng).mean() / window for _ in range(5)])
    assert abs(got - mean) < 0.015


def test_draws_are_distinct_sorted_and_capped():
    ranks = draw_ranks(np.array([0.0, 1, 1, 0, 5]), 10, np.random.default_rng(0))
    assert ranks.tolist() == [1, 2, 4]


def test_mined_tiles_lie_at_the_drawn_ranks_of_the_rest():
    similarity = torch.tensor([[0.9, 0.8, -0.1, -0.2, -0.3, 0.7], [-0.9, -0.8, -0.7, -0.6, -0.5, -0.4]])
    excluded = torch.tensor([[0, 5], [5, -1]])
    got = mined_negatives(similarity, excluded, torch.tensor([0, 2]))
    # negative similarities are not outranked by the excluded ones (D3)
    assert got.tolist() == [[1, 3], [4, 2]]


def test_a_list_that_is_too_short_gives_absent_entries():
    got = mined_negatives(torch.tensor([[0.5, 0.4, 0.3]]), torch.tensor([[0, 1]]), torch.tensor([0, 1, 5]))
    assert got.tolist() == [[2, -1, -1]]
