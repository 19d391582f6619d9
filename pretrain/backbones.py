"""Backbones without a classifier: ResNets with torchvision's names, vision transformers with timm's."""

import copy

import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

FEATURE_DIMS = {"resnet18": 512, "resnet50": 2048, "vit_small": 384}
TRANSFORMERS = {"vit_small": "vit_small_patch16_224"}
"""Our name -> timm's. Views of any size are taken, padded to whole patches; position embeddings are interpolated."""


class Conv3x3(nn.Conv2d):
    """A padded 3x3 convolution that is one matrix product where its output is a single pixel.

    On a map no larger than the stride every tap but those over the map reads padding, so only they matter; the general
    CPU kernels take up to 20 times longer for the weight's gradient there. Small views (32 px and less) live on this.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, D, H', W')."""
        height, width = x.shape[2:]
        if max(height, width) > self.stride[0]:
            return super().forward(x)
        taps = self.weight[:, :, 1 : 1 + height, 1 : 1 + width]
        return F.linear(x.flatten(1), taps.flatten(1), self.bias)[:, :, None, None]


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
    network = getattr(torchvision.models, name)(weights=None)
    network.fc = nn.Identity()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            if module.kernel_size == (3, 3):
                module.__class__ = Conv3x3
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
