"""Section 8.3 and 8.4 of the method's specification."""

import math

import pytest
import torch

from pretrain.losses import info_nce, neighbour_loss, ramp_up

S = torch.tensor([0.9, 0.8, 0.6, 0.1, 0.4, 0.2, 0.0, -0.2, 0.7, 0.3, 0.5, -0.5], dtype=torch.float64)
MINED = [3, 9, 11]
REFERENCE, FIXED = [0, 1, 2, 4, 5, 8], [1, 2, 4, 5, 8]


def loss_and_gradient(members, **options):
    s = S.clone().requires_grad_()
    everyone = torch.ones(1, len(members), dtype=torch.bool)
    loss = neighbour_loss(
        s[members][None], everyone, s[MINED][None], torch.ones(1, 3, dtype=torch.bool), 0.5, **options
    )
    loss.backward()
    return loss.item(), s.grad


@pytest.mark.parametrize(
    ("members", "options", "loss", "gradient"),
    [
        (REFERENCE, {"repel": False, "constant": 12, "skip_empty": False}, 0.354834,
         {0: -0.163572, 1: -0.133922, 2: -0.089770, 4: -0.060175, 5: -0.040336, 8: -0.109646}),
        (REFERENCE, {}, 0.143576,
         {0: -0.073238, 1: -0.059962, 2: -0.040194, 4: -0.026943, 5: -0.018060, 8: -0.049093, 3: 0.095771, 9: 0.142873, 11: 0.028846}),
        (FIXED, {}, 0.192771,
         {1: -0.108242, 2: -0.072557, 4: -0.048636, 5: -0.032602, 8: -0.088621, 3: 0.125548, 9: 0.187296, 11: 0.037814}),
    ],
)  # fmt: skip
def test_neighbour_loss_of_the_worked_example(members, options, loss, gradient):
    got, grad = loss_and_gradient(members, **options)
    assert abs(got - loss) < 1e-6
    expected = torch.zeros(12, dtype=torch.float64)
    for tile, value in gradient.items():
        expected[tile] = value
    torch.testing.assert_close(grad, expected, rtol=0, atol=1e-6)


def empty_batch(skip_empty):
    s = torch.zeros(2, 3, requires_grad=True)
    no, yes = torch.zeros(2, 3, dtype=torch.bool), torch.ones(2, 3, dtype=torch.bool)
    loss = neighbour_loss(s, no, s * 1.0, yes, 0.07, skip_empty=skip_empty)
    loss.backward()
    return loss, s.grad


def test_empty_positive_sets():
    loss, grad = empty_batch(skip_empty=False)
    assert abs(loss.item() - 16.118096) < 1e-5
    loss, grad = empty_batch(skip_empty=True)
    assert loss.item() == 0
    assert (grad == 0).all()


def test_only_anchors_with_positives_count():
    mask = torch.tensor([[True], [False]])
    s, mined = torch.tensor([[0.5], [0.1]]), torch.tensor([[0.2], [0.9]])
    both = neighbour_loss(s, mask, mined, torch.ones_like(mask), 0.1)
    alone = neighbour_loss(s[:1], mask[:1], mined[:1], torch.ones_like(mask[:1]), 0.1)
    torch.testing.assert_close(both, alone)


def test_info_nce_value_and_absent_negatives():
    positive, negatives = torch.tensor([0.9]), torch.tensor([[0.1, 0.3, -0.5, 0.99]])
    got = info_nce(positive, negatives, 0.2, torch.tensor([[False, False, False, True]]))
    assert abs(got.item() - 0.066737) < 1e-6


def test_ramp_up_table():
    table = [0.0067, 0.0174, 0.0408, 0.0863, 0.1653, 0.2865, 0.4493, 0.6376, 0.8187, 0.9512]
    assert [round(ramp_up(t, 10), 4) for t in range(10)] == table
    assert ramp_up(10, 10) == ramp_up(50, 10) == 1
    assert ramp_up(0, 0) == 1
    assert math.isclose(ramp_up(0, 10), math.exp(-5))
