"""NPID + Mcrop: five banks, weights 0.2 and 0.8, the inner term of SGCL."""

import math

import pytest
import torch
import torch.nn.functional as F
from method_parts import VIEWS, noise, seeded

from pretrain.methods.npid_mcrop import NPIDMcrop, NPIDMcropOptions
from pretrain.views import QUADRANTS
from results.errors import UserError

IDS = torch.tensor([3, 7, 50, 120])


def make(facts, **options):
    return seeded("npid_mcrop", facts, dimension=8, negatives=100, **options)


def nce(query, rows, own, t) -> float:
    """-log softmax of the own row, float64, by a loop."""
    sims = [float(query.double() @ row.double()) / t for row in (own, *rows)]
    return -sims[0] + math.log(sum(math.exp(s) for s in sims))


@pytest.mark.parametrize("siblings", [True, False])
def test_total_is_a_fifth_of_the_tile_and_four_fifths_of_its_quadrants(facts, siblings):
    method = make(facts, siblings=siblings).eval()
    views = noise(method, len(IDS))
    with torch.no_grad():
        step = method(views, IDS, epoch=0, step=5)
        drawn, t = method.draw_negatives(5).tolist(), method.options.temperature
        q = F.normalize(method.neck(method.backbone(views["global"])), dim=1)
        bank = method.banks["global"].rows
        whole = [nce(q[b], [bank[j] for j in drawn if j != i], bank[i], t) for b, i in enumerate(IDS.tolist())]
        inner = []
        for name in QUADRANTS:
            p = F.normalize(method.neck(method.backbone(views[name])), dim=1)
            for b, i in enumerate(IDS.tolist()):
                rows = [method.banks[n].rows[j] for n in QUADRANTS for j in drawn[:25] if j != i]
                rows += [method.banks[n].rows[i] for n in QUADRANTS if n != name] if siblings else []
                inner.append(nce(p[b], rows, method.banks[name].rows[i], t))
    assert set(step.losses) == {"self", "inner"}
    expected = 0.2 * sum(whole) / len(whole) + 0.8 * sum(inner) / len(inner)
    assert step.total().item() == pytest.approx(expected, rel=1e-5)


def test_it_has_one_global_bank_and_one_a_quadrant_and_writes_them_all(facts):
    method = make(facts)
    assert set(method.banks) == {"global", *QUADRANTS}
    before = {name: bank.rows.clone() for name, bank in method.banks.items()}
    method.remember(method(noise(method, len(IDS)), IDS, epoch=0, step=0))
    for name, bank in method.banks.items():
        assert sorted((bank.rows != before[name]).any(1).nonzero().flatten().tolist()) == sorted(IDS.tolist())


@pytest.mark.parametrize(("wrong", "words"), [({"global_weight": -0.1}, "give a number from 0"), ({"neck": "deep"}, "choose one of mlp, linear"),
                                              ({"global_weight": 0.0, "local_weight": 0.0}, "not both 0")])  # fmt: skip
def test_impossible_options_are_refused(wrong, words):
    with pytest.raises(UserError, match=words):
        NPIDMcrop.check(NPIDMcropOptions(**wrong))


def test_label_and_resolved_numbers(facts):
    assert make(facts).label == "npid_mcrop"
    big = NPIDMcrop(NPIDMcropOptions(), facts, "resnet18", VIEWS)
    assert big.resolved() == {"negatives": 400}
