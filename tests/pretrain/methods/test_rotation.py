"""Rotation prediction: four turns, four classes."""

import math

import pytest
import torch
from method_parts import noise, seeded

from pretrain.config import load
from pretrain.methods.rotation import all_turns

IDS = torch.tensor([3, 7, 50, 120])


def make(facts):
    return seeded("rotation", facts)


def test_all_turns_by_hand():
    """Counter-clockwise: the top right corner comes to the top left, then bottom right, then bottom left."""
    image = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).expand(2, 3, 2, 2) + torch.tensor([0.0, 10.0]).view(2, 1, 1, 1)
    images, turns = all_turns(image)
    assert turns.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert images[::2, 0, 0, 0].tolist() == [1, 2, 4, 3]
    assert images[1::2, 0, 0, 0].tolist() == [11, 12, 14, 13]
    assert images[2, 0].tolist() == [[2, 4], [1, 3]]


def test_a_silent_head_costs_log_4_and_a_sure_one_nothing(facts):
    method = make(facts)
    with torch.no_grad():
        method.head.weight.zero_()
    step = method(noise(method, len(IDS)), IDS, epoch=0, step=0)
    assert step.total().item() == pytest.approx(math.log(4))
    assert step.numbers["accuracy"] == 0.25
    with torch.no_grad():
        method.head.bias.copy_(torch.tensor([20.0, 0, 0, 0]))
    assert method(noise(method, len(IDS)), IDS, epoch=0, step=0).total().item() == pytest.approx(0.75 * 20, abs=1e-4)


def test_nothing_is_remembered_and_the_published_schedule_stands(facts):
    method = make(facts)
    assert method.memory() == {}
    method.remember(method(noise(method, len(IDS)), IDS, epoch=0, step=0))
    config = load(["method=rotation"])
    assert (config.train.lr, config.train.weight_decay, config.train.batch_size) == (0.1, 1e-4, 16)
