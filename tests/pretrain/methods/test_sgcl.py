"""SGCL against a plain float64 oracle of sections 2.5-2.8b, and one test per switch of section 7."""

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pretrain.distributed import World
from pretrain.methods.sgcl import SGCL, SGCLOptions, switches
from pretrain.neighbours.clusters import Cells
from pretrain.randomness import key
from pretrain.views import QUADRANTS, ViewSettings
from results.errors import UserError

SMALL = {"dimension": 8, "clusters": 6, "nei_k": 20, "clusterings": 2, "negatives": 300}
VIEWS = ViewSettings(size=32, local_size=16)
IDS = torch.tensor([3, 7, 50, 120, 399, 200])


def make(facts, **options) -> SGCL:
    torch.manual_seed(0)
    method = SGCL(SGCLOptions(**SMALL | options), facts, "resnet18", VIEWS)
    for bank in method.banks.values():  # clumped rows, so that clusters and neighbours mean something
        bank.rows = F.normalize(bank.rows + 1.5 * bank.rows[:8].repeat(math.ceil(len(bank) / 8), 1)[: len(bank)], dim=1)
    method.start_epoch(1)
    return method


def queries(method):
    rng = torch.Generator().manual_seed(5)
    q = F.normalize(torch.randn(len(IDS), SMALL["dimension"], generator=rng), dim=1)
    q = F.normalize(q + 2 * method.banks["global"].rows[IDS], dim=1).requires_grad_()
    h = F.normalize(torch.randn(len(IDS), 512, generator=rng), dim=1)
    return q, h


def oracle(method, q, h, step):
    """Loss of the spatial/semantic term by loops over anchors and rows, float64; also the sets."""
    on, options, facts = method.switches, method.options, method.facts
    bank, back = method.banks["global"].rows.double(), method.banks["backbone"].rows.double()
    labels, n = method.cells.labels, facts.tiles
    ranks = method.exact.ranks.draw(method.nearest, np.random.default_rng(key(facts.seed, step, "ranks")))

    def semantic(query, own):
        s = query @ bank.T
        s[own] = -math.inf
        nearest = sorted(range(n), key=lambda j: -s[j])[: method.nearest]
        return {j for j in nearest if all(row[j] == row[own] for row in labels)}

    losses, sets = [], []
    for i, query, feature in zip(IDS.tolist(), q.double(), h.double(), strict=False):
        near = set()
        for j in range(n):
            apart = (facts.x[i] - facts.x[j]) ** 2 + (facts.y[i] - facts.y[j]) ** 2
            if facts.slide[i] == facts.slide[j] and 0 < apart < options.radius**2:
                near.add(j)
        s = query @ bank.T
        found = semantic(query.detach().clone(), i)
        aux = sorted(near, key=lambda j: -s[j])[: options.aux]
        if not aux and not on.d4:
            aux = [0]
        for a in aux:
            found |= semantic(bank[a], a)
        if on.d5:
            found.discard(i)
        members = sorted(near | found)
        close = feature @ back.T
        rest = sorted((j for j in range(n) if j != i and j not in members), key=lambda j: -close[j])
        mined = [rest[r] for r in ranks]
        sets.append((set(members), mined))
        if not members and on.d4:
            continue
        numerator = sum(torch.exp(s[j] / options.tau) for j in members)
        negative = sum(torch.exp(s[j] / options.tau) for j in mined)
        negative = negative if on.d1 else negative.detach()
        denominator = numerator + negative + (0 if on.d2 else n - len(members))
        losses.append(-torch.log(numerator / denominator + 1e-7))
    return torch.stack(losses).mean(), sets


@pytest.mark.parametrize("variant", ["fixed", "reference"])
@pytest.mark.parametrize("aux", [1, 3])
def test_neighbour_term_equals_the_oracle(facts, variant, aux):
    method = make(facts, variant=variant, aux=aux)
    for bank in method.banks.values():
        bank.rows = bank.rows.double()
    q, h = (v.detach().double().requires_grad_() for v in queries(method))
    loss, _ = method.neighbours(q, h, IDS, epoch=2, step=4)
    expected, sets = oracle(method, q, h, 4)
    got, _ = method.positive_sets(q.detach(), IDS, epoch=2)
    assert [set(row[row >= 0].tolist()) for row in got] == [members for members, _ in sets]
    assert any(
        len(members) > 24 or any(facts.slide[j] != facts.slide[i] for j in members)
        for i, (members, _) in zip(IDS, sets, strict=True)
    )
    assert abs(loss.item() / expected.item() - 1) < 1e-5
    gradient = torch.autograd.grad(loss, q)[0]
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, q)[0], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("switch", ["d1", "d2", "d4", "d5", "d6", "d16"])
def test_each_switch_changes_its_term(facts, switch):
    """Section 7.1: reference and fixed differ by each row alone, in the loss or in its gradient."""
    outcomes = []
    for value in (True, False):
        method = make(facts, **{switch: value})
        q, h = queries(method)
        if switch == "d5":  # the anchor enters S through its auxiliary anchor: make them lie close together
            method.cells = Cells(torch.zeros_like(method.cells.labels))
            neighbours = method.index.positives(IDS)[:, :1]
            for tile, neighbour in zip(IDS.tolist(), neighbours[:, 0].tolist(), strict=True):
                if neighbour >= 0:
                    method.banks["global"].rows[neighbour] = method.banks["global"].rows[tile]
        if switch == "d16":
            p = F.normalize(
                torch.randn(4, len(IDS), SMALL["dimension"], generator=torch.Generator().manual_seed(1)), dim=1
            )
            p = F.normalize(p, dim=2).requires_grad_()
            loss = method.inner_invariance(p, IDS, method.draw_negatives(0))
            outcomes.append((loss, torch.autograd.grad(loss, p)[0]))
        else:
            loss, _ = method.neighbours(q, h, IDS, epoch=2, step=4)
            outcomes.append((loss, torch.autograd.grad(loss, q)[0]))
    (loss_a, gradient_a), (loss_b, gradient_b) = outcomes
    if switch == "d1":
        assert torch.allclose(loss_a, loss_b)
        assert not torch.allclose(gradient_a, gradient_b)
    else:
        assert not torch.allclose(loss_a, loss_b)


def test_reference_gradient_is_pure_attraction(facts):
    method = make(facts, variant="reference")
    q, h = queries(method)
    loss, _ = method.neighbours(q, h, IDS, epoch=2, step=4)
    members, _ = method.positive_sets(q.detach(), IDS, epoch=2)
    gradient = torch.autograd.grad(loss, q)[0]
    for row in (0, 2, 3):  # a step along -gradient lies in the span of the positives alone
        basis = method.banks["global"].rows[members[row][members[row] >= 0]]
        weights = torch.linalg.lstsq(basis.T, -gradient[row][:, None]).solution
        assert (basis.T @ weights - -gradient[row][:, None]).norm() < 1e-5 + 1e-2 * gradient[row].norm()


def test_an_isolated_tile_on_its_own_slide_has_no_spatial_positive(facts):
    method = make(facts, semantic=False)
    found, counts = method.positive_sets(queries(method)[0].detach(), IDS, epoch=2)
    assert (found[1] == -1).all()
    assert (found[4] == -1).all()
    assert counts["semantic_positives"] == 0


def test_semantic_positives_wait_for_the_second_epoch_when_fixed(facts):
    method = make(facts)
    assert not method.semantic_ready(0)
    assert method.semantic_ready(1)
    assert make(facts, variant="reference").semantic_ready(0)


def test_inner_loss_equals_the_oracle_and_knows_its_banks(facts):
    method = make(facts)
    p = torch.stack([method.banks[name].rows[IDS] for name in QUADRANTS])
    drawn = method.draw_negatives(3)
    loss = method.inner_invariance(p, IDS, drawn)
    few, t = drawn[: len(drawn) // 4].tolist(), method.options.temperature
    total = 0.0
    for a in range(4):
        for b, i in enumerate(IDS.tolist()):
            sims = {}
            for c, name in enumerate(QUADRANTS):
                rows = method.banks[name].rows.double()
                for place, j in enumerate(few):
                    if j != i:
                        sims[c, place] = float(p[a, b].double() @ rows[j])
                sims[c, "own"] = float(p[a, b].double() @ rows[i])
            positive = sims[a, "own"]
            total -= math.log(math.exp(positive / t) / sum(math.exp(v / t) for v in sims.values()))
    assert abs(loss.item() / (total / (4 * len(IDS))) - 1) < 1e-5
    names = list(QUADRANTS)
    method.banks[names[0]], method.banks[names[1]] = method.banks[names[1]], method.banks[names[0]]
    assert method.inner_invariance(p, IDS, drawn) > loss


def test_forward_gives_every_term_and_remembers(facts):
    method = make(facts)
    views = {v.name: torch.randn(len(IDS), 3, v.size, v.size) for v in method.views}
    step = method(views, IDS, epoch=0, step=0)
    assert set(step.losses) == {"self", "neighbours", "inner"}
    assert step.weights["neighbours"] == pytest.approx(math.exp(-5))
    before = {name: bank.rows.clone() for name, bank in method.banks.items()}
    step.total().backward()
    method.remember(step)
    for name, bank in method.banks.items():
        changed = (bank.rows != before[name]).any(1).nonzero().flatten()
        assert sorted(changed.tolist()) == sorted(IDS.tolist())
        torch.testing.assert_close(bank.rows.norm(dim=1), torch.ones(len(bank)))
    assert all(p.grad is not None for p in method.parameters())


def test_memory_survives_save_and_load(facts):
    method, other = make(facts), SGCL(SGCLOptions(**SMALL), dataclasses.replace(facts, seed=9), "resnet18", VIEWS)
    other.load_memory({name: value.clone() for name, value in method.memory().items()})
    for name, bank in method.banks.items():
        assert torch.equal(other.banks[name].rows, bank.rows)
    assert torch.equal(other.cells.labels, method.cells.labels)


def test_switches_follow_the_variant_or_stand_alone():
    assert all(vars(switches(SGCLOptions())).values())
    assert not any(vars(switches(SGCLOptions(variant="reference"))).values())
    one = vars(switches(SGCLOptions(variant="reference", d2=True)))
    assert [name for name, on in one.items() if on] == ["d2"]
    with pytest.raises(UserError, match="choose one of fixed, reference"):
        SGCL.check(SGCLOptions(variant="fixd"))


@pytest.mark.parametrize(
    ("options", "label"),
    [
        ({}, "sgcl (fixed)"),
        ({"variant": "reference"}, "sgcl (reference)"),
        ({"d2": False, "d1": True}, "sgcl (fixed, d2=false)"),
        ({"variant": "reference", "d1": True, "inner": False}, "sgcl (reference, d1=true, inner=false)"),
    ],
)
def test_the_row_name_says_what_is_switched(facts, options, label):
    assert make(facts, **options).label == label


def test_counts_shrink_with_the_cohort(facts):
    method = SGCL(SGCLOptions(), facts, "resnet18", VIEWS)
    assert method.resolved() == {"negatives": 400, "nei_k": 20, "clusters": 10, "form": "exact"}


@pytest.mark.parametrize(("variant", "known"), [("fixed", True), ("reference", False)])
def test_d7_only_the_fixed_form_gives_other_ranks_the_clusters(facts, variant, known):
    class RankOne(World):
        def broadcast(self, tensor):
            return tensor.fill_(5)  # stands for what rank 0 sent

    facts = dataclasses.replace(facts, world=RankOne(rank=1, size=2))
    method = SGCL(SGCLOptions(**SMALL | {"variant": variant}), facts, "resnet18", VIEWS)
    method.start_epoch(1)
    assert bool((method.cells.labels == 5).all()) == known


@pytest.mark.parametrize(("options", "blends"), [({}, False), ({"variant": "reference"}, True),
                                                 ({"variant": "reference", "forget_start": True}, False)])  # fmt: skip
def test_the_published_bank_keeps_half_of_its_noise(facts, options, blends):
    bank = make(facts, **options).banks["global"]
    before, row = bank.rows[3].clone(), torch.nn.functional.one_hot(torch.tensor([0]), bank.rows.shape[1]).float()
    bank.update(torch.tensor([3]), row)
    assert torch.allclose(bank.rows[3], row[0]) is not blends
    assert bool((bank.rows[3] @ before > row[0] @ before).item()) is blends


def test_the_sampled_form_trains_and_is_chosen_by_size(facts, monkeypatch):
    method = make(facts, form="sampled", sample=300)
    assert method.resolved()["form"] == "sampled"
    q, h = queries(method)
    losses = [method.neighbours(q, h, IDS, epoch=2, step=step)[0] for step in (4, 4, 5)]
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[0], losses[2])
    assert torch.autograd.grad(losses[0], q)[0].abs().sum() > 0
    monkeypatch.setattr("pretrain.neighbours.search.EXACT_LIMIT", 399)
    assert make(facts).sampled
    with pytest.raises(UserError, match="form"):
        SGCL.check(SGCLOptions(form="fast"))
    with pytest.raises(UserError, match="sample"):
        SGCL.check(SGCLOptions(sample=5))


@pytest.mark.parametrize("form", ["exact", "sampled"])
def test_neighbours_are_found_in_full_precision_under_bf16(facts, form):
    method = make(facts, form=form, sample=300)
    rng = torch.Generator().manual_seed(2)
    views = {view.name: torch.randn(len(IDS), 3, view.size, view.size, generator=rng) for view in method.views}
    with torch.autocast("cpu", torch.bfloat16):
        result = method(views, IDS, 2, 4)
    loss, numbers = method.neighbours(result.writes["global"], result.writes["backbone"], IDS, 2, 4)
    assert torch.equal(result.losses["neighbours"], loss)
    assert numbers["semantic_positives"] > 0


BATCH = torch.arange(8)


def views_of(method, seed=1):
    rng = torch.Generator().manual_seed(seed)
    return {view.name: torch.randn(len(BATCH), 3, view.size, view.size, generator=rng) for view in method.views}


@pytest.mark.parametrize("part", ["discrimination", "inner"])
def test_an_invariance_can_be_left_out(facts, part):
    whole, without = make(facts), make(facts, **{part: False})
    names = [set(m(views_of(m), BATCH, 1, 0).losses) for m in (whole, without)]
    assert names[0] - names[1] == {{"discrimination": "self", "inner": "inner"}[part]}


def test_normalised_weights_sum_to_one_in_the_published_proportions(facts):
    plain, normal = make(facts), make(facts, normalise=True)
    first, second = (m(views_of(m), BATCH, 3, 0) for m in (plain, normal))
    weights = {name: first.weights.get(name, 1.0) for name in first.losses}
    assert sum(second.weights.values()) == pytest.approx(1)
    assert second.total().item() == pytest.approx(first.total().item() / sum(weights.values()), rel=1e-5)


def test_quadrants_can_leave_the_stored_statistics_alone(facts):
    apart, mixed, alone = make(facts, inner_statistics=False), make(facts), make(facts, inner=False)
    for method in (apart, mixed, alone):
        method.train()(views_of(make(facts)), BATCH, 1, 0)
    means = [method.backbone.bn1.running_mean for method in (apart, mixed, alone)]
    assert torch.equal(means[0], means[2])
    assert not torch.allclose(means[1], means[2])
    assert apart.backbone.bn1.momentum == 0.1


def test_mining_follows_its_law(facts):
    tops = {}
    for law in ("fixed", "late", "hardest", "uniform"):
        method = make(facts, mining=law)
        tops[law] = method.exact.ranks.draw(method.nearest, np.random.default_rng(0)) / facts.tiles
    assert tops["hardest"].max() < tops["fixed"].mean() < tops["late"].mean() < 0.2 < tops["uniform"].mean()
    assert make(facts, mining="fixed").law == make(facts).law


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mining": "soft"}, "sgcl.mining=soft is not known"),
        ({"mining": "hardest", "form": "sampled"}, "sgcl.mining=hardest needs"),
        (
            {"discrimination": False, "spatial": False, "semantic": False, "inner": False},
            "sgcl.semantic, sgcl.inner are all false",
        ),
    ],
)
def test_parts_that_cannot_be_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        SGCL.check(SGCLOptions(**SMALL | options))


def test_similarities_with_the_banks_stay_in_full_precision_under_bf16(facts):
    method = make(facts)
    q, _ = queries(method)
    p = F.normalize(torch.randn(4, len(IDS), SMALL["dimension"], generator=torch.Generator().manual_seed(1)), dim=2)
    drawn = method.draw_negatives(0)
    plain = method.self_invariance(q, IDS, drawn), method.inner_invariance(p, IDS, drawn)
    with torch.autocast("cpu", torch.bfloat16):
        low = method.self_invariance(q, IDS, drawn), method.inner_invariance(p, IDS, drawn)
    assert [a.item() for a in plain] == [b.item() for b in low]
