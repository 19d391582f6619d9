"""What an engine is given and what it gives back."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from results.errors import UserError

if TYPE_CHECKING:
    from transfer.encoders.network import Backbone

SCHEDULES = ("smoke", "short", "full")
"""From seconds on a CPU to what one would publish; engines without an own training loop take no notice."""


@dataclass(frozen=True)
class Images:
    """What an engine needs that trains the network itself.

    Attributes:
        read: rows (n,) int64 to uint8 tiles (n, T, T, 3).
        backbone: the network to start from.
        size: its input side in px.
        device: `auto`, `cpu` or `cuda`.
    """

    read: Callable[[np.ndarray], np.ndarray]
    backbone: "Backbone"
    size: int
    device: str = "auto"


@dataclass(frozen=True)
class Fit:
    """All that an engine may learn from; it never sees a test label.

    Attributes:
        train, validation, test: float32 features (n, D), (v, D), (m, D); rows (n,), (v,), (m,) int64 of `images` for an
            engine that trains the network. Validation may be empty: then nothing can be chosen, and engines say what they take.
        train_labels, validation_labels: int32 (n,), (v,), below `classes`.
        classes: number of classes C.
        seed: of every draw, from the seed and the trial of the cell.
        images: the tiles themselves; None where engines get features.
    """

    train: np.ndarray
    train_labels: np.ndarray
    validation: np.ndarray
    validation_labels: np.ndarray
    test: np.ndarray
    classes: int
    seed: int = 0
    images: Images | None = None

    def few(self, train: np.ndarray, validation: np.ndarray) -> Self:
        """Return the same with these positions of the two parts only."""
        return replace(
            self,
            train=self.train[train],
            train_labels=self.train_labels[train],
            validation=self.validation[validation],
            validation_labels=self.validation_labels[validation],
        )


@dataclass(frozen=True)
class Predictions:
    """Classes int32 (m,) and scores float32 (m, C) of the test units, and a remark on what the engine chose by itself."""

    predicted: np.ndarray
    scores: np.ndarray
    remark: str = ""


class Engine(Protocol):
    """One way to turn labels into predictions.

    Attributes:
        trains: whether it trains the network, so that it gets tiles instead of features.
    """

    trains: bool

    def settings(self) -> dict[str, Any]:
        """Return all that changes a number, as JSON; it goes into the cell's key."""
        ...

    def predict(self, fit: Fit) -> Predictions:
        """Learn from the labelled parts and label the test part."""
        ...


def derived_seed(*parts: int | str) -> int:
    """Return 63 bits that are a function of the parts."""
    text = " ".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def balanced_accuracy(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Mean recall over the classes that occur; what choices on validation go by."""
    return float(np.mean([(predicted[labels == c] == c).mean() for c in np.unique(labels)]))


def check_gpus(device: str, gpus: int) -> None:
    """Raise a UserError where a command asks for more GPUs than it may use."""
    import torch

    from transfer.encoders.network import choose_device

    there = torch.cuda.device_count() if choose_device(device).type == "cuda" else 0
    if there < gpus:
        raise UserError(
            f"gpus={gpus} but device={device} has {there} to use here: give gpus=1, or as many as there are."
        )
