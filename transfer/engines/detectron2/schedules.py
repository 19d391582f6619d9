"""How long and on what a detector trains: short YAML files beside this one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
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
    schedule: Schedule = OmegaConf.to_object(compose(OmegaConf.structured(Schedule), layers, {}))
    for key, least in (("iterations", 1), ("batch", 1), ("warmup", 0), ("precise_bn", 0), ("weight_decay", 0)):
        if getattr(schedule, key) < least:
            raise UserError(f"{key}={getattr(schedule, key)} of schedule {name} is too small: give {least} or more.")
    for key in ("scale", "lr", "clip"):
        if getattr(schedule, key) <= 0:
            raise UserError(f"{key}={getattr(schedule, key)} of schedule {name} must be above 0.")
    if schedule.crop is not None and schedule.crop < 32:
        raise UserError(f"crop={schedule.crop} of schedule {name} is too small: give 32 px or more, or null.")
    if schedule.proposals not in PROPOSALS:
        raise UserError(f"proposals={schedule.proposals} of schedule {name}: choose {', '.join(PROPOSALS)}.")
    if not all(0 <= value < 1 for value in (schedule.jitter, schedule.colour)):
        raise UserError(f"jitter and colour of schedule {name} must lie from 0 to below 1.")
    return schedule
