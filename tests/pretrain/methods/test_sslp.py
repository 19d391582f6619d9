"""SSLP against a plain float64 oracle of section 2.9."""

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pretrain.distributed import World
from pretrain.methods.sslp import SSLP, TERMS, SSLPOptions, sum_of_ratios
from pretrain.neighbours.clusters import Cells
from pretrain.neighbours.mining import draw_ranks, rank_weights
from pretrain.neighbours.search import SampledSearch
from pretrain.randomness import key
from pretrain.views import ViewSettings
from results.errors import UserError

SMALL = {"dimension": 8, "clusters": 6, "nei_k": 20, "clusterings": 2}
VIEWS = ViewSettings(size=32, local_size=16)
IDS = torch.tensor([3, 7, 50, 120, 399, 200])


def make(facts, **options) -> SSLP:
    torch.manual_seed(0)
    method = SSLP(SSLPOptions(**SMALL | options), facts, "resnet18", VIEWS)
    bank = method.banks["global"]  # clumped rows, so that clusters and neighbours mean something
    bank.rows.copy_(F.normalize(bank.rows + 1.5 * bank.rows[:8].repeat(50, 1), dim=1))
    method.start_epoch(1)
    return method


def queries(method):
    rng = torch.Generator().manual_seed(5)
    q = F.normalize(torch.randn(len(IDS), SMALL["dimension"], generator=rng), dim=1)
    return F.normalize(q + 2 * method.banks["global"].rows[IDS], dim=1)


def batch():
    return {"global": torch.randn(len(IDS), 3, 32, 32, generator=torch.Generator().manual_seed(1))}


def oracle(method, q, step):
    """The three losses by loops over anchors and rows, float64; also P, S and the mined tiles of every anchor."""
    options, facts, n = method.options, method.facts, method.facts.tiles
    bank, labels, tau = method.banks["global"].rows.double(), method.cells.labels, method.options.temperature
    window = rank_weights(int(0.2 * n), "fixed")
    ranks = {}
    for term in TERMS:
        rng = np.random.default_rng(key(facts.seed, step, facts.world.rank, "ranks", term))
        ranks[term] = draw_ranks(window, method.nearest, rng)

    def semantic(query, own):
        s = query @ bank.T
        nearest = sorted((j for j in range(n) if j != own), key=lambda j: -s[j])[: method.nearest]
        return {j for j in nearest if all(row[j] == row[own] for row in labels)}

    losses, sets = {term: [] for term in TERMS}, []
    for i, query in zip(IDS.tolist(), q, strict=True):
        near = set()
        for j in range(n):
            apart = (facts.x[i] - facts.x[j]) ** 2 + (facts.y[i] - facts.y[j]) ** 2
            if facts.slide[i] == facts.slide[j] and 0 < apart < options.radius**2:
                near.add(j)
        s = query @ bank.T
        found = semantic(query.detach(), i)
        for a in sorted(near, key=lambda j: -s[j])[: options.aux]:
            found |= semantic(bank[a], a)
        found.discard(i)
        rest = sorted((j for j in range(n) if j != i and j not in near | found), key=lambda j: -s[j])
        mined = {term: [rest[r] for r in ranks[term]] for term in TERMS}
        sets.append((near, found, mined))
        e = torch.exp(s / tau)
        negative = {term: sum(e[j] for j in mined[term]) for term in TERMS}
        losses["self"].append(-torch.log(e[i] / (e[i] + negative["self"])))
        if near:
            positive = sum(e[j] for j in near)
            losses["spatial"].append(-torch.log(positive / (positive + negative["spatial"]) + 1e-7))
        if found:
            ratios = sum(e[j] / (e[j] + negative["semantic"]) for j in found)
            losses["semantic"].append(-torch.log(ratios + 1e-7))
    return {term: torch.stack(values).mean() for term, values in losses.items()}, sets


@pytest.mark.parametrize("aux", [1, 3])
def test_every_term_and_its_gradient_equal_the_oracle(facts, aux):
    method = make(facts, aux=aux)
    method.banks["global"].rows = method.banks["global"].rows.double()
    q = queries(method).double().requires_grad_()
    losses, counts = method.terms(q, IDS, epoch=2, step=4)
    expected, sets = oracle(method, q, 4)
    assert all(len(found) for _, found, _ in sets[:3])
    assert not sets[1][0]  # tile 7 is isolated
    for name in TERMS:
        torch.testing.assert_close(losses[name], expected[name], rtol=1e-9, atol=0)
        got, wanted = (torch.autograd.grad(loss[name], q, retain_graph=True)[0] for loss in (losses, expected))
        torch.testing.assert_close(got, wanted, rtol=1e-7, atol=1e-12)
    assert counts["spatial_positives"] == pytest.approx(np.mean([len(near) for near, _, _ in sets]))
    assert counts["semantic_positives"] == pytest.approx(np.mean([len(found) for _, found, _ in sets]))


def test_the_three_draws_are_independent_and_keep_clear_of_the_positives(facts):
    method = make(facts)
    _, sets = oracle(method, queries(method).double(), 4)
    for i, (near, found, mined) in zip(IDS.tolist(), sets, strict=True):
        assert len({tuple(mined[term]) for term in TERMS}) == 3
        assert all(({i} | near | found).isdisjoint(mined[term]) for term in TERMS)
    other = make(dataclasses.replace(facts, world=World(rank=1)))
    assert not np.array_equal(method.draws(4, "self").random(5), other.draws(4, "self").random(5))


def test_an_anchor_is_not_its_own_semantic_positive(facts):
    """It would be found by its auxiliary anchor, whose row is a copy of its own (D5)."""
    method = make(facts)
    method.cells = Cells(torch.zeros_like(method.cells.labels))
    ids = IDS[[0, 2, 3]]
    rows = method.banks["global"].rows
    rows[method.index.positives(ids).max(1).values] = rows[ids]
    _, semantic = method.positive_sets(rows[ids], ids, epoch=2)
    assert (semantic >= 0).any(1).all()
    assert not (semantic == ids[:, None]).any()


def test_mined_negatives_receive_gradient(facts):
    """Pure attraction would pull the query along its own row alone."""
    method = make(facts)
    method.banks["global"].rows = method.banks["global"].rows.double()
    q = queries(method).double().requires_grad_()
    losses, _ = method.terms(q, IDS, epoch=2, step=4)
    gradient = torch.autograd.grad(losses["self"], q)[0]
    own = method.banks["global"].rows[IDS]
    leftover = gradient - (gradient * own).sum(1, keepdim=True) * own
    assert (leftover.norm(dim=1) > 1e-3).all()


def test_sum_of_ratios_by_hand_and_below_zero():
    """Ratios e/(e + 1.221403): 2.718282 gives 0.689974, 1.822119 gives 0.598688; their sum exceeds 1."""
    loss = sum_of_ratios(
        torch.tensor([[0.5, 0.3, 9.0]]),
        torch.tensor([[True, True, False]]),
        torch.tensor([[0.1, 9.0]]),
        torch.tensor([[True, False]]),
        0.5,
    )
    ratios = math.e / (math.e + math.exp(0.2)) + math.exp(0.6) / (math.exp(0.6) + math.exp(0.2))
    assert loss.item() == pytest.approx(-math.log(ratios + 1e-7), abs=1e-6)
    assert loss.item() < 0


def test_anchors_without_semantic_positives_do_not_count():
    scores = torch.tensor([[0.5], [0.9]], requires_grad=True)
    mask, mined = torch.tensor([[True], [False]]), torch.tensor([[0.1], [0.2]])
    loss = sum_of_ratios(scores, mask, mined, torch.ones(2, 1, dtype=torch.bool), 0.5)
    assert loss.item() == pytest.approx(-math.log(math.e / (math.e + math.exp(0.2)) + 1e-7), abs=1e-6)
    assert torch.autograd.grad(loss, scores)[0][1] == 0
    nothing = sum_of_ratios(scores[:, :0], mask[:, :0], mined, torch.ones(2, 1, dtype=torch.bool), 0.5)
    assert nothing == 0


def test_the_first_epoch_has_no_semantic_positives_and_weights_rise(facts):
    method = make(facts)
    step = method(batch(), IDS, epoch=0, step=0)
    assert set(step.losses) == set(TERMS)
    assert step.losses["semantic"] == 0
    assert step.numbers["semantic_positives"] == 0
    assert step.weights == {"spatial": pytest.approx(math.exp(-5)), "semantic": pytest.approx(math.exp(-5))}
    later = method(batch(), IDS, epoch=10, step=0)
    assert later.losses["semantic"] != 0
    assert later.weights["semantic"] == 1


def test_counts_shrink_with_the_cohort_and_impossible_options_are_refused(facts):
    assert SSLP(SSLPOptions(), facts, "resnet18", VIEWS).resolved() == {"nei_k": 20, "clusters": 10, "form": "exact"}
    with pytest.raises(UserError, match=r"^sslp\.radius=1\.0 does not fit"):
        SSLP.check(SSLPOptions(radius=1.0))


def test_the_sampled_form_trains_and_is_chosen_by_size(facts, monkeypatch):
    method = make(facts, form="sampled", sample=300)
    assert method.resolved()["form"] == "sampled"
    q = queries(method).requires_grad_()
    losses = [method.terms(q, IDS, epoch=2, step=step)[0] for step in (4, 4, 5)]
    for term in TERMS:
        assert torch.equal(losses[0][term], losses[1][term])
        assert torch.autograd.grad(losses[0][term], q, retain_graph=True)[0].abs().sum() > 0
    assert not torch.equal(losses[0]["self"], losses[2]["self"])
    assert not make(facts).sampled
    monkeypatch.setattr("pretrain.neighbours.search.EXACT_LIMIT", 399)
    assert make(facts).sampled
    assert not make(facts, form="exact").sampled


def test_a_sample_of_every_tile_finds_the_exact_sets(facts):
    """And mines the same law: the mean rank of the mined tiles is that of the exact form."""
    exact, sampled = make(facts), make(facts, form="sampled")
    assert torch.equal(exact.cells.labels, sampled.cells.labels)  # fewer than 256 rows a cluster: k-means sees all
    q, bank = queries(exact), exact.banks["global"]
    every = SampledSearch(sampled.banks["global"], sampled.banks["global"], torch.arange(400), "fixed", 0)
    for one, two in zip(exact.positive_sets(q, IDS, 2), sampled.positive_sets(q, IDS, 2, every), strict=True):
        for a, b in zip(one, two, strict=True):  # the row at the threshold itself may round to either side
            assert len(set(a[a >= 0].tolist()) ^ set(b[b >= 0].tolist())) <= 1
    place = (q @ bank.rows.T).argsort(dim=1, descending=True).argsort(1) / len(bank)
    for search in (exact.search(0), sampled.search(0), every):
        _, present, found = search.mined(q, q, IDS[:, None], 2000, np.random.default_rng(0))
        mean = place.gather(1, found.clamp(min=0))[present].mean().item()
        assert mean == pytest.approx(0.2 * 0.25 if isinstance(search, SampledSearch) else 0.1, abs=0.01)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"form": "fast"}, "sslp.form=fast is not known"),
        ({"sample": 5}, "sslp.sample=5 is too small"),
        ({"bank": "fp8"}, "^sslp.bank=fp8 is not known"),
        ({"shard": True}, "sslp.shard=true needs sslp.form=sampled"),
    ],
)
def test_forms_that_cannot_be_are_refused(wrong, words):
    with pytest.raises(UserError, match=words):
        SSLP.check(SSLPOptions(**wrong))
