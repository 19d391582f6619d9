"""NPID's neck: the linear one of the first NPID and the MLP of SGCL."""

import pytest
import torch
from torch import nn

from pretrain.config import load
from pretrain.methods.npid import NPID, NPIDOptions, linear_neck
from pretrain.methods.sgcl import SGCL, SGCLOptions
from pretrain.views import ViewSettings
from results.errors import UserError

VIEWS = ViewSettings(size=32, local_size=16)
IDS = torch.tensor([3, 7, 50, 120])


def test_linear_neck_is_one_layer_without_bias_at_first():
    torch.manual_seed(0)
    neck = linear_neck(512, 128)
    assert isinstance(neck, nn.Linear)
    assert neck.weight.shape == (128, 512)
    assert not neck.bias.any()
    assert neck.weight.std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.02)  # Kaiming, fan in


@pytest.mark.parametrize(("neck", "layers"), [("linear", 1), ("mlp", 2)])
def test_npid_and_sgcl_take_the_neck_from_their_options(facts, neck, layers):
    for method in (NPID(NPIDOptions(neck=neck), facts, "resnet18", VIEWS),
                   SGCL(SGCLOptions(neck=neck), facts, "resnet18", VIEWS)):  # fmt: skip
        assert sum(isinstance(part, nn.Linear) for part in method.neck.modules()) == layers


@pytest.mark.parametrize("wrong", ["", "liner"])
def test_an_unknown_neck_is_refused_before_anything_is_built(wrong):
    with pytest.raises(UserError, match=r"neck=.*choose one of mlp, linear"):
        load(["method=npid", f"npid.neck={wrong!r}"])


def test_an_unknown_neck_is_refused_by_sgcl_too(facts):
    with pytest.raises(UserError, match=r"neck=.*choose one of mlp, linear"):
        SGCL(SGCLOptions(neck="liner"), facts, "resnet18", VIEWS)
