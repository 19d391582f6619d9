"""Network encoders: ResNets (torchvision's names) and vision transformers (timm's) without a classifier, with a report of what fitted."""

import hashlib
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.nn import functional

from results.errors import UserError
from results.files import file_digest, value_digest

BACKBONES = {"resnet18": 512, "resnet50": 2048, "vit_small": 384}
TRANSFORMERS = {"vit_small": "vit_small_patch16_224"}
"""Our name -> timm's."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OPTIONAL = "num_batches_tracked"
"""Batch-norm counters play no part in inference, so a file may leave them out."""


@dataclass(frozen=True)
class Coverage:
    """Names that met (or not) between a network and a file; a tensor of the wrong shape counts as missing and is marked so."""

    loaded: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]

    @property
    def share(self) -> float:
        """Loaded tensors (weights and batch-norm statistics) over all that the network has, 0 to 1."""
        return self.loaded / (self.loaded + len(self.missing))

    @property
    def complete(self) -> bool:
        return not self.missing and not self.unexpected

    def report(self) -> dict[str, Any]:
        """What a record keeps of it."""
        counts = {"loaded": self.loaded, "missing": len(self.missing), "unexpected": len(self.unexpected)}
        return {"share": round(self.share, 6), **counts}

    def __str__(self) -> str:
        return f"{self.loaded} tensors loaded, {len(self.missing)} missing, {len(self.unexpected)} unexpected"


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
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device={name} cannot be used here: give auto, cpu or cuda.") from error
    return device


def build_backbone(name: str) -> torch.nn.Module:
    """Build a backbone without a classifier, (B, 3, S, S) to (B, D); weights are drawn from torch's global generator.

    Transformers take any input side: it is padded to whole patches and position embeddings are interpolated.
    """
    if name not in BACKBONES:
        raise UserError(f"backbone '{name}' is not known here: {', '.join(BACKBONES)} are.")
    if name in TRANSFORMERS:
        import timm

        return timm.create_model(
            TRANSFORMERS[name], pretrained=False, num_classes=0, dynamic_img_size=True, dynamic_img_pad=True
        )
    model = getattr(torchvision.models, name)(weights=None)
    model.fc = torch.nn.Identity()
    return model


def feature_dim(model: torch.nn.Module) -> int:
    """D of a network that `build_backbone` made."""
    if not hasattr(model, "layer4"):
        return model.num_features
    return model.layer4[-1].get_submodule("bn3" if hasattr(model.layer4[-1], "bn3") else "bn2").num_features


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read tensors by name from safetensors, or from a torch file that holds nothing but tensors; objects are never unpickled."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, EOFError, ValueError) as error:
        raise UserError(f"{path} cannot be read as weights ({' '.join(str(error).split())[:120]}).") from error
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds pickled objects, which can run code and are refused: save its state_dict alone."
        ) from error
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise UserError(f"{path} must map torchvision names straight to tensors: save model.state_dict() alone.")
    return dict(weights)


def load_weights(model: torch.nn.Module, weights: dict[str, torch.Tensor]) -> Coverage:
    """Copy every tensor whose name and shape fit into `model` and report the rest."""
    own = model.state_dict()
    fitting = {name: value for name, value in weights.items() if name in own and value.shape == own[name].shape}
    model.load_state_dict(fitting, strict=False)
    expected = [name for name in own if not name.endswith(OPTIONAL)]
    missing = [
        name if name not in weights else f"{name} {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}"
        for name in expected
        if name not in fitting
    ]
    unexpected = [name for name in weights if name not in own and not name.endswith(OPTIONAL)]
    return Coverage(len(expected) - len(missing), tuple(missing), tuple(unexpected))


def require_complete(coverage: Coverage, path: Path, backbone: str, allow_partial: bool) -> None:
    """Raise a UserError with the first names that do not fit, unless `allow_partial`."""
    if coverage.complete or allow_partial:
        return
    parts = [
        f"{word} {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
        for word, names in (("missing", coverage.missing), ("unexpected", coverage.unexpected))
        if names
    ]
    raise UserError(
        f"{path} does not fit {backbone} ({coverage}; {'; '.join(parts)}): give weights of this backbone under torchvision's or timm's names, "
        "or allow_partial=true."
    )


@dataclass(frozen=True)
class Backbone:
    """The weights of an encoder, for engines that train it further.

    Attributes:
        architecture: `resnet18`, `resnet50` or `vit_small`.
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
    ) -> None:
        self.name, self.kind, self.digest, self.coverage, self.card = name, kind, digest, coverage, card
        self.architecture, self._source = architecture, source
        self.feature_dim = feature_dim(model)
        self._model, self._size, self._device = model.to(device).eval(), source.size, device
        self._mean, self._std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (source.mean, source.std))

    def features(self, batch: np.ndarray) -> np.ndarray:
        """Turn uint8 tiles (B, T, T, 3) into float32 features (B, D): a ResNet's pooled last stage, a transformer's class token."""
        with torch.inference_mode():
            tiles = torch.from_numpy(batch).to(self._device).permute(0, 3, 1, 2).float() / 255
            if tuple(tiles.shape[-2:]) != (self._size, self._size):
                side = (self._size, self._size)
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
        mixed = hashlib.sha256(f"untrained backbone {backbone} {seed} {trial}".encode()).digest()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int.from_bytes(mixed[:8], "little") >> 1)
            model = build_backbone(backbone)
        identity = {"encoder": "random", "backbone": backbone, "size": size, "version": 1}
        super().__init__(
            model,
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


def export_encoder(
    weights: Path, card: dict[str, Any], name: str, kind: str, device: torch.device, allow_partial: bool
) -> NetworkEncoder:
    """Open an export of ours by its card; its digest has been checked by `cards.open_export`.

    The encoder's own digest is over the weights and the card's input, since both change its features.
    """
    model = build_backbone(card["backbone"])
    coverage = load_weights(model, read_weights(weights))
    require_complete(coverage, weights, card["backbone"], allow_partial)
    source = Input(card["input"]["size"], tuple(card["input"]["mean"]), tuple(card["input"]["std"]))
    encoder = NetworkEncoder(
        model,
        source,
        device,
        name=name,
        kind=kind,
        digest=value_digest([card["digest"], card["input"]]),
        coverage=coverage.report(),
        architecture=card["backbone"],
        card=card,
    )
    if encoder.feature_dim != card["feature_dim"]:
        raise UserError(
            f"{weights}: the card says {card['feature_dim']} features but {card['backbone']} has {encoder.feature_dim}."
        )
    return encoder


def imagenet_encoder(
    path: Path | None, backbone: str, size: int, device: torch.device, allow_partial: bool
) -> NetworkEncoder:
    """Open supervised ImageNet weights from a file of torchvision names (the architecture is read off it), or download them.

    Raises:
        UserError: when the file does not fit, or the download fails.
    """
    if path is None:
        weights, digest = _download(backbone)
    elif path.is_file():
        weights, digest = read_weights(path), file_digest(path)
        backbone = "resnet50" if "layer1.0.conv3.weight" in weights else "resnet18"
    else:
        raise UserError(
            f"imagenet={path} is not a file: give torchvision weights as .safetensors or .pth, or download=true."
        )
    weights = {name: value for name, value in weights.items() if not name.startswith("fc.")}
    model = build_backbone(backbone)
    coverage = load_weights(model, weights)
    require_complete(coverage, path or Path("the download"), backbone, allow_partial)
    return NetworkEncoder(
        model,
        Input(size),
        device,
        name=f"ImageNet ({backbone}, {size} px)",
        kind="floor",
        digest=value_digest({"encoder": "imagenet", "weights": digest, "size": size}),
        coverage=coverage.report(),
        architecture=backbone,
    )


def _download(backbone: str) -> tuple[dict[str, torch.Tensor], str]:
    if backbone in TRANSFORMERS:
        raise UserError(
            f"ImageNet weights of {backbone} are not fetched: give imagenet=FILE, or encoder=[...] without imagenet."
        )
    chosen = torchvision.models.get_model_weights(backbone)["IMAGENET1K_V1"]
    try:
        weights = torch.hub.load_state_dict_from_url(chosen.url, progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"the ImageNet weights could not be downloaded from {chosen.url} ({error}): fetch them elsewhere and give imagenet=FILE."
        ) from error
    return weights, chosen.url.rpartition("/")[2]
