"""Full fine-tuning: what the weights are worth as a start, with every layer and a linear head trained on."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from transfer.engines.base import Fit, Images, Predictions, balanced_accuracy, derived_seed
from transfer.reading import read_ahead

if TYPE_CHECKING:
    import torch

PREDICTED = 128
"""Tiles predicted at once; they are independent of each other."""


@dataclass(frozen=True)
class Schedule:
    """How long to train. A round goes through the training tiles once, but for `least` and `most`; then validation is looked at.

    Attributes:
        rounds: the most for each learning rate.
        least: steps a round at least; few tiles are gone through again, or batch norm's statistics would lag behind the weights.
        most: steps a round at most; None for all training tiles.
        rates: learning rates to choose from, ascending.
        patience: rounds without a better validation score after which a rate is given up.
        batch: tiles a step, or all training tiles where these are fewer.
        held: the most validation tiles that are looked at; None takes all.
    """

    rounds: int
    least: int
    most: int | None
    rates: tuple[float, ...]
    patience: int
    batch: int
    held: int | None


LENGTHS = {
    "smoke": Schedule(rounds=1, least=4, most=4, rates=(1e-4, 1e-3), patience=1, batch=8, held=32),
    "short": Schedule(rounds=8, least=25, most=100, rates=(1e-4, 1e-3), patience=3, batch=16, held=1000),
    "full": Schedule(rounds=30, least=50, most=None, rates=(3e-5, 1e-4, 3e-4, 1e-3), patience=5, batch=128, held=None),
}


@dataclass(frozen=True)
class Finetune:
    """AdamW on all layers under cross entropy, 10 % of the steps warming up, then a cosine to zero.

    Training tiles are cropped a little and mirrored. The state with the best balanced accuracy on validation is kept, the earliest
    among equals, and the rate that gave the best of these, the smallest among equals. With no validation tile the first rate is
    trained to its end. The test part is predicted once, from whole tiles. bfloat16 on CUDA; on a CPU the same seed gives the same bits.
    """

    schedule: str = "smoke"
    weight_decay: float = 0.05
    warm_up: float = 0.1
    crop: tuple[float, float] = (0.7, 1.0)
    trains: ClassVar[bool] = True

    def settings(self) -> dict[str, Any]:
        length = LENGTHS[self.schedule]
        return {
            "schedule": {"name": self.schedule, **asdict(length), "rates": list(length.rates)},
            "optimiser": "AdamW, cosine",
            "weight_decay": self.weight_decay,
            "warm_up": self.warm_up,
            "crop": list(self.crop),
            "flips": True,
            "chosen_by": "balanced accuracy on validation",
        }

    def predict(self, fit: Fit) -> Predictions:
        """Choose the rate, train, label the test rows; scores are class probabilities, 0 for a class without training tiles.

        Raises:
            FloatingPointError: the loss was not finite under any rate.
        """
        import torch

        length = LENGTHS[self.schedule]
        rates = length.rates if len(fit.validation) else length.rates[:1]
        with torch.random.fork_rng(devices=[]):
            best: _Found | None = None
            for rate in rates:
                torch.manual_seed(derived_seed("finetune", fit.seed))
                training = _Training(self, fit)
                found = training.run(rate)
                if found is not None and (best is None or found.quality > best.quality):
                    best = found
        if best is None:
            raise FloatingPointError(f"the loss was not finite under any of the rates {', '.join(map(str, rates))}")
        training.model.load_state_dict(best.state)
        scores = np.zeros((len(fit.test), fit.classes), dtype=np.float32)
        scores[:, training.classes] = training.probabilities(fit.test)
        remark = f"rate {best.rate:g}, round {best.round} of {length.rounds}"
        remark += "" if len(fit.validation) else ", not chosen: no validation tiles"
        return Predictions(scores.argmax(axis=1).astype(np.int32), scores, remark)


@dataclass(frozen=True)
class _Found:
    """The best state under one rate: its validation score, the round it is of, and its tensors on the CPU."""

    quality: float
    round: int
    rate: float
    state: dict[str, "torch.Tensor"]


class _Training:
    """One network on its way; the global CPU generator draws its head, order and crops."""

    def __init__(self, engine: Finetune, fit: Fit) -> None:
        import torch
        from torchvision.transforms import v2

        from transfer.encoders.network import choose_device

        self._engine, self._fit, self._length = engine, fit, LENGTHS[engine.schedule]
        self._images = _images(fit)
        self._device = choose_device(self._images.device)
        self.classes, codes = np.unique(fit.train_labels, return_inverse=True)
        self._codes = torch.from_numpy(codes.astype(np.int64))
        self.model = _network(self._images, len(self.classes)).to(self._device)
        side = (self._images.size, self._images.size)
        crop = v2.RandomResizedCrop(side, scale=engine.crop, antialias=True)
        self._augment = v2.Compose([crop, v2.RandomHorizontalFlip(), v2.RandomVerticalFlip()])
        self._whole = v2.Resize(side, antialias=True)
        backbone = self._images.backbone
        self._mean, self._std = (
            torch.tensor(value, device=self._device).view(1, 3, 1, 1) for value in (backbone.mean, backbone.std)
        )

    def run(self, rate: float) -> _Found | None:
        """Train under one rate and return the best state; None when the loss was not finite before there was one."""
        import torch

        optimiser = torch.optim.AdamW(self.model.parameters(), lr=rate, weight_decay=self._engine.weight_decay)
        batch, steps = self._shape()
        total = self._length.rounds * steps
        warm = max(1, int(self._engine.warm_up * total))
        curve = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: min((step + 1) / warm, (1 + math.cos(math.pi * step / total)) / 2)
        )
        held, truth = self._held()
        found: _Found | None = None
        for number in range(1, self._length.rounds + 1):
            if not self._round(optimiser, curve, batch, steps):
                break
            quality = (
                balanced_accuracy(truth, self.classes[self.probabilities(held).argmax(axis=1)]) if len(held) else 0.0
            )
            if found is None or quality > found.quality or not len(held):
                state = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}
                found = _Found(quality, number, rate, state)
            elif number - found.round >= self._length.patience:
                break
        return found

    def _shape(self) -> tuple[int, int]:
        """Tiles a step and steps a round."""
        batch = min(self._length.batch, len(self._fit.train))
        steps = max(self._length.least, len(self._fit.train) // batch)
        return batch, min(steps, self._length.most or steps)

    def _held(self) -> tuple[np.ndarray, np.ndarray]:
        """The validation rows that are looked at, and their labels."""
        rows, labels = self._fit.validation, self._fit.validation_labels
        if self._length.held is None or len(rows) <= self._length.held:
            return rows, labels
        random = np.random.default_rng(derived_seed("looked at", self._fit.seed))
        kept = np.sort(random.permutation(len(rows))[: self._length.held])
        return rows[kept], labels[kept]

    def _round(self, optimiser: Any, curve: Any, batch: int, steps: int) -> bool:
        """Train for one round and return whether its loss was finite."""
        import torch

        self.model.train()
        count = len(self._fit.train)
        order = torch.cat([torch.randperm(count) for _ in range(math.ceil(steps * batch / count))])
        order = order[: steps * batch].view(steps, batch)
        parts = [self._fit.train[positions.numpy()] for positions in order]
        total = torch.zeros((), device=self._device)
        for positions, tiles in zip(order, read_ahead(self._images.read, parts), strict=True):
            views = torch.stack([self._augment(tile) for tile in self._pixels(tiles)])
            with self._precision():
                logits = self.model(self._normalised(views))
            loss = torch.nn.functional.cross_entropy(logits.float(), self._codes[positions].to(self._device))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            curve.step()
            total += loss.detach()
        return bool(torch.isfinite(total))

    def probabilities(self, rows: np.ndarray) -> np.ndarray:
        """Return float32 (n, K) over the classes that have training tiles."""
        import torch

        self.model.eval()
        found = [np.empty((0, len(self.classes)), np.float32)]
        with torch.inference_mode():
            for tiles in read_ahead(self._images.read, list(_batches(rows))):
                with self._precision():
                    logits = self.model(self._normalised(self._whole(self._pixels(tiles))))
                found.append(logits.float().softmax(dim=1).cpu().numpy())
        return np.concatenate(found)

    def _pixels(self, tiles: np.ndarray) -> "torch.Tensor":
        import torch

        return torch.from_numpy(tiles).to(self._device).permute(0, 3, 1, 2).float() / 255

    def _normalised(self, views: "torch.Tensor") -> "torch.Tensor":
        return (views.clamp(0, 1) - self._mean) / self._std

    def _precision(self) -> Any:
        import torch

        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._device.type == "cuda")


def _images(fit: Fit) -> Images:
    if fit.images is None:
        raise ValueError("fine-tuning trains the network and needs its tiles, not features")
    return fit.images


def _network(images: Images, classes: int) -> "torch.nn.Module":
    """The backbone with its weights, and a head drawn from torch's global generator."""
    import torch

    from transfer.encoders.network import build_backbone, feature_dim

    backbone = build_backbone(images.backbone.architecture)
    backbone.load_state_dict(images.backbone.state)
    return torch.nn.Sequential(backbone, torch.nn.Linear(feature_dim(backbone), classes))


def _batches(rows: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), PREDICTED):
        yield rows[start : start + PREDICTED]


ENGINES = {"finetune": Finetune}
