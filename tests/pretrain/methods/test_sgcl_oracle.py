"""The whole of SGCL's losses against sections 2.5 to 2.8b written densely in float64, on cohorts of up to 50,000 tiles."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pretrain.distributed import World
from pretrain.methods.base import Facts
from pretrain.methods.sgcl import SGCL, SGCLOptions
from pretrain.neighbours.clusters import Cells
from pretrain.randomness import key
from pretrain.views import QUADRANTS, ViewSettings

DIMENSION, STEP, EPOCH = 32, 6, 3


def cohort(tiles: int, seed: int) -> Facts:
    """Slides of 1 to 3,000 tiles on a grid, of which some lie apart from all others and some lie twice in one place."""
    rng = np.random.default_rng(seed)
    slide = np.sort(rng.integers(0, max(6, tiles // 800), tiles))
    side = int(np.sqrt(tiles / len(np.unique(slide)) * 2)) + 1
    x, y = rng.integers(0, side, (2, tiles))
    apart = rng.choice(tiles, 20, replace=False)
    x[apart], y[apart] = 1000 + 50 * np.arange(20), 1000
    twice = rng.choice(tiles - 1, 40, replace=False)
    slide[twice + 1], x[twice + 1], y[twice + 1] = slide[twice], x[twice], y[twice]
    slide[-3:] = slide.max() + 1 + np.arange(3)  # one tile each
    return Facts(*(torch.from_numpy(v.astype(np.int64)) for v in (slide, x, y)), seed=seed, world=World())


def make(facts: Facts, **options) -> tuple[SGCL, torch.Tensor]:
    """Return SGCL over clumped banks, with the labels of three noisy clusterings, and anchors of every sort."""
    torch.manual_seed(0)
    settings = {"dimension": DIMENSION, "clusters": 12, "nei_k": 600, "clusterings": 3, "negatives": 4096, **options}
    method = SGCL(SGCLOptions(**settings), facts, "resnet18", ViewSettings(size=32, local_size=16))
    rng = torch.Generator().manual_seed(1)
    clump = torch.randint(12, (facts.tiles,), generator=rng)
    for bank in method.banks.values():
        centre = F.normalize(torch.randn(12, bank.rows.shape[1], generator=rng), dim=1)
        bank.rows = F.normalize(bank.rows + 1.2 * centre[clump], dim=1)
    labels = [torch.where(torch.rand(facts.tiles, generator=rng) < 0.9, clump, 0) for _ in range(3)]
    method.cells = Cells(torch.stack(labels))
    far = (facts.x >= 1000).nonzero()[:2, 0]
    ids = torch.cat([far, torch.randint(facts.tiles, (9,), generator=rng), torch.tensor([facts.tiles - 1])])
    return method, ids


def dense(method: SGCL, ids, q, h, p):
    """All three losses of (B, D) queries q, (B, 512) features h and (4, B, D) quadrants p, over (B, N) masks; and U."""
    facts, options, on = method.facts, method.options, method.switches
    bank, back = method.banks["global"].rows.double(), method.banks["backbone"].rows.double()
    tile, n = torch.arange(facts.tiles), facts.tiles
    drawn = method.draw_negatives(STEP)
    s = q @ bank.T

    logits = s[:, drawn] / options.temperature
    logits = logits.masked_fill(drawn == ids[:, None], -torch.inf)
    own = s.gather(1, ids[:, None]) / options.temperature
    self_loss = -(own - torch.logsumexp(torch.cat([own, logits], 1), 1, keepdim=True)).mean()

    apart = (facts.x[ids, None] - facts.x).pow(2) + (facts.y[ids, None] - facts.y).pow(2)
    spatial = (facts.slide[ids, None] == facts.slide) & (apart < options.radius**2) & (apart > 0)

    def found(query, row):
        close = (query @ bank.T).masked_fill(tile == row, -torch.inf)
        mask = torch.zeros(n, dtype=torch.bool)
        mask[close.topk(method.nearest).indices] = True
        return mask & (method.cells.labels == method.cells.labels[:, [row]]).all(0)

    semantic = torch.stack([found(query, row) for query, row in zip(q.detach(), ids.tolist(), strict=True)])
    for b in range(len(ids)):
        near = spatial[b].nonzero()[:, 0]
        for a in near[s[b, near].argsort(descending=True)][: options.aux].tolist():
            semantic[b] |= found(bank[a], a)
    if not on.d4:
        for b in (spatial.sum(1) == 0).nonzero()[:, 0].tolist():
            semantic[b] |= found(bank[0], 0)
    if on.d5:
        semantic[torch.arange(len(ids)), ids] = False
    union = spatial | semantic

    order = (h @ back.T).masked_fill(union | (tile == ids[:, None]), -torch.inf).argsort(1, descending=True)
    ranks = method.exact.ranks.draw(method.nearest, np.random.default_rng(key(facts.seed, STEP, "ranks")))
    mined = torch.exp(s.gather(1, order[:, ranks]) / options.tau).sum(1)
    numerator = (torch.exp(s / options.tau) * union).sum(1)
    denominator = numerator + (mined if on.d1 else mined.detach()) + (0 if on.d2 else n - union.sum(1))
    terms = -torch.log(numerator / denominator + 1e-7)
    neighbours = terms[union.any(1)].mean() if on.d4 else terms.mean()

    few = drawn[: max(1, len(drawn) // 4)]
    rows = torch.stack([method.banks[name].rows.double() for name in QUADRANTS])
    inner = []
    for a in range(4):
        for b, i in enumerate(ids.tolist()):
            against = rows[:, few[few != i]].flatten(0, 1)
            if on.d16:
                against = torch.cat([against, rows[[c for c in range(4) if c != a], i]])
            scores = torch.cat([rows[a, [i]], against]) @ p[a, b] / options.temperature
            inner.append(torch.logsumexp(scores, 0) - scores[0])
    return {"self": self_loss, "neighbours": neighbours, "inner": torch.stack(inner).mean()}, union


@pytest.mark.parametrize(
    ("tiles", "options"),
    [
        (2000, {}),
        (2000, {"variant": "reference", "aux": 3}),
        (10_000, {"aux": 2, "radius": 5.0}),
        (50_000, {}),
        (50_000, {"variant": "reference"}),
    ],
)
def test_losses_sets_and_gradients_are_those_of_the_dense_formulation(tiles, options):
    method, ids = make(cohort(tiles, seed=tiles), **options)
    rng = torch.Generator().manual_seed(2)
    q, h, p = (
        F.normalize(base + 0.1 * torch.randn(base.shape, generator=rng), dim=-1)
        for base in (
            method.banks["global"].rows[ids],
            method.banks["backbone"].rows[ids],
            torch.stack([method.banks[name].rows[ids] for name in QUADRANTS]),
        )
    )
    wide = [value.double().requires_grad_() for value in (q, h, p)]
    expected, union = dense(method, ids, *wide)
    close = method.neighbours(q, h, ids, EPOCH, STEP)[0].item()
    assert close == pytest.approx(expected["neighbours"].item(), rel=1e-3)  # float32 swaps a few neighbouring ranks

    for bank in method.banks.values():
        bank.rows = bank.rows.double()
    q, h, p = (value.double().requires_grad_() for value in (q, h, p))
    drawn = method.draw_negatives(STEP)
    losses = {
        "self": method.self_invariance(q, ids, drawn),
        "neighbours": method.neighbours(q, h, ids, EPOCH, STEP)[0],
        "inner": method.inner_invariance(p, ids, drawn),
    }
    members, _ = method.positive_sets(q.detach(), ids, EPOCH)
    assert [sorted(row[row >= 0].tolist()) for row in members] == [row.nonzero()[:, 0].tolist() for row in union]
    near = (method.index.positives(ids) >= 0).sum(1)
    assert near.min() == 0 < near.max()
    assert (union.sum(1) > near).any()
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(expected[name].item(), rel=1e-5), name
        by, wide_by = (p, wide[2]) if name == "inner" else (q, wide[0])
        got = torch.autograd.grad(loss, by)[0]
        want = torch.autograd.grad(expected[name], wide_by, retain_graph=True)[0]
        assert (got - want).norm() < 1e-5 * want.norm(), name
