"""Network encoders: frozen backbones with the input they were trained on, untrained ones, and our own exports."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.nn import functional

from results.errors import UserError
from results.files import value_digest
from transfer.encoders.architectures import build_backbone, drawn_backbone, feature_dim
from transfer.encoders.cards import Export
from transfer.encoders.coverage import Coverage, load_weights, require_complete, require_sound

__all__ = [
    "Backbone", "Coverage", "Input", "NetworkEncoder", "RandomEncoder", "build_backbone", "choose_device", "export_encoder",
    "feature_dim", "load_weights", "require_complete",
]  # fmt: skip

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Input:
    """How a tile becomes a network's input: side in px, and mean and standard deviation of each channel on the 0..1 scale."""

    size: int
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


def choose_device(name: str) -> torch.device:
    """Turn `auto`, `cpu`, `cuda` or `cuda:1` into a device; one that is not there is a UserError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:[0-9]{1,3})?", name):
        raise UserError(f"device={name} is not known: give auto, cpu, cuda or cuda:N.")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device={name} cannot be used here: give auto, cpu or cuda.") from error
    return device


@dataclass(frozen=True)
class Backbone:
    """The weights of an encoder, for engines that train it further.

    Attributes:
        architecture: a name of `architectures.build_backbone`: `resnet18`, `resnet50`, `vit_small`, ...
        state: float32 CPU tensors under torchvision's names (timm's for a transformer), without a classifier.
        mean, std: of RGB in 0 to 1, (3,) each: how its input was normalised.
    """

    architecture: str
    state: dict[str, torch.Tensor]
    mean: tuple[float, ...]
    std: tuple[float, ...]


class NetworkEncoder:
    """A frozen backbone in inference mode: tiles are resized (bilinear, antialiased) to its input side and normalised its way."""

    def __init__(
        self,
        model: torch.nn.Module,
        source: Input,
        device: torch.device,
        *,
        name: str,
        kind: str,
        digest: str,
        coverage: dict[str, Any] | None,
        architecture: str,
        card: dict[str, Any] | None = None,
        run: str | None = None,
    ) -> None:
        self.name, self.kind, self.digest, self.coverage, self.card, self.run = name, kind, digest, coverage, card, run
        self.architecture, self.size, self._source = architecture, source.size, source
        self.feature_dim = feature_dim(model)
        self._model, self._device = model.to(device).eval(), device
        self._mean, self._std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (source.mean, source.std))

    def features(self, batch: np.ndarray) -> np.ndarray:
        """Turn uint8 tiles (B, T, T, 3) into float32 features (B, D): a ResNet's pooled last stage, a transformer's class token."""
        with torch.inference_mode():
            tiles = torch.from_numpy(batch).to(self._device).permute(0, 3, 1, 2).float() / 255
            if tuple(tiles.shape[-2:]) != (self.size, self.size):
                side = (self.size, self.size)
                tiles = functional.interpolate(tiles, side, mode="bilinear", antialias=True).clamp(0, 1)
            return self._model((tiles - self._mean) / self._std).float().cpu().numpy()

    def backbone(self) -> Backbone:
        """Return a copy of the weights with what an engine must know to use them."""
        state = {name: value.detach().float().cpu().clone() for name, value in self._model.state_dict().items()}
        return Backbone(self.architecture, state, tuple(self._source.mean), tuple(self._source.std))

    def for_trial(self, trial: int) -> Self:
        return self


class RandomEncoder(NetworkEncoder):
    """The same architecture untrained; every trial draws its own weights from (seed, trial)."""

    def __init__(self, backbone: str, size: int, seed: int, device: torch.device, trial: int = 0) -> None:
        self._arguments = (backbone, size, seed, device)
        identity = {"encoder": "random", "backbone": backbone, "size": size, "version": 1}
        super().__init__(
            drawn_backbone(backbone, seed, trial),
            Input(size),
            device,
            name=f"random ({backbone}, {size} px)",
            kind="floor",
            digest=value_digest(identity),
            coverage=None,
            architecture=backbone,
        )

    def for_trial(self, trial: int) -> Self:
        return type(self)(*self._arguments, trial)


def filled_backbone(
    architecture: str, weights: Mapping[str, torch.Tensor], path: Path | str, allow_partial: bool
) -> tuple[torch.nn.Module, Coverage]:
    """Build a network and fill it; what `allow_partial` leaves untouched is drawn as an untrained network of seed 0.

    Raises:
        UserError: the weights do not fit (the message carries the coverage), or are not what a training leaves behind.
    """
    model = drawn_backbone(architecture, 0, 0)
    coverage = load_weights(model, weights)
    require_complete(coverage, path, architecture, allow_partial)
    require_sound(model, path)
    return model, coverage


def weights_digest(model: torch.nn.Module) -> str:
    """Return the sha256 over names, shapes and bytes of a network's tensors, batch-norm counters left out."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if value.is_floating_point():
            digest.update(f"{name} {tuple(value.shape)} ".encode())
            digest.update(value.detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def export_encoder(export: Export, kind: str, device: torch.device, allow_partial: bool) -> NetworkEncoder:
    """Open an export of ours by its card; its digest has been checked by `cards.open_export`.

    The encoder's own digest is over the weights and the card's input, since both change its features.
    """
    weights, card = export.weights, export.card
    try:
        tensors = load_file(weights)
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(
            f"{weights} cannot be read as safetensors ({' '.join(str(error).split())[:120]}): export the run again."
        ) from error
    model, coverage = filled_backbone(card["backbone"], tensors, weights, allow_partial)
    encoder = NetworkEncoder(
        model,
        Input(card["input"]["size"], tuple(card["input"]["mean"]), tuple(card["input"]["std"])),
        device,
        name=export.name,
        kind=kind,
        digest=value_digest([card["digest"], card["input"]]),
        coverage={**coverage.report(), "family": "export", "architecture": card["backbone"]},
        architecture=card["backbone"],
        card=card,
        run=export.run,
    )
    if encoder.feature_dim != card["feature_dim"]:
        raise UserError(
            f"{weights}: the card says {card['feature_dim']} features but {card['backbone']} has {encoder.feature_dim}."
        )
    return encoder
