"""DeepCluster: pseudo-labels from a bank of features."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from method_parts import noise, seeded

from pretrain.distributed import World
from pretrain.methods.deepcluster import (
    DeepCluster,
    DeepClusterOptions,
    class_weights,
    labelled_loss,
    whitened,
)
from results.errors import UserError

IDS = torch.tensor([3, 7, 50, 120, 200, 399])


def make(facts, **options):
    return seeded("deepcluster", facts, **options)


def planted(method, groups: int = 4) -> torch.Tensor:
    """Fill the bank, but for its last 10 rows, with unit rows around `groups` centres; return the group of every tile."""
    bank = method.banks["features"]
    group = torch.arange(len(bank)) % groups
    noise = 0.05 * torch.randn(bank.rows.shape, generator=torch.Generator().manual_seed(3))
    bank.rows.copy_(F.normalize(torch.eye(groups, bank.rows.shape[1])[group] + noise, dim=1))
    bank.written[:-10] = True
    return group


def test_class_weights_by_hand():
    """Sizes 1, 3 and 0 of 4 labelled tiles: 4 / (2 x 1), 4 / (2 x 3), 0; every inhabited class then weighs the same."""
    labels = torch.tensor([0, 1, 1, 1, -1])
    assert class_weights(labels, 3, 1.0).tolist() == pytest.approx([2, 2 / 3, 0])
    assert class_weights(labels, 3, 0.0).tolist() == [1, 1, 0]
    root = 4 / (1 + math.sqrt(3))
    assert class_weights(labels, 3, 0.5).tolist() == pytest.approx([root, root / math.sqrt(3), 0])


def test_labelled_loss_by_hand():
    logits = torch.tensor([[0.0, math.log(3)], [0.0, 0.0], [5.0, -5.0]], requires_grad=True)
    labels = torch.tensor([1, 0, -1])
    loss = labelled_loss(logits, labels, torch.tensor([2.0, 1.0]))
    assert loss.item() == pytest.approx((math.log(4 / 3) + 2 * math.log(2)) / 3)
    assert not torch.autograd.grad(loss, logits)[0][2].any()
    assert labelled_loss(logits, torch.full((3,), -1), torch.tensor([2.0, 1.0])) == 0


def test_whitening_gives_uncorrelated_unit_rows():
    rng = torch.Generator().manual_seed(0)
    points = torch.randn(500, 6, generator=rng) * torch.tensor([9.0, 5, 2, 1, 0.5, 0]) + 3
    white = whitened(points, 4)
    assert white.shape == (500, 4)
    torch.testing.assert_close(white.norm(dim=1), torch.ones(500))
    torch.testing.assert_close(white.T @ white / 500, torch.eye(4) / 4, atol=0.05, rtol=0)
    assert whitened(points, 256).shape == (500, 5)  # the dead axis is left out


def test_the_first_epoch_collects_and_leaves_the_backbone_alone(facts):
    method = make(facts)
    method.start_epoch(0)
    step = method(noise(method, len(IDS)), IDS, epoch=0, step=0)
    step.total().backward()
    assert all(not p.grad.any() for p in method.backbone.parameters())
    assert method.head.weight.grad.any()
    method.remember(step)
    bank = method.banks["features"]
    assert bank.written.nonzero().flatten().tolist() == sorted(IDS.tolist())
    torch.testing.assert_close(bank[IDS], step.embedding.detach())  # momentum 1: the row is the feature
    later = make(facts)
    planted(later)
    later.start_epoch(1)
    later(noise(later, len(IDS)), IDS, epoch=1, step=0).total().backward()
    assert any(p.grad.any() for p in later.backbone.parameters())


def test_clustering_finds_planted_groups_and_leaves_unseen_tiles_without_label(facts):
    method = make(facts, clusters=4, components=3)
    group = planted(method)
    method.start_epoch(1)
    assert (method.labels[-10:] == -1).all()
    seen = method.labels[:-10]
    assert len(set(zip(group[:-10].tolist(), seen.tolist(), strict=True))) == 4
    assert len(seen.unique()) == 4


def test_the_head_starts_anew_with_every_clustering_alike_on_every_rank(facts):
    class RankOne(World):
        def broadcast(self, tensor):
            return tensor.fill_(2)  # stands for what rank 0 sent

    method = make(facts)
    other = make(dataclasses.replace(facts, world=RankOne(rank=1, size=2)))
    planted(method)
    planted(other)
    heads = []
    for epoch in (1, 2):
        for one in (method, other):
            one.start_epoch(epoch)
        assert torch.equal(method.head.weight, other.head.weight)
        assert not method.head.bias.any()
        heads.append(method.head.weight.detach().clone())
    assert not torch.equal(*heads)
    assert heads[0].std().item() == pytest.approx(0.01, rel=0.05)
    assert (other.labels[:-10] == 2).all()


def test_counts_shrink_with_the_cohort_and_impossible_options_are_refused(facts):
    assert make(facts).resolved() == {"clusters": 10, "components": 10, "collecting_epochs": 1}
    with pytest.raises(UserError, match="clusters=1 is too small: give 2"):
        DeepCluster.check(DeepClusterOptions(clusters=1))
