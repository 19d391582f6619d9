"""The skeleton every method stands on."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pretrain import backbones, methods
from pretrain.bank import MemoryBank, gather_writes
from pretrain.distributed import World
from pretrain.options import check_options
from pretrain.views import View, ViewSettings


@dataclass(frozen=True)
class Facts:
    """What a method may know besides the pixels.

    Attributes:
        slide, x, y: (N,) int64 slide number and grid coordinates of every tile, on the training device.
    """

    slide: Tensor
    x: Tensor
    y: Tensor
    seed: int
    world: World

    @property
    def tiles(self) -> int:
        """N."""
        return len(self.slide)


@dataclass
class Step:
    """What a method says about one batch.

    Attributes:
        losses: name -> scalar with gradient; weights: name -> factor in the sum (1 where absent).
        embedding: (B, D) unit features, watched for collapse.
        writes: bank name -> (B, D) features to remember.
        numbers: name -> number worth logging.
    """

    losses: dict[str, Tensor]
    embedding: Tensor
    tile_ids: Tensor
    weights: dict[str, float] = field(default_factory=dict)
    writes: dict[str, Tensor] = field(default_factory=dict)
    numbers: dict[str, float | Tensor] = field(default_factory=dict)

    def total(self) -> Tensor:
        """Weighted sum of the losses."""
        return torch.stack([self.weights.get(name, 1.0) * loss for name, loss in self.losses.items()]).sum()


def full_precision(features: Tensor) -> torch.autocast:
    """Leave autocast for similarities with a bank: in bf16 logits carry errors of a percent, and ranks are ties."""
    return torch.autocast(features.device.type, enabled=False)


class Method(nn.Module):
    """A method says which views it wants, what a batch costs, and what it must remember between runs.

    Subclasses set `Options` (a dataclass, the settings group of the method's name), build their parts in `__init__`, and
    implement `forward`. Parts with gradient are modules; what is remembered lies in `self.banks` and `memory()`.
    """

    Options: ClassVar[type]
    sync_batch_norm: ClassVar[bool] = False
    """Whether batch norm statistics are shared by the ranks (several CUDA devices; CPU ranks always keep their own)."""

    def __init__(self, options: Any, facts: Facts, backbone: str, views: ViewSettings):
        super().__init__()
        self.options, self.facts, self.view_settings = options, facts, views
        self.backbone, self.dimension = backbones.build(backbone)
        self.banks: dict[str, MemoryBank] = {}

    @classmethod
    def check(cls, options: Any) -> None:
        """Refuse impossible options with a UserError, before anything is written; here each by itself."""
        check_options(methods.name_of(cls), options)

    @classmethod
    def key(cls, option: str) -> str:
        """An option as it is typed, such as `sgcl.bank`, for messages."""
        return f"{methods.name_of(cls)}.{option}"

    @classmethod
    def without_coordinates(cls) -> dict[str, Any]:
        """Options that switch off what rests on places on a slide, for tiles that have none; a UserError where nothing is left."""
        return {}

    @property
    def label(self) -> str:
        """The row name in tables."""
        return type(self).__name__.lower()

    @property
    def views(self) -> tuple[View, ...]:
        """The views of every tile that `forward` reads."""
        raise NotImplementedError

    def resolved(self) -> dict[str, Any]:
        """Settings that were scaled to the number of tiles, for the run's record."""
        return {}

    def start_epoch(self, epoch: int) -> None:
        """Called on every rank before an epoch's first batch; not called again when resuming inside the epoch."""

    def forward(self, views: dict[str, Tensor], tile_ids: Tensor, epoch: int, step: int) -> Step:
        """Compute the losses of a batch.

        Args:
            views: view name -> (B, 3, S, S).
            tile_ids: (B,) int64.
            epoch: 0-based; step: 0-based since the start of the run.
        """
        raise NotImplementedError

    def before_step(self, epoch: int) -> None:
        """Called on every rank between the gradient and the optimiser's step, for methods that hold parts still at first."""

    def after_step(self, step: int, steps: int) -> None:
        """Called on every rank after the optimiser's 0-based `step` of `steps` in the whole run, for momentum teachers."""

    def remember(self, step: Step) -> None:
        """Write the batch's features of all ranks into the banks; called after the optimiser's step."""
        if step.writes:
            tile_ids, features = gather_writes(self.facts.world, step.tile_ids, step.writes)
            for name, value in features.items():
                self.banks[name].update(tile_ids, value)

    def memory(self) -> dict[str, Tensor]:
        """Tensors besides parameters and banks with files of their own that a resumed run needs, alike on all ranks."""
        kept = {}
        for name, bank in self.banks.items():
            if not bank.in_files:
                kept |= {f"bank.{name}": bank.rows, f"scale.{name}": bank.scale, f"written.{name}": bank.written}
        return kept

    def load_memory(self, memory: dict[str, Tensor]) -> None:
        """Restore what `memory` gave, on any device."""
        for name, bank in self.banks.items():
            if not bank.in_files:
                bank.rows.copy_(memory[f"bank.{name}"])
                bank.written.copy_(memory[f"written.{name}"])
                if len(bank.scale):
                    bank.scale.copy_(memory[f"scale.{name}"])

    def add_bank(
        self,
        name: str,
        dimension: int,
        momentum: float,
        forget_start: bool,
        storage: str = "fp32",
        sharded: bool = False,
    ) -> None:
        """Make a bank with one row per tile."""
        facts = self.facts
        self.banks[name] = MemoryBank(
            facts.tiles, dimension, momentum, facts.seed, name, facts.world, forget_start, storage, sharded
        )
