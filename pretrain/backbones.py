"""Backbones without a classifier: ResNets with torchvision's names, vision transformers with timm's."""

import copy
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from pretrain.schema import FEATURE_DIMS

TRANSFORMERS = {"vit_small": "vit_small_patch16_224"}
"""Our name -> timm's. Views of any size are taken, padded to whole patches; position embeddings are interpolated."""

QUARTER = (16, 32, 64, 128)
"""Channels of the stages of `resnet18_quarter`, a ResNet-18 for rehearsals on a CPU; its stem keeps 64, so
that `layer1` has a shortcut too; all other names are torchvision's."""


class SmallMaps(torch.autograd.Function):
    """A 3x3 convolution with padding 1 over a map of at most 2 x 2 px: one matrix product an output pixel.

    There every output sees the whole map, through a window of the nine taps; general kernels multiply the padding too and take up to
    20 times longer for the weight's gradient on a CPU. The gradient is written once, in the layout of the weight.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        """Map (B, C, h, w) to (B, D, h', w') with a weight of (D, C, 3, 3)."""
        ctx.stride = stride
        ctx.save_for_backward(x, weight)
        rows, taps = _rows(x), weight.permute(0, 2, 3, 1)
        height, width = x.shape[2:]
        places = _windows(height, width, stride)
        products = [rows @ taps[:, down, across].flatten(1).T for down, across in places]
        return torch.stack(products, 1).unflatten(1, (-(-height // stride), -1)).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Return the gradients of map and weight."""
        x, weight = ctx.saved_tensors
        height, width = x.shape[2:]
        rows, taps = _rows(x), weight.permute(0, 2, 3, 1)
        outputs = grad.permute(0, 2, 3, 1).flatten(1, 2).unbind(1)
        into_map, into_taps = 0, torch.zeros_like(taps, memory_format=torch.contiguous_format)
        for (down, across), output in zip(_windows(height, width, ctx.stride), outputs, strict=True):
            window = taps[:, down, across]
            into_taps[:, down, across] += (output.T @ rows).view(window.shape)
            into_map = into_map + output @ window.flatten(1)
        return into_map.unflatten(1, (height, width, -1)).permute(0, 3, 1, 2), into_taps.permute(0, 3, 1, 2), None


def _rows(x: Tensor) -> Tensor:
    """(B, C, h, w) to (B, h * w * C)."""
    return x.permute(0, 2, 3, 1).flatten(1)


def _windows(height: int, width: int, stride: int) -> list[tuple[slice, slice]]:
    """The taps over the map, rows and columns, for every output pixel in reading order."""
    down, across = ([slice(1 - o, 1 - o + size) for o in range(0, size, stride)] for size in (height, width))
    return [(rows, columns) for rows in down for columns in across]


class SmallMapConv(nn.Conv2d):
    """A 3x3 (padded) or 1x1 convolution without bias that takes the short way on the maps of small views (32 px and less)."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, D, H', W')."""
        height, width = x.shape[2:]
        weight, stride = self.weight, self.stride[0]
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
            x, weight = x.to(dtype), weight.to(dtype)
        if self.kernel_size == (1, 1) and max(height, width) <= stride:
            return F.linear(x[:, :, 0, 0], weight[:, :, 0, 0])[:, :, None, None]
        if self.kernel_size == (3, 3) and max(height, width) <= 2:
            return SmallMaps.apply(x, weight, stride)
        return super().forward(x)


def build(name: str) -> tuple[nn.Module, int]:
    """Return an untrained backbone (a name of `FEATURE_DIMS`) that maps (B, 3, H, W) to pooled features (B, D), and D.

    Convolutions are initialised with Kaiming's fan-in rule (sgcl-method.md 2.2), transformers by timm's; the features of a
    transformer are its class token's.
    """
    if name in TRANSFORMERS:
        import timm

        network = timm.create_model(
            TRANSFORMERS[name], pretrained=False, num_classes=0, dynamic_img_size=True, dynamic_img_pad=True
        )
        return network, FEATURE_DIMS[name]
    if name == "resnet18_quarter":
        import timm

        network = timm.create_model("resnet18", channels=QUARTER, zero_init_last=False, num_classes=0)
    else:
        network = getattr(torchvision.models, name)(weights=None)
        network.fc = nn.Identity()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            if module.kernel_size in ((1, 1), (3, 3)):
                module.__class__ = SmallMapConv
    return network, FEATURE_DIMS[name]


def dense_features(network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the pooled features (B, D) of (B, 3, H, W) images and the feature map (B, D, h, w) they come from."""
    if hasattr(network, "forward_features"):
        grid = network.patch_embed.dynamic_feat_size(tuple(x.shape[2:]))
        tokens = network.forward_features(x)
        places = tokens[:, network.num_prefix_tokens :].transpose(1, 2)
        return network.forward_head(tokens), places.unflatten(2, grid)
    for name, module in network.named_children():
        if name == "avgpool":
            break
        x = module(x)
    return network.avgpool(x).flatten(1), x


def teacher_of(module: nn.Module) -> nn.Module:
    """A copy that no gradient trains: a momentum encoder."""
    return copy.deepcopy(module).requires_grad_(False)


def mlp_neck(dimension: int, out: int) -> nn.Module:
    """Linear, ReLU, Linear without batch norm, Kaiming weights and zero bias (sgcl-method.md 2.2)."""
    neck = nn.Sequential(nn.Linear(dimension, dimension), nn.ReLU(inplace=True), nn.Linear(dimension, out))
    for module in neck:
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            nn.init.zeros_(module.bias)
    return neck
