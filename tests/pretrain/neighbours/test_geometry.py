"""The hand-checked cases of the method's specification, section 8.1 (geometry) and 8.2 (semantic set)."""

import itertools

import pytest
import torch

from pretrain.neighbours import sizes, union, without
from pretrain.neighbours.clusters import Cells
from pretrain.neighbours.semantic import auxiliary_anchors, semantic_positives
from pretrain.neighbours.spatial import SpatialIndex
from results.errors import UserError

SLIDE = torch.tensor([0] * 8 + [1] * 4)
X = torch.tensor([10, 11, 12, 13, 10, 12, 13, 40, 10, 11, 10, 12])
Y = torch.tensor([10, 10, 10, 10, 12, 12, 13, 40, 10, 11, 13, 12])
EXPECTED = {
    1.1: [{1}, {0, 2}, {1, 3}, {2}, set(), set(), set(), set(), set(), set(), set(), set()],
    2: [{1}, {0, 2}, {1, 3}, {2}, set(), {6}, {5}, set(), {9}, {8, 11}, set(), {9}],
    3: [{1, 2, 4, 5}, {0, 2, 3, 4, 5}, {0, 1, 3, 4, 5}, {1, 2, 5}, {0, 1, 2, 5}, {0, 1, 2, 3, 4, 6}, {5}, set(),
        {9, 11}, {8, 10, 11}, {9, 11}, {8, 9, 10}],
    5: [{1, 2, 3, 4, 5, 6}, {0, 2, 3, 4, 5, 6}, {0, 1, 3, 4, 5, 6}, {0, 1, 2, 4, 5, 6}, {0, 1, 2, 3, 5, 6}, {0, 1, 2, 3, 4, 6},
        {0, 1, 2, 3, 4, 5}, set(), {9, 10, 11}, {8, 10, 11}, {8, 9, 11}, {8, 9, 10}],
}  # fmt: skip


def sets_of(index: SpatialIndex, ids=None) -> list[set[int]]:
    ids = torch.arange(len(index.key)) if ids is None else ids
    return [set(row[row >= 0].tolist()) for row in index.positives(ids)]


@pytest.mark.parametrize("radius", EXPECTED)
def test_required_spatial_positives(radius):
    assert sets_of(SpatialIndex(SLIDE, X, Y, radius)) == EXPECTED[radius]


def test_twins_are_not_mutual_positives_but_both_are_their_neighbours():
    index = SpatialIndex(torch.cat([SLIDE, torch.tensor([0])]), torch.cat([X, X[:1]]), torch.cat([Y, Y[:1]]), 3)
    found = sets_of(index)
    assert 12 not in found[0]
    assert 0 not in found[12]
    assert {0, 12} <= found[1]


@pytest.mark.parametrize("shift", [100_000, -7, 2**40])
def test_a_shift_changes_nothing(shift):
    assert sets_of(SpatialIndex(SLIDE, X + shift, Y + shift, 3)) == EXPECTED[3]


def test_a_permutation_permutes():
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    found = sets_of(SpatialIndex(SLIDE[order], X[order], Y[order], 3))
    for place, tile in enumerate(order.tolist()):
        assert {order[j].item() for j in found[place]} == EXPECTED[3][tile]


@pytest.mark.parametrize(("radius", "count"), [(1.1, 4), (2, 8), (3, 24), (5, 68), (7, 144), (10, 304)])
def test_interior_sizes(radius, count):
    x, y = torch.meshgrid(torch.arange(41), torch.arange(41), indexing="ij")
    index = SpatialIndex(torch.zeros(41 * 41, dtype=torch.int64), x.flatten(), y.flatten(), radius)
    assert sizes(index.positives(torch.tensor([20 * 41 + 20]))).item() == count


def test_random_cohorts_agree_with_all_pairs():
    rng = torch.Generator().manual_seed(1)
    slide = torch.randint(5, (400,), generator=rng)
    x, y = torch.randint(-9, 12, (2, 400), generator=rng)
    found = sets_of(SpatialIndex(slide, x, y, 3))
    for i, j in itertools.product(range(400), range(400)):
        distance = ((x[i] - x[j]) ** 2 + (y[i] - y[j]) ** 2).item()
        assert (j in found[i]) == (slide[i] == slide[j] and 0 < distance < 9)


def test_coordinates_too_wide_to_index_are_refused():
    with pytest.raises(UserError, match="are the coordinates pixels"):
        SpatialIndex(SLIDE, X * 2**40, Y * 2**40, 3)


def test_semantic_set_of_the_worked_example():
    s0 = torch.tensor([0.9, 0.8, 0.6, 0.1, 0.4, 0.2, 0.0, -0.2, 0.7, 0.3, 0.5, -0.5])
    s1 = torch.tensor([0.9, 1.0, 0.3, 0.2, 0.1, 0.0, -0.1, -0.2, 0.6, 0.4, 0.5, -0.3])
    labels = torch.tensor(
        [
            [0, 0, 0, 1, 1, 1, 2, 2, 0, 1, 0, 2],
            [0, 0, 1, 1, 1, 0, 2, 2, 0, 1, 0, 2],
            [0, 0, 0, 0, 1, 1, 2, 2, 0, 1, 1, 2],
        ]
    )
    anchor = torch.tensor([0])
    spatial = SpatialIndex(SLIDE, X, Y, 3).positives(anchor)
    aux = auxiliary_anchors(s0[spatial.clamp(min=0)], spatial, 1)
    assert aux.tolist() == [[1]]
    of_anchor = semantic_positives(s0[None].clone(), anchor, Cells(labels), 4)
    of_aux = semantic_positives(s1[None].clone(), aux[:, 0], Cells(labels), 4)
    assert set(of_anchor[of_anchor >= 0].tolist()) == {1, 8}
    assert set(of_aux[of_aux >= 0].tolist()) == {0, 8}
    semantic = union(of_anchor, of_aux)
    assert union(spatial, semantic).tolist() == [[0, 1, 2, 4, 5, 8]]
    assert union(spatial, without(semantic, anchor)).tolist() == [[1, 2, 4, 5, 8]]


def test_auxiliary_anchor_of_an_isolated_tile_is_absent():
    spatial = SpatialIndex(SLIDE, X, Y, 3).positives(torch.tensor([7, 6]))
    aux = auxiliary_anchors(torch.linspace(0, 1, 12)[spatial.clamp(min=0)], spatial, 2)
    assert aux[0].tolist() == [-1, -1]
    assert aux[1].tolist() == [5, -1]


def test_union_of_padded_sets():
    got = union(torch.tensor([[3, -1, 1], [-1, -1, -1]]), torch.tensor([[1, 7], [-1, -1]]))
    assert got.tolist() == [[1, 3, 7], [-1, -1, -1]]
    assert sizes(got).tolist() == [3, 0]
