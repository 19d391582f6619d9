"""What the rivals of SGCL do that the conformance test cannot know: queues, dense matches, schedules, teachers."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pretrain import loop
from pretrain.backbones import build, dense_features
from pretrain.config import load
from pretrain.losses import info_nce
from pretrain.methods import find
from pretrain.methods.moco import Queue
from pretrain.views import ViewSettings, make_views
from results.errors import UserError

VIEWS = ViewSettings(size=64, local_size=32)
IDS = torch.arange(6) * 5


@pytest.fixture
def make(facts):
    def of(name, views=VIEWS, **options):
        torch.manual_seed(0)
        cls = find(name)
        return cls(cls.Options(**options), facts, "resnet18", views)

    return of


@pytest.fixture
def images(make):
    tiles = torch.randint(0, 256, (len(IDS), 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return lambda method: make_views(tiles, IDS.numpy(), method.views, method.view_settings, 0, 0)


def test_a_queue_holds_the_newest_keys_in_turn():
    queue = Queue(5, 2, seed=0, name="x", device=torch.device("cpu"))
    start = queue.rows.clone()
    keys = F.normalize(torch.randn(9, 2, generator=torch.Generator().manual_seed(0)), dim=1)
    queue.push(torch.arange(3), keys[:3])
    assert torch.equal(queue.rows, torch.cat([keys[:3], start[3:]]))
    queue.push(torch.arange(3, 6), keys[3:6])
    assert queue.tile_ids.tolist() == [5, 1, 2, 3, 4]
    assert torch.equal(queue.rows, torch.stack([keys[i] for i in (5, 1, 2, 3, 4)]))
    queue.push(torch.arange(9), keys)  # more than it holds: the last five stay
    assert sorted(queue.tile_ids.tolist()) == [4, 5, 6, 7, 8]
    for row, tile in zip(queue.rows, queue.tile_ids, strict=True):
        assert torch.equal(row, keys[tile])


def test_a_tile_is_not_its_own_negative():
    queue = Queue(4, 3, seed=0, name="x", device=torch.device("cpu"))
    queue.push(torch.tensor([7, 8]), queue.rows[:2].clone())
    q = F.normalize(torch.randn(2, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    k = q.roll(1, 0)
    found = queue.loss(q, k, torch.tensor([8, 1]), 0.2)
    rows = [[0, 2, 3], [0, 1, 2, 3]]
    expected = [info_nce((q[i] * k[i]).sum()[None], q[i : i + 1] @ queue.rows[r].T, 0.2) for i, r in enumerate(rows)]
    torch.testing.assert_close(found, torch.stack(expected).mean())


@pytest.mark.parametrize("name", ["moco_v1", "moco_v2", "densecl"])
def test_the_key_encoder_follows_by_momentum_and_gets_no_gradient(make, images, name):
    method = make(name, negatives=16, momentum=0.9)
    before = [p.clone() for p in method.teacher.parameters()]
    settings = load([f"method={name}"]).train
    optimiser = loop.make_optimiser(method, settings)
    result = method.train()(images(method), IDS, 0, 0)
    loop.advance(method, optimiser, result, 0, 0, 10, None)
    teachers = dict(method.teacher.named_parameters())
    assert all(p.grad is None for p in teachers.values())
    for (key, now), old in zip(teachers.items(), before, strict=True):
        student = method.get_parameter(key)
        torch.testing.assert_close(now, 0.9 * old + 0.1 * student)
    for queue in method.queues.values():
        assert queue.tile_ids[: len(IDS)].tolist() == IDS.tolist()
        torch.testing.assert_close(queue.rows.norm(dim=1), torch.ones(16))
    assert make(name).resolved() == {"negatives": 400}  # the tiles of the cohort


def test_densecl_matches_places_by_backbone_features(make, images):
    method = make("densecl", negatives=16).train()
    views = images(method)
    state = {key: value.clone() for key, value in method.state_dict().items()}
    result = method(views, IDS, 0, 0)
    method.load_state_dict(state)
    _, own = dense_features(method.backbone, views["global"])
    _, other = dense_features(method.teacher["backbone"], views["second"])
    assert own.shape[2:] == (2, 2)
    losses = []
    for i, tile in enumerate(IDS):
        a, b = own[i].flatten(1).T, other[i].flatten(1).T
        places = F.normalize(method.dense_neck(a), dim=1)
        keys = F.normalize(method.teacher["dense_neck"](b), dim=1)
        match = (F.normalize(a, dim=1) @ F.normalize(b, dim=1).T).argmax(1)
        losses += [
            method.queues["dense"].loss(places[p : p + 1], keys[m : m + 1], tile[None], 0.2)
            for p, m in enumerate(match)
        ]
    torch.testing.assert_close(result.losses["dense"], torch.stack(losses).mean(), rtol=1e-4, atol=1e-4)
    assert not result.writes["dense"].requires_grad


def test_simclr_is_the_textbook_loss(make, images):
    method = make("simclr").train()
    views = images(method)
    state = {key: value.clone() for key, value in method.state_dict().items()}
    found = method(views, IDS, 0, 0).total()
    method.load_state_dict(state)
    z = F.normalize(method.neck(method.backbone(torch.cat([views["global"], views["second"]]))), dim=1).double()
    losses = []
    for i in range(len(z)):
        others = [j for j in range(len(z)) if j != i]
        terms = torch.exp(z[others] @ z[i] / 0.1)
        losses.append(-torch.log(torch.exp(z[i] @ z[(i + len(IDS)) % len(z)] / 0.1) / terms.sum()))
    assert found.item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-4)


def test_byols_teacher_ends_still(make):
    method = make("byol")
    with torch.no_grad():
        for p in method.backbone.parameters():
            p.add_(1)
    before = [p.clone() for p in method.teacher.parameters()]
    method.after_step(9, 10)  # the last step: momentum 1
    assert all(torch.equal(a, b) for a, b in zip(before, method.teacher.parameters(), strict=True))
    method.after_step(0, 10)
    first = next(method.teacher.parameters())
    torch.testing.assert_close(first - before[0], torch.full_like(first, 0.004), rtol=1e-3, atol=1e-5)


def test_dino_watches_the_teacher_and_holds_the_last_layer_still_at_first(make, images):
    method = make("dino", prototypes=32, hidden=64, bottleneck=16, local_crops=2)
    views = images(method)
    assert [views[name].shape[2] for name in views] == [64, 64, 32, 32]
    student = method.student["backbone"]
    assert method.backbone is not student
    optimiser = loop.make_optimiser(method, load(["method=dino"]).train)
    last = method.student["head"].last_layer.weight_v
    for epoch, moves in ((0, False), (1, True)):
        start, teacher = last.clone(), next(method.backbone.parameters()).clone()
        centre = method.loss.center.clone()
        loop.advance(method, optimiser, method.train()(views, IDS, epoch, epoch), epoch, epoch, 10, None)
        assert torch.equal(last, start) is not moves
        assert not torch.equal(method.loss.center, centre)
        assert not torch.equal(next(method.backbone.parameters()), teacher)
    assert "loss.center" in loop.buffers_of(method)
    assert make("dino", hidden=8).resolved() == {"prototypes": 400}


def test_dinos_teacher_temperature_rises_over_its_warm_up(make):
    method = make("dino", prototypes=8, hidden=8, teacher_temperature=0.07, temperature_warmup=4)
    found = [method.teacher_temperature(epoch) for epoch in range(6)]
    assert found == pytest.approx([0.04, 0.05, 0.06, 0.07, 0.07, 0.07])


def test_barlow_twins_vanishes_for_decorrelated_equal_views(make):
    method = make("barlow_twins", hidden=8, dimension=4)
    rows = torch.tensor([[i >> b & 1 for b in range(4)] for i in range(16)]).float()
    assert method.loss(rows, rows).item() == pytest.approx(0, abs=1e-4)
    assert method.loss(rows, rows.flip(1)).item() > 1


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("method=moco_v2 moco_v2.momentum=1.5", "from 0 to 1"),
        ("method=moco_v2 moco_v2.temperature=0", "from 0.0001"),
        ("method=byol byol.momentum=-1", "from 0 to 1"),
        ("method=dino dino.teacher_temperature=0", "from 0.0001"),
        ("method=dino dino.local_crops=-1", "from 0 to 64"),
    ],
)
def test_impossible_options_are_refused(setting, sentence):
    with pytest.raises(UserError, match=sentence):
        load(setting.split())


@pytest.mark.parametrize("size", [32, 40, 64])
def test_a_vit_takes_any_size_and_gives_its_map(size):
    torch.manual_seed(0)
    network, dimension = build("vit_small")
    x = torch.randn(2, 3, size, size)
    pooled, places = dense_features(network.eval(), x)
    assert pooled.shape == (2, dimension) == (2, 384)
    assert places.shape == (2, 384, math.ceil(size / 16), math.ceil(size / 16))
    torch.testing.assert_close(pooled, network(x))
    torch.testing.assert_close(places[:, :, 0, 0], network.forward_features(x)[:, 1])


def test_a_resnets_pooled_map_is_its_feature():
    torch.manual_seed(0)
    network, _ = build("resnet18")
    x = torch.randn(2, 3, 64, 64)
    pooled, places = dense_features(network.eval(), x)
    assert torch.equal(pooled, network(x))
    torch.testing.assert_close(places.mean((2, 3)), pooled)


def test_shared_batch_norm_keeps_the_names_of_the_export(make):
    method = make("simclr")
    assert method.sync_batch_norm
    names = set(method.backbone.state_dict())
    shared = nn.SyncBatchNorm.convert_sync_batchnorm(method)
    assert any(isinstance(module, nn.SyncBatchNorm) for module in shared.modules())
    assert set(shared.backbone.state_dict()) == names
