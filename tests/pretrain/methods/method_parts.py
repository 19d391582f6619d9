"""What the tests of single methods share: small views, a seeded method, a batch of noise."""

import torch

from pretrain.methods import find
from pretrain.methods.base import Facts, Method
from pretrain.views import ViewSettings

VIEWS = ViewSettings(size=32, local_size=16)


def seeded(name: str, facts: Facts, **options) -> Method:
    """A registered method with ResNet-18, the same weights at every call."""
    torch.manual_seed(0)
    cls = find(name)
    return cls(cls.Options(**options), facts, "resnet18", VIEWS)


def noise(method: Method, tiles: int, seed: int = 1) -> dict[str, torch.Tensor]:
    """Views of as many tiles, of normal noise."""
    rng = torch.Generator().manual_seed(seed)
    return {view.name: torch.randn(tiles, 3, view.size, view.size, generator=rng) for view in method.views}
