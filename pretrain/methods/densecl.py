"""DenseCL: MoCo v2 and the same on places of the feature map (Wang et al., 2021; sgcl-method.md section 3)."""

from dataclasses import dataclass

import torch.nn.functional as F
from lightly.models.utils import select_most_similar, update_momentum
from torch import Tensor

from pretrain.backbones import dense_features, mlp_neck, teacher_of
from pretrain.methods.base import Facts, Step, full_precision
from pretrain.methods.moco import MoCoV2, MoCoV2Options
from pretrain.views import ViewSettings


@dataclass
class DenseCLOptions(MoCoV2Options):
    """Published values: both weights 1 (the paper has 0.5 and 0.5); see MoCoV1Options."""

    global_weight: float = 1.0
    dense_weight: float = 1.0


class DenseCL(MoCoV2):
    """Every place of a view's feature map attracts the place of the other view whose backbone features are most similar.

    Negatives of the dense term are the queue of earlier tiles' keys, averaged over their places. Views of 32 px and less give a
    map of one place, where the dense term is a second global one.
    """

    Options = DenseCLOptions

    def __init__(self, options: DenseCLOptions, facts: Facts, backbone: str, views: ViewSettings):
        super().__init__(options, facts, backbone, views)
        self.dense_neck = mlp_neck(self.dimension, options.dimension)
        self.teacher["dense_neck"] = teacher_of(self.dense_neck)
        self.add_queue("dense")

    @property
    def label(self) -> str:
        return "densecl"

    def forward(self, views: dict[str, Tensor], tile_ids: Tensor, epoch: int, step: int) -> Step:
        pooled, features = dense_features(self.backbone, views["global"])
        q = F.normalize(self.neck(pooled).float(), dim=1)
        features = features.flatten(2).transpose(1, 2)
        places = F.normalize(self.dense_neck(features).float(), dim=2)
        key, mean_key, key_features, key_places = self.keys(views["second"], step)
        t, count = self.options.temperature, places.shape[1]
        with full_precision(q):
            matched = select_most_similar(features.detach().float(), key_features, key_places)
            losses = {
                "global": self.queues["global"].loss(q, key, tile_ids, t),
                "dense": self.queues["dense"].loss(
                    places.flatten(0, 1), matched.flatten(0, 1), tile_ids.repeat_interleave(count), t
                ),
            }
        weights = {"global": self.options.global_weight, "dense": self.options.dense_weight}
        return Step(losses, q, tile_ids, weights, writes={"global": key, "dense": mean_key})

    def encode(self, images: Tensor) -> tuple[Tensor, ...]:
        """Keys (B, D), mean dense keys (B, D), backbone features (B, P, F) and dense keys (B, P, D) of P places."""
        pooled, features = dense_features(self.teacher["backbone"], images)
        features = features.flatten(2).transpose(1, 2)
        places = self.teacher["dense_neck"](features).float()
        return (
            F.normalize(self.teacher["neck"](pooled).float(), dim=1),
            F.normalize(places.mean(1), dim=1),
            features.float(),
            F.normalize(places, dim=2),
        )

    def after_step(self, step: int, steps: int) -> None:
        super().after_step(step, steps)
        update_momentum(self.dense_neck, self.teacher["dense_neck"], self.options.momentum)
