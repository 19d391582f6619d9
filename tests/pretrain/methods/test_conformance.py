"""What every registered method keeps; a new line in METHODS is tested here by itself."""

import copy
import dataclasses
import math
import os
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pretrain import backbones, checkpoint, export, loop, methods
from pretrain.checkpoint import Progress
from pretrain.config import load, method_options, view_settings
from pretrain.distributed import World
from pretrain.methods.base import Facts, Method, Step
from pretrain.options import check_options
from pretrain.views import make_views
from results.errors import UserError

ALL = list(methods.METHODS)
TILES, BATCH, LARGEST = 64, 8, 32
SIZE, WIDTH = 32, 64
EPOCH, STEPS = 2, 10
"""Steps of an epoch and of the whole run."""


def narrow(_: str = "") -> tuple[nn.Module, int]:
    """A network of three small layers in the place of a ResNet: every rule here is about the method, not the backbone."""
    parts = OrderedDict(
        conv1=nn.Conv2d(3, 32, 3, 2, 1, bias=False),
        bn1=nn.BatchNorm2d(32),
        relu1=nn.ReLU(),
        conv2=nn.Conv2d(32, WIDTH, 3, 2, 1, bias=False),
        bn2=nn.BatchNorm2d(WIDTH),
        relu2=nn.ReLU(),
        avgpool=nn.AdaptiveAvgPool2d(1),
        fc=nn.Flatten(),
    )
    return nn.Sequential(parts), WIDTH


@pytest.fixture(autouse=True)
def _narrow(request, monkeypatch):
    if "whole_backbone" not in request.fixturenames:
        monkeypatch.setattr(backbones, "build", narrow)


@pytest.fixture
def whole_backbone() -> None:
    """Asks for the real ResNet-18."""


def facts(world: World | None = None) -> Facts:
    """64 tiles in two blocks of 4 x 8, each a slide of its own."""
    place = torch.arange(TILES)
    return Facts(place // 32, place % 8, place % 32 // 8, seed=0, world=world or World())


def make(name: str, weights: int = 0, world: World | None = None) -> tuple[Method, torch.optim.Optimizer]:
    """A small method (no whole-number option above 32) with the optimiser of its own settings."""
    config = load([f"method={name}", f"views.size={SIZE}", "views.local_size=16"])
    options = method_options(config)
    options = dataclasses.replace(
        options, **{k: min(v, LARGEST) for k, v in vars(options).items() if type(v) is int and v > LARGEST}
    )
    torch.manual_seed(weights)
    method = methods.find(name)(options, facts(world), "resnet18", view_settings(config))
    method.start_epoch(0)
    return method, loop.make_optimiser(method, config.train)


def tile_ids(rank: int = 0) -> torch.Tensor:
    return torch.arange(BATCH) * 4 + rank


def batch(
    method: Method, step: int = 0, rank: int = 0, grey: bool = False
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The views of 8 tiles of noise (or of plain grey) and their ids."""
    ids = tile_ids(rank)
    rng = np.random.default_rng([step, rank])
    pixels = rng.integers(0, 256, (BATCH, 8, 8, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    tiles = torch.from_numpy(np.full_like(pixels, 128) if grey else pixels)
    return make_views(tiles, ids.numpy(), method.views, method.view_settings, 0, step), ids


def advance(method: Method, optimiser: torch.optim.Optimizer, step: int, model: nn.Module | None = None) -> float:
    """One step of the loop; the loss before it."""
    views, ids = batch(method, step, method.facts.world.rank)
    epoch, first = divmod(step, EPOCH)
    if epoch and not first:
        method.start_epoch(epoch)
    result = (model or method).train()(views, ids, epoch, step)
    return loop.advance(method, optimiser, result, epoch, step, STEPS, clip=None).item()


UNUSED = {"dino": ("last_layer",)}
"""Parameters that a method holds still in its first epoch."""


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("epoch", [0, 1])
def test_steps_lower_the_loss_of_a_fixed_batch_and_every_part_learns(name, epoch):
    """In the first epoch, and in the second, when clusters are known and a bank holds features.

    Memory, teacher and buffers stand still: what falls is the loss that has the gradient.
    """
    method, optimiser = make(name)
    for step in range(epoch * EPOCH):
        advance(method, optimiser, step)
    if epoch:
        method.start_epoch(epoch)
    method.after_step = lambda *_: None
    method.remember = lambda *_: None
    optimiser = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=1e-3)
    views, ids = batch(method)
    start = {key: value.clone() for key, value in method.named_buffers()}
    losses = []
    for _ in range(12):
        for key, value in method.named_buffers():
            value.copy_(start[key])
        result = method.train()(views, ids, epoch, 0)
        losses.append(loop.advance(method, optimiser, result, epoch, 0, STEPS, clip=1.0).item())
    assert losses[-1] < losses[0] - 1e-3
    collecting = epoch < getattr(method, "collecting_epochs", 0)
    for key, p in method.named_parameters():
        if p.requires_grad and not collecting and not any(part in key for part in UNUSED.get(name, ())):
            assert p.grad is not None, key
    assert any(p.grad is not None and bool(p.grad.any()) for p in method.parameters())


@pytest.mark.parametrize("name", ALL)
def test_numbers_that_no_method_can_use_are_refused(name):
    """`config.load` asks `check_options` before anything is written (test_config.py)."""
    options = methods.find(name).Options()
    check_options(name, options)
    for option, default in vars(options).items():
        if isinstance(default, bool) or not isinstance(default, int | float):
            continue
        for wrong in (-1, 1e30 if isinstance(default, float) else 10**20, math.nan, math.inf):
            with pytest.raises(UserError, match=f"^{name}.{option}=.* does not fit: give a number from"):
                check_options(name, dataclasses.replace(options, **{option: wrong}))


@pytest.mark.parametrize("name", ALL)
def test_a_step_describes_its_batch(name):
    method, _ = make(name)
    views, ids = batch(method)
    assert set(views) == {view.name for view in method.views}
    result = method.train()(views, ids, 0, 0)
    assert result.total().shape == ()
    assert torch.equal(result.tile_ids, ids)
    assert result.embedding.shape[0] == BATCH
    torch.testing.assert_close(result.embedding.norm(dim=1), torch.ones(BATCH))
    assert set(result.weights) <= set(result.losses)
    assert all(not value.requires_grad or name not in method.memory() for name, value in result.writes.items())
    assert isinstance(method.label, str)
    assert all(isinstance(value, int | float | str) for value in method.resolved().values())
    assert all(p.requires_grad or p.grad is None for p in method.parameters())


@pytest.mark.parametrize("name", ALL)
def test_state_survives_save_and_load_bit_for_bit(name, tmp_path):
    method, optimiser = make(name)
    for step in range(3):
        advance(method, optimiser, step)
    checkpoint.save(tmp_path, Progress(step=3), method, optimiser, [loop.buffers_of(method)])
    expected = [advance(method, optimiser, step) for step in (3, 4)]
    other, other_optimiser = make(name, weights=1)
    progress = checkpoint.restore(checkpoint.load(tmp_path), other, other_optimiser, rank=0)
    assert progress.step == 3
    assert [advance(other, other_optimiser, step) for step in (3, 4)] == expected
    for key, value in method.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key
    for key, value in method.memory().items():
        assert torch.equal(value, other.memory()[key]), key


@pytest.mark.parametrize("name", ALL)
def test_the_same_seed_gives_the_same_losses(name):
    runs = []
    for _ in range(2):
        method, optimiser = make(name)
        runs.append([advance(method, optimiser, step) for step in range(2)])
    assert runs[0] == runs[1]
    assert all(math.isfinite(loss) for loss in runs[0])
    method, optimiser = make(name, weights=1)
    assert advance(method, optimiser, 0) != runs[0][0]


@pytest.mark.parametrize("name", ALL)
def test_the_exported_backbone_is_the_watched_one(name, tmp_path, monkeypatch, whole_backbone):
    from safetensors.torch import load_file

    method, optimiser = make(name)
    advance(method, optimiser, 0)
    checkpoint.save(tmp_path / "checkpoints", Progress(step=1), method, optimiser, [loop.buffers_of(method)])
    monkeypatch.setattr(export, "make_card", lambda *_: {})
    monkeypatch.setattr(export, "describe", lambda *_: "")
    monkeypatch.setattr(export, "TileStore", lambda *_: SimpleNamespace(failed=[]))
    path = export.export(SimpleNamespace(root=tmp_path, info={"store": ""}))
    network, dimension = backbones.build("resnet18")
    network.load_state_dict(load_file(path), strict=True)
    views, _ = batch(method)
    image = views[method.views[0].name]
    if image.shape[1:] != (3, SIZE, SIZE):
        image = torch.randn(BATCH, 3, SIZE, SIZE)
    features = network.eval()(image)
    assert features.shape == (BATCH, dimension)
    assert torch.equal(features, method.backbone.eval()(image))


@pytest.mark.parametrize("name", ALL)
def test_bf16_gives_a_finite_loss_near_that_of_fp32(name):
    method, _ = make(name)
    twin = copy.deepcopy(method.state_dict())
    views, ids = batch(method)
    exact = method.train()(views, ids, 0, 0).total().item()
    method.load_state_dict(twin)
    with torch.autocast("cpu", torch.bfloat16):
        result = method.train()(views, ids, 0, 0)
    loss = result.total()
    assert abs(loss.item() - exact) < 0.2 * abs(exact) + 0.1
    loss.backward()
    assert all(bool(p.grad.isfinite().all()) for p in method.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", ALL)
def test_features_that_are_all_alike_are_told(name):
    method, _ = make(name)
    for module in method.modules():  # a collapsed encoder: whatever it sees, it answers the same
        if isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.weight)
    views, ids = batch(method)
    result = method.train()(views, ids, 0, 0)
    assert loop.spread_of(result.embedding) < loop.COLLAPSED


def test_the_loop_warns_of_collapse(tmp_path, capsys):
    """The warning's threshold lies between features that are alike and features that are not."""
    config = load(["method=npid", "train.log_every=1"])
    run = SimpleNamespace(root=tmp_path)
    log = loop.Log(config, run, World(), make("npid")[0], Progress(), steps_per_epoch=5)
    rows = torch.nn.functional.normalize(torch.randn(BATCH, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    for embedding, told in ((rows, False), (rows[:1].expand(BATCH, -1), True)):
        log.progress.step += 1
        loss = torch.tensor(1.0)
        log.step(Step({"x": loss}, embedding, tile_ids()), loss, 0.1)
        assert ("the encoder collapses" in capsys.readouterr().err) is told
    log.close()


@pytest.mark.parametrize("name", ["npid", "moco_v2"])
def test_a_transformer_trains_too(name, whole_backbone):
    config = load([f"method={name}", "backbone=vit_small", "views.size=32", f"{name}.negatives=32"])
    assert config.train.optimizer == "adamw"
    torch.manual_seed(0)
    method = methods.find(name)(method_options(config), facts(), "vit_small", view_settings(config))
    optimiser = loop.make_optimiser(method, config.train)
    before = {key: value.clone() for key, value in method.backbone.named_parameters()}
    assert math.isfinite(advance(method, optimiser, 0))
    assert any(not torch.equal(value, before[key]) for key, value in method.backbone.named_parameters())


def _two_steps(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    world = World(rank, 2)
    backbones.build = narrow
    outcomes = {}
    for name in ALL:
        method, optimiser = make(name, world=world)
        model = DistributedDataParallel(method, broadcast_buffers=False)
        losses = [advance(method, optimiser, step, model) for step in range(2)]
        outcomes[name] = {
            "parameters": {key: value.detach() for key, value in method.named_parameters()},
            "memory": method.memory(),
            "losses": losses,
        }
        if hasattr(method, "keys"):  # without batch statistics, mixing batches over the ranks must change nothing
            views, _ = batch(method, 0, rank)
            for module in method.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.reset_running_stats()  # every rank has its own
            mixed, plain = method.eval().keys(views["second"], step=0), method.encode(views["second"])
            outcomes[name]["mixing"] = [float((a - b).abs().max()) for a, b in zip(mixed, plain, strict=True)]
    torch.save(outcomes, Path(folder) / f"rank{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_agree_on_parameters_and_memory(tmp_path):
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    mp.spawn(_two_steps, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1))
    for name in ALL:
        assert all(math.isfinite(loss) for loss in first[name]["losses"])
        for kind in ("parameters", "memory"):
            assert first[name][kind].keys() == second[name][kind].keys()
            for key, value in first[name][kind].items():
                assert torch.equal(value, second[name][kind][key]), (name, kind, key)
        assert max(first[name].get("mixing", [0])) < 1e-5
        start = dict(make(name)[0].named_parameters())
        assert any(not torch.equal(value, first[name]["parameters"][key]) for key, value in start.items())
