"""PIRL: two queries of one tile against one bank row."""

import math

import pytest
import torch
import torch.nn.functional as F
from method_parts import noise, seeded

from pretrain.methods.pirl import CELLS, PIRL, PIRLOptions
from results.errors import UserError

IDS = torch.tensor([3, 7, 50, 120])


def make(facts, **options):
    return seeded("pirl", facts, dimension=8, negatives=100, **options)


def test_cells_tile_the_whole_row_by_row():
    assert len(CELLS) == 9
    assert sum((r - l) * (b - t) for _, (l, t, r, b) in CELLS) == pytest.approx(1)  # noqa: E741
    assert CELLS[1][1] == pytest.approx((1 / 3, 0, 2 / 3, 1 / 3))
    assert CELLS[3][1] == pytest.approx((0, 1 / 3, 1 / 3, 2 / 3))


def test_orders_are_permutations_by_tile_and_epoch_not_by_batch(facts):
    method = make(facts)
    orders = method.orders(torch.arange(60), epoch=0)
    assert torch.equal(orders.sort(1).values, torch.arange(9).expand(60, 9))
    assert len({tuple(row) for row in orders.tolist()}) > 50
    assert torch.equal(method.orders(torch.tensor([17]), epoch=0)[0], orders[17])
    assert not torch.equal(method.orders(torch.arange(60), epoch=1), orders)


def test_cells_are_joined_in_their_order(facts):
    method = make(facts)
    cells = torch.arange(9.0).view(1, 9, 1).expand(1, 9, 8)
    order = torch.tensor([[4, 0, 8, 1, 2, 3, 5, 6, 7]])
    with torch.no_grad():
        expected = method.joint(order[0].float().repeat_interleave(8)[None])
    torch.testing.assert_close(method.join(cells, order), F.normalize(expected, dim=1))


def test_both_terms_equal_a_plain_sum(facts):
    method = make(facts).eval()
    views, t = noise(method, len(IDS)), 0.2
    with torch.no_grad():
        step = method(views, IDS, epoch=2, step=5)
        q = F.normalize(method.neck(method.backbone(views["global"])), dim=1)
        cells = torch.stack([method.cell_neck(method.backbone(views[name])) for name, _ in CELLS], 1)
        orders = method.orders(IDS, 2)
        shuffled = torch.stack([cells[b, order].flatten() for b, order in enumerate(orders)])
        jigsaw = F.normalize(method.joint(shuffled), dim=1)
    bank, drawn = method.banks["global"].rows.double(), method.draw_negatives(5).tolist()
    for name, query in (("self", q), ("jigsaw", jigsaw)):
        total = 0.0
        for b, i in enumerate(IDS.tolist()):
            own = math.exp(float(query[b].double() @ bank[i]) / t)
            rest = sum(math.exp(float(query[b].double() @ bank[j]) / t) for j in drawn if j != i)
            total -= math.log(own / (own + rest))
        assert step.losses[name].item() == pytest.approx(total / len(IDS), rel=1e-5)
    half = 0.5 * (step.losses["self"] + step.losses["jigsaw"])
    torch.testing.assert_close(step.total(), half)
    torch.testing.assert_close(step.writes["global"], q)


@pytest.mark.parametrize(("wrong", "words"), [({"jigsaw_weight": -1.0}, "give a number from 0"), ({"neck": "deep"}, "choose one of mlp, linear"),
                                              ({"global_weight": 0.0, "jigsaw_weight": 0.0}, "not both 0")])  # fmt: skip
def test_impossible_options_are_refused(wrong, words):
    with pytest.raises(UserError, match=words):
        PIRL.check(PIRLOptions(**wrong))
