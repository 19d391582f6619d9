"""How long and on what a detector trains: short YAML files beside this one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from results.errors import UserError
from results.settings import compose, load_yaml


@dataclass(frozen=True)
class Proposals:
    """Candidate boxes: the best of a level before suppression and of an image after it, in training and at test; and how
    many of an image train the box head.
    """

    before_train: int
    after_train: int
    before_test: int
    after_test: int
    head: int


RANGES: dict[str, tuple[float, float]] = {
    "iterations": (1, 10_000_000),
    "batch": (1, 4096),
    "scale": (0.25, 8),
    "crop": (32, 4096),
    "jitter": (0, 0.99),
    "colour": (0, 0.99),
    "lr": (1e-12, 9.99),
    "momentum": (0, 0.9999),
    "weight_decay": (0, 1),
    "warmup": (0, 10_000_000),
    "clip": (1e-6, 1e6),
    "precise_bn": (0, 100_000),
}
"""Least and most of every number; not-a-number lies in none."""
PROPOSALS = {"light": Proposals(500, 200, 500, 300, 64), "default": Proposals(2000, 1000, 1000, 1000, 512)}


@dataclass
class Schedule:
    """One schedule.

    Attributes:
        iterations: steps of the optimiser.
        batch: images a step, over all GPUs.
        scale: px of the network's input per px of the annotated image.
        crop: side of a training crop in px of the annotated image; None takes the whole window.
        jitter: a training image is enlarged by `scale` times a factor between 1 - jitter and 1 + jitter.
        colour: largest relative change of contrast and of each channel's gain in training.
        lr, momentum, weight_decay: of SGD; the rate is for this batch.
        warmup: steps in which the rate grows to `lr`.
        decay_at: shares of the iterations after which the rate falls to a tenth.
        clip: largest norm of one tensor's gradient.
        precise_bn: steps without learning that set the batch-norm statistics at the end; 0 keeps the running ones.
        proposals: `light` or `default` numbers of candidate boxes.
        bfloat16: train the forward pass in bfloat16 on a GPU; a CPU always takes float32.
    """

    iterations: int = 20
    batch: int = 2
    scale: float = 2.0
    crop: int | None = None
    jitter: float = 0.0
    colour: float = 0.0
    lr: float = 0.005
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup: int = 5
    decay_at: list[float] = field(default_factory=lambda: [0.7, 0.9])
    clip: float = 5.0
    precise_bn: int = 0
    proposals: str = "default"
    bfloat16: bool = False


def read_schedule(name: str, changes: Mapping[str, Any] | None = None) -> Schedule:
    """Read `smoke`, `short` or `full` and lay `changes` over it.

    Raises:
        UserError: for an unknown schedule or key, or a value out of range.
    """
    path = Path(__file__).parent / "schedules" / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(other.stem for other in path.parent.glob("*.yaml")))
        raise UserError(f"schedule={name} is not known: choose {known}.")
    if changes is not None and not isinstance(changes, Mapping):
        raise UserError(f"options={changes} must name keys of the schedule, such as options={{iterations: 500}}.")
    layers = [(str(path), load_yaml(path)), ("options", changes or {})]
    try:
        schedule: Schedule = OmegaConf.to_object(compose(OmegaConf.structured(Schedule), layers, {}))
    except OverflowError as error:
        raise UserError(f"options of schedule {name} hold a number that is too large: {error}.") from error
    _check(schedule, name)
    for source, layer in layers:
        if not isinstance(layer.get("bfloat16", False), bool):
            raise UserError(f"bfloat16={layer['bfloat16']} from {source} must be true or false.")
    if "warmup" in layers[1][1] and schedule.warmup >= schedule.iterations:
        raise UserError(
            f"warmup={schedule.warmup} of schedule {name} must be less than iterations={schedule.iterations}."
        )
    return schedule


def _check(schedule: Schedule, name: str) -> None:
    for key, (least, most) in RANGES.items():
        value = getattr(schedule, key)
        if value is not None and not least <= value <= most:
            raise UserError(f"{key}={value} of schedule {name} must lie from {least:g} to {most:g}.")
    shares = schedule.decay_at
    numbers = all(isinstance(share, float) and 0 <= share <= 1 for share in shares)
    if not numbers or any(after <= before for before, after in pairwise(shares)):
        raise UserError(f"decay_at={shares} of schedule {name} must be ascending shares of the iterations from 0 to 1.")
    if schedule.proposals not in PROPOSALS:
        raise UserError(f"proposals={schedule.proposals} of schedule {name}: choose {', '.join(PROPOSALS)}.")
