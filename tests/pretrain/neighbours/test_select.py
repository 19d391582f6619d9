import pytest
import torch

from pretrain.neighbours.select import at_ranks, kth_largest


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("threads", [1, 2])
def test_ranks_and_kth_are_those_of_a_stable_sort(dtype, threads):
    torch.set_num_threads(threads)
    values = torch.randn(7, 5000, generator=torch.Generator().manual_seed(0)).mul(20).round().div(20).to(dtype)
    values[2, ::3] = -torch.inf
    values[3] = 0.25
    values[4, 7] = -0.0
    ranks = torch.tensor([0, 1, 5, 5, 400, 4998])
    expected = values.sort(dim=1, descending=True, stable=True)
    assert torch.equal(values.gather(1, at_ranks(values, ranks)), expected.values[:, ranks])
    for row in (0, 2, 3):
        assert torch.equal(at_ranks(values, ranks)[row], expected.indices[row, ranks])
    for k in (1, 17, 5000, 9999):
        assert torch.equal(kth_largest(values, k), expected.values[:, min(k, 5000) - 1])


def test_ranks_beyond_the_row_are_its_last():
    assert at_ranks(torch.tensor([[0.1, 0.3, 0.2]]), torch.tensor([0, 2, 9])).tolist() == [[1, 0, 0]]


@pytest.mark.parametrize("lost", [1, 30, 100])
def test_what_is_not_a_number_ranks_last(lost):
    """A network that diverged must reach the check of its loss, which says so."""
    values = torch.randn(2, 100, generator=torch.Generator().manual_seed(0))
    values[1, :lost] = torch.nan
    found = at_ranks(values, torch.arange(80))
    assert torch.equal(found[0], values[0].argsort(descending=True)[:80])
    left = min(80, 100 - lost)
    assert set(found[1][:left].tolist()) <= set(range(lost % 100, 100))
