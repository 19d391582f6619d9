import pytest
import torch
import torchvision
from torch import nn

from pretrain.backbones import Conv3x3, build


@pytest.mark.parametrize(("size", "stride"), [(1, 1), (1, 2), (2, 2), (2, 1), (3, 2), (5, 1)])
def test_conv3x3_is_the_convolution(size: int, stride: int) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(4, 6, 3, stride=stride, padding=1, bias=False).double()
    x = torch.randn(5, 4, size, size, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    expected = plain(x)
    weight = torch.randn_like(expected)
    (wanted,) = torch.autograd.grad((expected * weight).sum(), plain.weight)
    plain.__class__ = Conv3x3
    torch.testing.assert_close(plain(x), expected)
    (found,) = torch.autograd.grad((plain(x) * weight).sum(), plain.weight)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize("size", [16, 32])
def test_backbone_is_torchvisions(name: str, size: int) -> None:
    torch.manual_seed(0)
    ours, dimension = build(name)
    theirs = getattr(torchvision.models, name)(weights=None)
    theirs.fc = nn.Identity()
    theirs.load_state_dict(ours.state_dict())
    ours, theirs, x = ours.double(), theirs.double(), torch.randn(3, 3, size, size, dtype=torch.float64)
    features = ours.eval()(x)
    assert features.shape == (3, dimension)
    torch.testing.assert_close(features, theirs.eval()(x))
