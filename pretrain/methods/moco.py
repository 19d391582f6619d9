"""MoCo v1 and v2: keys of a momentum encoder in a queue (He et al., 2020; Chen et al., 2020; sgcl-method.md section 3)."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from lightly.models.utils import update_momentum
from torch import Tensor, nn

from pretrain.backbones import mlp_neck, teacher_of
from pretrain.losses import info_nce
from pretrain.methods.base import Facts, Method, Step, full_precision
from pretrain.randomness import generator
from pretrain.views import View, ViewSettings, two_views


class Queue:
    """The K newest keys, (K, D) unit rows, alike on every rank, with the (K,) tile ids they belong to (-1: a row of the start)."""

    def __init__(self, rows: int, dimension: int, seed: int, name: str, device: torch.device):
        start = torch.randn(rows, dimension, generator=generator(seed, "queue", name))
        self.rows = F.normalize(start, dim=1).to(device)
        self.tile_ids = torch.full((rows,), -1, dtype=torch.int64, device=device)
        self.place = torch.zeros((), dtype=torch.int64, device=device)

    def push(self, tile_ids: Tensor, keys: Tensor) -> None:
        """Overwrite the oldest rows by (B, D) keys of (B,) tiles; of more than K, the last K stay."""
        keys, tile_ids = keys[-len(self.rows) :], tile_ids[-len(self.rows) :]
        at = (self.place + torch.arange(len(keys), device=keys.device)) % len(self.rows)
        self.rows[at], self.tile_ids[at] = keys, tile_ids
        self.place = (self.place + len(keys)) % len(self.rows)

    def loss(self, q: Tensor, key: Tensor, tile_ids: Tensor, temperature: float) -> Tensor:
        """InfoNCE of (B, D) queries with their (B, D) keys against the queue; a tile is never its own negative."""
        absent = self.tile_ids == tile_ids[:, None]
        return info_nce((q * key).sum(1), q @ self.rows.T, temperature, absent)


@dataclass
class MoCoV1Options:
    """Published values; `negatives` (the queue) is capped at the number of tiles. `momentum` is the teacher's."""

    dimension: int = 128
    temperature: float = 0.07
    momentum: float = 0.999
    negatives: int = 65536


class MoCoV1(Method):
    """A view must find its tile's other view, encoded by a momentum encoder, among the keys of earlier batches.

    Deviations: a tile is never its own negative, which matters where the queue is as long as the cohort; the last incomplete
    batch is dropped, as published. Batches are shuffled over the ranks for the keys' batch norm, as published.
    """

    Options = MoCoV1Options

    def __init__(self, options: Any, facts: Facts, backbone: str, views: ViewSettings):
        super().__init__(options, facts, backbone, views)
        self.neck = self.make_neck()
        self.teacher = teacher_of(nn.ModuleDict({"backbone": self.backbone, "neck": self.neck}))
        self.negatives = min(options.negatives, facts.tiles)
        self.queues: dict[str, Queue] = {}
        self.add_queue("global")

    def make_neck(self) -> nn.Module:
        """(B, D) features to (B, dimension)."""
        return nn.Linear(self.dimension, self.options.dimension)

    def add_queue(self, name: str) -> None:
        """Make a queue of K keys."""
        facts = self.facts
        self.queues[name] = Queue(self.negatives, self.options.dimension, facts.seed, name, facts.world.device)

    @property
    def label(self) -> str:
        return "moco v1"

    @property
    def views(self) -> tuple[View, ...]:
        return two_views(self.view_settings)

    def resolved(self) -> dict[str, int]:
        return {"negatives": self.negatives}

    def forward(self, views: dict[str, Tensor], tile_ids: Tensor, epoch: int, step: int) -> Step:
        q = F.normalize(self.neck(self.backbone(views["global"])).float(), dim=1)
        (key,) = self.keys(views["second"], step)
        with full_precision(q):
            loss = self.queues["global"].loss(q, key, tile_ids, self.options.temperature)
        return Step({"contrast": loss}, q, tile_ids, writes={"global": key})

    def encode(self, images: Tensor) -> tuple[Tensor, ...]:
        """The momentum encoder's unit keys of (B, 3, S, S) images, one tensor with B rows for every queue."""
        features = self.teacher["neck"](self.teacher["backbone"](images))
        return (F.normalize(features.float(), dim=1),)

    @torch.no_grad()
    def keys(self, images: Tensor, step: int) -> tuple[Tensor, ...]:
        """`encode` of batches mixed over the ranks, so that batch norm cannot tell which images belong together."""
        world = self.facts.world
        if world.size == 1:
            return self.encode(images)
        rng = generator(self.facts.seed, step, "shuffle")
        order = torch.randperm(len(images) * world.size, generator=rng).to(images.device)
        mixed = world.gather(images.contiguous())[order.chunk(world.size)[world.rank]]
        mine = order.argsort().chunk(world.size)[world.rank]
        mixed = mixed.contiguous(memory_format=torch.channels_last)
        return tuple(world.gather(keys.contiguous())[mine] for keys in self.encode(mixed))

    def after_step(self, step: int, steps: int) -> None:
        update_momentum(self.backbone, self.teacher["backbone"], self.options.momentum)
        update_momentum(self.neck, self.teacher["neck"], self.options.momentum)

    def remember(self, step: Step) -> None:
        world = self.facts.world
        tile_ids = world.gather(step.tile_ids)
        for name, keys in step.writes.items():
            self.queues[name].push(tile_ids, world.gather(keys))

    def memory(self) -> dict[str, Tensor]:
        tensors = super().memory()
        for name, queue in self.queues.items():
            tensors |= {f"queue.{name}.{part}": value for part, value in vars(queue).items()}
        return tensors

    def load_memory(self, memory: dict[str, Tensor]) -> None:
        super().load_memory(memory)
        for name, queue in self.queues.items():
            for part, value in vars(queue).items():
                value.copy_(memory[f"queue.{name}.{part}"])


@dataclass
class MoCoV2Options(MoCoV1Options):
    """Published values; see MoCoV1Options."""

    temperature: float = 0.2


class MoCoV2(MoCoV1):
    """MoCo with an MLP neck and stronger views (configs/method/moco_v2.yaml)."""

    Options = MoCoV2Options

    def make_neck(self) -> nn.Module:
        return mlp_neck(self.dimension, self.options.dimension)

    @property
    def label(self) -> str:
        return "moco v2"
