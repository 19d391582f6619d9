"""ODC: labels and centroids that move with every batch."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from method_parts import VIEWS, noise, seeded

from pretrain.distributed import World
from pretrain.methods.odc import ODC, ODCOptions
from results.errors import UserError

IDS = torch.tensor([3, 7, 50, 120, 200, 399])
SMALL = {"clusters": 4, "dimension": 8, "hidden": 16}


def make(facts, **options):
    return seeded("odc", facts, **SMALL | options)


def planted(method, groups: int = 4) -> torch.Tensor:
    """Fill the bank with unit rows around `groups` centres; return the group of every tile."""
    bank = method.banks["samples"]
    group = torch.arange(len(bank)) % groups
    noise = 0.05 * torch.randn(bank.rows.shape, generator=torch.Generator().manual_seed(3))
    bank.rows.copy_(F.normalize(torch.eye(groups, bank.rows.shape[1])[group] + noise, dim=1))
    bank.written.fill_(True)
    return group


def learn(method, steps: int, first: int = 0, lr: float = 0.03) -> list[float]:
    optimiser, losses = torch.optim.SGD(method.parameters(), lr=lr), []
    for number in range(first, first + steps):
        step = method(noise(method, len(IDS), number // 8), IDS, epoch=1, step=number)
        optimiser.zero_grad()
        step.total().backward()
        optimiser.step()
        method.remember(step)
        losses.append(step.total().item())
    return losses


def test_the_start_is_one_clustering_with_centroids_at_the_means(facts):
    method = make(facts)
    group = planted(method)
    method.start_epoch(0)
    assert method.moves == -1
    method.start_epoch(1)
    assert method.moves == 0
    assert len(set(zip(group.tolist(), method.labels.tolist(), strict=True))) == 4
    rows = method.banks["samples"].rows
    for label in range(4):
        mean = rows[method.labels == label].mean(0)
        torch.testing.assert_close(method.centroids[label], mean / mean.norm())
    labels = method.labels.clone()
    method.banks["samples"].rows.copy_(method.banks["samples"].rows.flip(0))
    method.start_epoch(2)
    assert torch.equal(method.labels, labels)


def test_a_batch_moves_its_own_tiles_to_their_nearest_centroid(facts):
    method = make(facts, momentum=1.0)
    planted(method)
    method.start_epoch(1)
    before, centroids = method.labels.clone(), method.centroids.clone()
    wanted = torch.tensor([3, 3, 0, 1, 2, 0])
    step = method(noise(method, len(IDS)), IDS, epoch=1, step=0)
    step.writes["samples"] = method.centroids[wanted]
    method.remember(step)
    assert method.labels[IDS].tolist() == wanted.tolist()
    others = torch.ones(400, dtype=torch.bool).index_fill(0, IDS, False)
    assert torch.equal(method.labels[others], before[others])
    assert torch.equal(method.centroids, centroids)  # they move every tenth batch
    assert method.moves == 1


def test_centroids_follow_every_tenth_batch(facts):
    method = make(facts, update_every=3)
    planted(method)
    method.start_epoch(1)
    start = method.centroids.clone()
    learn(method, 2)
    assert torch.equal(method.centroids, start)
    learn(method, 1)
    assert not torch.equal(method.centroids, start)


def test_small_classes_are_merged_and_refilled_by_halving_the_largest(facts):
    """Class 3 has 5 tiles near class 0: they join it; class 1 (two clumps) is the largest and is halved."""
    method = make(facts, min_cluster=20)
    bank = method.banks["samples"]
    axes = torch.eye(8)
    rows = torch.cat([axes[0].expand(60, 8), axes[1].expand(150, 8), axes[2].expand(100, 8), axes[3].expand(85, 8),
                      (axes[0] + 0.3 * axes[4]).expand(5, 8)])  # fmt: skip
    noise = 0.01 * torch.randn(rows.shape, generator=torch.Generator().manual_seed(0))
    bank.rows.copy_(F.normalize(rows + noise, dim=1))
    method.labels = torch.tensor([0] * 60 + [1] * 250 + [2] * 85 + [3] * 5)
    method.move_centroids()
    assert method.resettle()
    assert not method.resettle()  # nothing is small any more
    assert (method.labels[395:] == 0).all()
    assert (method.labels[:60] == 0).all()
    assert (method.labels[310:395] == 2).all()
    first, second = method.labels[60:210].unique().tolist(), method.labels[210:310].unique().tolist()
    assert sorted(first + second) == [1, 3]
    assert method.sizes().sum() == 400
    for label in (1, 3):  # the halves are centred at once, class 0 only with all others
        mean = bank.rows[method.labels == label].mean(0)
        torch.testing.assert_close(method.centroids[label], mean / mean.norm())


def test_a_class_of_tiles_that_are_all_alike_is_halved_too(facts):
    method = make(facts, min_cluster=20)
    method.banks["samples"].rows.copy_(torch.eye(8)[0].expand(400, 8))
    method.labels = torch.tensor([0] * 395 + [1] * 5)
    method.move_centroids()
    method.resettle()
    assert (method.sizes() >= 20).all()


def test_small_classes_are_dealt_with_in_every_step(facts):
    """As published; the centroids of all classes wait for the tenth."""
    method = make(facts, min_cluster=20, update_every=10)
    planted(method)
    method.start_epoch(1)
    assert (method.sizes() == 100).all()
    method.labels[method.labels == 3] = 0
    far = method.centroids[3].clone()
    method.remember(method(noise(method, len(IDS)), IDS, epoch=1, step=0))
    assert method.moves == 1
    assert (method.sizes() >= 20).all()
    assert not torch.equal(method.centroids[3], far)


def test_no_class_is_halved_below_the_smallest_size(facts):
    method = make(facts, min_cluster=150)
    planted(method)
    method.labels = torch.tensor([0] * 200 + [1] * 199 + [2])
    method.move_centroids()
    method.resettle()
    assert (method.sizes() > 0).sum() == 2
    features = method.banks["samples"].rows
    for far in (features, -features, method.centroids[2:]):  # empty classes attract nobody
        assert set(method.nearest(far).tolist()) <= {0, 1}


def test_the_first_epoch_collects_and_keeps_its_labels(facts):
    method = make(facts)
    labels = method.labels.clone()
    step = method(noise(method, len(IDS)), IDS, epoch=0, step=0)
    step.total().backward()
    trained = {name for name, p in method.named_parameters() if p.grad.any()}
    assert trained == {"head.weight", "head.bias"}
    method.remember(step)
    assert torch.equal(method.labels, labels)
    assert method.banks["samples"].written.sum() == len(IDS)


def test_a_resumed_run_goes_on_bit_for_bit(facts):
    straight, first, second = (make(facts, update_every=3) for _ in range(3))
    for method in (straight, first):
        planted(method)
        method.start_epoch(1)
    expected = learn(straight, 8)
    got = learn(first, 4)
    second.load_state_dict(first.state_dict())
    second.load_memory({name: value.clone() for name, value in first.memory().items()})
    got += learn(second, 4, first=4)
    assert got == expected
    assert all(torch.equal(value, second.memory()[name]) for name, value in straight.memory().items())


def test_other_ranks_take_labels_and_centroids_from_rank_0(facts):
    class RankOne(World):
        def broadcast(self, tensor):
            return tensor.fill_(3)  # stands for what rank 0 sent

        def share(self, value):
            return value

        def gather(self, tensor):
            return tensor

    method = make(dataclasses.replace(facts, world=RankOne(rank=1, size=2)), update_every=2)
    planted(method)
    method.start_epoch(1)
    assert (method.labels == 3).all()
    assert (method.centroids == 3).all()
    method.labels.fill_(0)
    step = method(noise(method, len(IDS)), IDS, epoch=1, step=0)
    method.remember(step)
    assert sorted((method.labels == 3).nonzero().flatten().tolist()) == sorted(IDS.tolist())
    method.remember(step)
    assert (method.labels == 3).all()


def test_counts_shrink_with_the_cohort_and_impossible_options_are_refused(facts):
    big = ODC(ODCOptions(), facts, "resnet18", VIEWS)
    assert big.resolved() == {"clusters": 10, "collecting_epochs": 1}
    for wrong in ({"clusters": 1}, {"update_every": 0}, {"momentum": 0.0}):
        with pytest.raises(UserError, match=f"odc.{next(iter(wrong))}"):
            ODC.check(ODCOptions(**wrong))
