import pytest
import torch
import torchvision
from torch import nn

from pretrain.backbones import SmallMapConv, build


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize(
    ("size", "stride"), [((1, 1), 1), ((1, 1), 2), ((2, 2), 2), ((2, 2), 1), ((1, 2), 1), ((2, 1), 2), ((3, 3), 2)]
)
def test_small_map_convolution_is_the_convolution(size: tuple[int, int], stride: int, kernel: int) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(4, 6, kernel, stride=stride, padding=kernel // 2, bias=False).double()
    plain.to(memory_format=torch.channels_last)
    x = torch.randn(5, 4, *size, dtype=torch.float64).contiguous(memory_format=torch.channels_last).requires_grad_()
    expected = plain(x)
    weight = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * weight).sum(), (x, plain.weight))
    plain.__class__ = SmallMapConv
    torch.testing.assert_close(plain(x), expected)
    found = torch.autograd.grad((plain(x) * weight).sum(), (x, plain.weight))
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("size", [16, 32])
def test_small_maps_train_under_autocast(size: int) -> None:
    torch.manual_seed(0)
    network, _ = build("resnet18")
    with torch.autocast("cpu", torch.bfloat16):
        features = network(torch.randn(4, 3, size, size))
    features.float().sum().backward()
    assert features.dtype == torch.bfloat16
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in network.parameters())


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


def test_the_narrow_resnet_has_torchvisions_names() -> None:
    ours, dimension = build("resnet18_quarter")
    wide, _ = build("resnet18")
    more = ours.state_dict().keys() - wide.state_dict().keys()
    assert all(name.startswith("layer1.0.downsample.") for name in more)
    assert ours.state_dict().keys() >= wide.state_dict().keys()
    assert ours(torch.randn(2, 3, 32, 32)).shape == (2, dimension)
    assert sum(p.numel() for p in ours.parameters()) < sum(p.numel() for p in wide.parameters()) / 14
