"""DINO: self-distillation with multi-crop (Caron et al., 2021); not one of the published rivals of SGCL."""

import warnings
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from lightly.loss import DINOLoss
from lightly.models.modules.heads import DINOProjectionHead
from lightly.models.utils import update_momentum
from lightly.utils.scheduler import cosine_schedule
from torch import Tensor, nn

from pretrain.backbones import teacher_of
from pretrain.methods.base import Facts, Method, Step, full_precision
from pretrain.views import View, ViewSettings, local_views, two_views

GLOBAL = ("global", "second")


@dataclass
class DINOOptions:
    """Published values; `prototypes` (outputs of the head) is capped at the number of tiles.

    `momentum` goes to 1 by half a cosine; the teacher's temperature rises linearly over `temperature_warmup` epochs.
    """

    prototypes: int = 65536
    hidden: int = 2048
    bottleneck: int = 256
    momentum: float = 0.996
    temperature: float = 0.1
    teacher_temperature: float = 0.04
    teacher_temperature_start: float = 0.04
    temperature_warmup: int = 30
    centre_momentum: float = 0.9
    freeze_epochs: int = 1
    local_crops: int = 8


class DINO(Method):
    """A student that sees any crop must name the prototypes that a momentum teacher gives to the whole-tile crops.

    The teacher's backbone is the one that is watched and exported, as in the paper; with few steps it stays close to its start,
    so short runs want a lower `momentum`. Deviations: no stochastic depth in transformers, no floor below the cosine of the
    learning rate, gradients clipped by their common norm and not one by one, prototypes capped at the number of tiles.
    """

    Options = DINOOptions
    sync_batch_norm = True

    def __init__(self, options: DINOOptions, facts: Facts, backbone: str, views: ViewSettings):
        super().__init__(options, facts, backbone, views)
        self.prototypes = min(options.prototypes, facts.tiles)
        self.student = nn.ModuleDict({"backbone": self.backbone, "head": self.make_head()})
        self.backbone = teacher_of(self.backbone)
        self.head = self.make_head().requires_grad_(False)
        self.head.load_state_dict(self.student["head"].state_dict())
        self.loss = DINOLoss(self.prototypes, student_temp=options.temperature, center_momentum=options.centre_momentum)

    def make_head(self) -> nn.Module:
        """(B, D) features to (B, prototypes); its last layer stands still for `freeze_epochs`."""
        options = self.options
        with warnings.catch_warnings():  # the head uses a form of weight norm that torch calls old
            warnings.simplefilter("ignore", FutureWarning)
            return DINOProjectionHead(
                self.dimension,
                options.hidden,
                options.bottleneck,
                self.prototypes,
                freeze_last_layer=options.freeze_epochs,
            )

    @property
    def views(self) -> tuple[View, ...]:
        return two_views(self.view_settings) + local_views(self.view_settings, self.options.local_crops)

    def resolved(self) -> dict[str, int]:
        return {"prototypes": self.prototypes}

    def forward(self, views: dict[str, Tensor], tile_ids: Tensor, epoch: int, step: int) -> Step:
        whole = torch.cat([views[name] for name in GLOBAL])
        local = [view for name, view in views.items() if name not in GLOBAL]
        with torch.no_grad():
            targets = self.head(self.backbone(whole)).float().chunk(2)
        features = self.student["backbone"](whole)
        guesses = list(self.student["head"](features).float().chunk(2))
        if local:
            outputs = self.student["head"](self.student["backbone"](torch.cat(local)))
            guesses += outputs.float().chunk(len(local))
        with full_precision(whole):
            loss = self.loss(list(targets), guesses, teacher_temp=self.teacher_temperature(epoch))
        return Step({"distil": loss}, F.normalize(features.float().chunk(2)[0], dim=1), tile_ids)

    def teacher_temperature(self, epoch: int) -> float:
        """Linear from its start to its end over the warm-up epochs."""
        options = self.options
        share = min(1.0, epoch / max(1, options.temperature_warmup - 1))
        return options.teacher_temperature_start + share * (
            options.teacher_temperature - options.teacher_temperature_start
        )

    def before_step(self, epoch: int) -> None:
        self.student["head"].cancel_last_layer_gradients(epoch)

    def after_step(self, step: int, steps: int) -> None:
        momentum = cosine_schedule(step, steps, self.options.momentum, 1.0)
        update_momentum(self.student["backbone"], self.backbone, momentum)
        update_momentum(self.student["head"], self.head, momentum)
