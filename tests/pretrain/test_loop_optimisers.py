"""Optimisers, their schedules, and the layers of settings that choose them."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from pretrain import loop
from pretrain.config import load
from results.errors import UserError


def settings(**changes):
    plain = {"optimizer": "sgd", "lr": 0.1, "momentum": 0.0, "weight_decay": 0.5, "weight_decay_end": None}
    return SimpleNamespace(**plain | {"epochs": 2, "warmup_epochs": 0} | changes)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def stepped(network, **changes):
    """Parameters before and after one step with gradient 1 everywhere."""
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    optimiser = loop.make_optimiser(network, settings(**changes))
    for p in network.parameters():
        p.grad = torch.ones_like(p)
    optimiser.step()
    return before, {name: p.detach() for name, p in network.named_parameters()}


def test_sgd_decays_every_parameter(network):
    before, after = stepped(network)
    for name, old in before.items():
        torch.testing.assert_close(after[name], old - 0.1 * (1 + 0.5 * old))


def test_lars_adapts_and_decays_matrices_alone(network):
    """You et al., 2017: the step of a matrix is eta |w| / (|g| + wd |w|) times its decayed gradient, eta = 0.001."""
    before, after = stepped(network, optimizer="lars")
    old = before["0.weight"]
    share = 0.001 * old.norm() / (torch.ones_like(old).norm() + 0.5 * old.norm())
    torch.testing.assert_close(after["0.weight"], old - 0.1 * share * (1 + 0.5 * old))
    for name in ("0.bias", "1.weight", "1.bias"):
        torch.testing.assert_close(after[name], before[name] - 0.1)


def test_adamw_spares_biases_and_norms(network):
    before, after = stepped(network, optimizer="adamw")
    torch.testing.assert_close(after["0.weight"], before["0.weight"] * (1 - 0.1 * 0.5) - 0.1)
    for name in ("0.bias", "1.weight", "1.bias"):
        torch.testing.assert_close(after[name], before[name] - 0.1)


@pytest.mark.parametrize("optimizer", ["sgd", "lars", "adamw"])
def test_frozen_parameters_are_left_out(network, optimizer):
    network[0].weight.requires_grad_(False)
    groups = loop.make_optimiser(network, settings(optimizer=optimizer)).param_groups
    assert sum(len(group["params"]) for group in groups) == 3


def test_weight_decay_goes_to_its_end_by_half_a_cosine(network):
    given = settings(optimizer="adamw", weight_decay=0.04, weight_decay_end=0.4)
    optimiser = loop.make_optimiser(network, given)
    found = []
    for step in (0, 5, 10):
        loop.schedule(optimiser, given, step, steps_per_epoch=5)
        found.append([group["weight_decay"] for group in optimiser.param_groups])
    assert found == [pytest.approx([0.04, 0]), pytest.approx([0.22, 0]), pytest.approx([0.4, 0])]
    constant = settings(optimizer="adamw")
    optimiser = loop.make_optimiser(network, constant)
    loop.schedule(optimiser, constant, 9, steps_per_epoch=5)
    assert [group["weight_decay"] for group in optimiser.param_groups] == [0.5, 0.0]


def test_what_is_not_persistent_is_not_saved(network):
    network.register_buffer("scratch", torch.zeros(1), persistent=False)
    assert set(loop.buffers_of(network)) == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}


def test_layers_cohort_method_backbone_recipe_and_command_line(tmp_path):
    assert load(["method=simclr"]).train.lr == 0.15  # the method wins over the rehearsal cohort
    vit = load(["method=simclr", "backbone=vit_small"]).train
    assert (vit.optimizer, vit.lr, vit.clip) == ("adamw", 0.00025, 3.0)  # the backbone over the method
    demo = load(["method=byol", "recipe=demo"])
    assert (demo.train.warmup_epochs, demo.views.scale) == (1, [0.4, 1.0])
    assert (demo.train.lr, load(["method=densecl", "recipe=demo"]).train.lr) == (0.2, 0.006)
    assert demo.train.optimizer == "lars"  # of which the recipe says nothing
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("backbone: vit_small\ntrain: {lr: 0.5}\nonly:\n  byol: {train: {lr: 0.7, epochs: 3}}\n")
    assert (load([f"recipe={recipe}", "method=byol"]).train.lr, load([f"recipe={recipe}"]).train.lr) == (0.7, 0.5)
    assert load([f"recipe={recipe}", "method=byol"]).train.optimizer == "adamw"
    assert load([f"recipe={recipe}", "method=byol", "train.lr=0.9"]).train.lr == 0.9


@pytest.mark.parametrize("only", ["[byol]", "{bjol: {seed: 1}}", "{byol: 3}"])
def test_a_wrong_only_is_refused(tmp_path, only):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"only: {only}\n")
    with pytest.raises(UserError, match="must map names of methods"):
        load([f"recipe={recipe}", "method=npid"])


def test_the_published_cohort_keeps_each_methods_own_optimiser():
    for name, optimiser, lr in (("npid", "sgd", 0.015), ("moco_v2", "sgd", 0.015), ("simclr", "lars", 0.15)):
        config = load([f"method={name}", "recipe=camelyon16", "cohort=/slides"])
        assert (config.train.optimizer, config.train.lr, config.train.epochs) == (optimiser, lr, 100)
        assert (config.train.batch_size, config.tile, config.backbone) == (32, 256, "resnet18")
    assert load(["recipe=camelyon16_vit", "cohort=/slides"]).backbone == "vit_small"


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("train.optimizer=adam", "choose sgd, lars or adamw"),
        ("views.jitter=2", "give a number from 0 to 1"),
        ("views.blur=-1", "give a number from 0 to 1"),
        ("views.blur_sigma=[2,1]", "low first"),
        ("train.weight_decay_end=3", "give a number from 0 to 1"),
    ],
)
def test_mistakes_are_told(argument, sentence):
    with pytest.raises(UserError, match=sentence):
        load([argument])
