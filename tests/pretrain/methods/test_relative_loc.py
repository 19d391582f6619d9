"""Relative location: eight places around the centre."""

import math

import pytest
import torch
from method_parts import VIEWS, noise, seeded
from torch import nn

from pretrain.config import load, view_settings
from pretrain.methods.pirl import CELLS
from pretrain.methods.relative_loc import RelativeLoc, RelativeLocOptions, pairs
from pretrain.views import crop_boxes
from results.errors import UserError

IDS = torch.tensor([3, 7, 50, 120])


def make(facts):
    return seeded("relative_loc", facts, hidden=32)


class MeanColour(nn.Module):
    """(B, 3, S, S) to (B, 512): the mean pixel in every place."""

    def forward(self, x):
        return x.mean((1, 2, 3))[:, None].repeat(1, 512)


def test_pairs_by_hand():
    cells = torch.arange(9.0)[:, None, None] + torch.tensor([0.0, 100.0])[:, None]  # (9, 2, 1)
    paired, places = pairs(cells)
    assert places.tolist() == [p for p in range(8) for _ in range(2)]
    assert paired[::2].tolist() == [[4, n] for n in (0, 1, 2, 3, 5, 6, 7, 8)]
    assert paired[1::2].tolist() == [[104, 100 + n] for n in (0, 1, 2, 3, 5, 6, 7, 8)]


def test_every_view_reaches_the_network_in_its_place(facts):
    """With a backbone that returns one number per view, the neck sees (centre, neighbour) in the order of the places."""
    method, seen = make(facts), []
    method.backbone = MeanColour()
    method.neck.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    views = {name: torch.full((4, 3, 16, 16), float(number)) for number, (name, _) in enumerate(CELLS)}
    method(views, IDS, epoch=0, step=0)
    assert seen[0][::4, 0].tolist() == [4] * 8
    assert seen[0][::4, 512].tolist() == [0, 1, 2, 3, 5, 6, 7, 8]


def test_published_cells_are_square_with_a_gap_or_jitter(facts):
    config = load(["method=relative_loc"])
    settings = view_settings(config)
    method = RelativeLoc(RelativeLocOptions(), facts, "resnet18", settings)
    left = crop_boxes(torch.arange(200).numpy(), method.views[3], settings.ratio, 255, 0, 0)
    assert left[:, 2] - left[:, 0] == pytest.approx(64, abs=0.1)
    assert left[:, 3] - left[:, 1] == pytest.approx(64, abs=0.1)
    assert left[:, 0].min() >= 0
    assert left[:, 2].max() <= 85 + 1e-6
    assert left[:, 0].max() - left[:, 0].min() > 18  # of 21
    assert settings.flip == 0


def test_a_silent_head_costs_log_8(facts):
    method = make(facts)
    with torch.no_grad():
        method.head.weight.zero_()
    step = method(noise(method, len(IDS)), IDS, epoch=0, step=0)
    assert step.total().item() == pytest.approx(math.log(8))
    assert step.numbers["accuracy"] == 0.125


def test_the_neck_is_twice_as_wide_as_the_features_and_nothing_is_remembered(facts):
    assert RelativeLoc(RelativeLocOptions(), facts, "resnet18", VIEWS).head.in_features == 1024
    assert make(facts).memory() == {}
    with pytest.raises(UserError, match=r"relative_loc\.hidden=0 does not fit"):
        RelativeLoc.check(RelativeLocOptions(hidden=0))
