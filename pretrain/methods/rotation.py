"""Rotation prediction: which of four quarter turns was the view given? (sgcl-method.md section 3; Gidaris et al., ICLR 2018)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.methods.base import Facts, Method, Step
from pretrain.views import View, ViewSettings, global_view

TURNS = 4


def classifier(dimension: int, classes: int) -> nn.Linear:
    """A linear head with small normal weights (0.01) and zero bias."""
    head = nn.Linear(dimension, classes)
    nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)
    return head


@dataclass
class RotationOptions:
    """None: the task has no number to choose."""


class Rotation(Method):
    """Every view is shown in all four turns, so a batch of B tiles costs 4 B images."""

    Options = RotationOptions
    sync_batch_norm = True

    def __init__(self, options: RotationOptions, facts: Facts, backbone: str, views: ViewSettings):
        super().__init__(options, facts, backbone, views)
        self.head = classifier(self.dimension, TURNS)

    @property
    def views(self) -> tuple[View, ...]:
        return (global_view(self.view_settings),)

    def forward(self, views: dict[str, Tensor], tile_ids: Tensor, epoch: int, step: int) -> Step:
        images, turns = all_turns(views["global"])
        pooled = self.backbone(images)
        logits = self.head(pooled).float()
        right = (logits.argmax(1) == turns).float().mean()
        embedding = F.normalize(pooled[: len(tile_ids)].float(), dim=1)
        return Step({"rotation": F.cross_entropy(logits, turns)}, embedding, tile_ids, numbers={"accuracy": right})


def all_turns(images: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 3, S, S) to (4 B, 3, S, S), turned counter-clockwise by 0, 90, 180 and 270 degrees, and the turns (4 B,) int64."""
    turned = torch.cat([torch.rot90(images, turn, (2, 3)) for turn in range(TURNS)])
    turns = torch.arange(TURNS, device=images.device).repeat_interleave(len(images))
    return turned.contiguous(memory_format=torch.channels_last), turns
