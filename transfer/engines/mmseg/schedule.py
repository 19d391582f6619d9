"""How long and on what a segmenter is trained."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from results.errors import UserError
from results.settings import compose, load_yaml

FOLDER = Path(__file__).parent / "schedules"

LARGEST = 10**9
"""Largest whole number that is looked at; very long ones do not fit into a float."""

BOUNDS = {
    "iterations": (1, 10_000_000),
    "batch": (2, 4096),
    "crop": (32, 2048),
    "tile": (32, 2048),
    "window": (32, 2048),
    "weight_decay": (0, 1),
    "warmup": (0, 10_000_000),
    "most_of_one_class": (0, 1),
    "colour": (0, 1),
    "validate_every": (1, 10_000_000),
    "workers": (0, 64),
}
"""Least and largest value of the keys; batch norm needs two crops."""


@dataclass
class Schedule:
    """One schedule; lengths are px at the task's um/px.

    Attributes:
        iterations, batch: optimiser steps, and crops in each (over all devices).
        crop: side of the training crops.
        tile: side of the grid's tiles from which they are drawn; neighbours overlap by half.
        learning_rate, momentum, weight_decay: of SGD; the rate falls with power 0.9 (poly) to a hundredth.
        warmup: iterations of linear warm-up; shortened to fit when only `iterations` is changed.
        most_of_one_class: largest share of a class among the px of a crop that count, else it is drawn again (up to ten times).
        colour: brightness, contrast and saturation change by up to this factor each.
        validate_every: iterations between two looks at the validation regions, the last iteration among them; with a single one
            there is nothing to choose, and none is taken.
        window, overlap: side of the windows that slide over a region, and what neighbours have in common.
        workers: processes that read crops; numbers do not depend on them.
    """

    iterations: int = 20000
    batch: int = 16
    crop: int = 512
    tile: int = 512
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 0.0005
    warmup: int = 0
    most_of_one_class: float = 0.75
    colour: float = 0.25
    validate_every: int = 2000
    window: int = 512
    overlap: int = 256
    workers: int = 0

    def settings(self) -> dict[str, Any]:
        """Return all that changes a number."""
        return {name: value for name, value in asdict(self).items() if name != "workers"}


def read_schedule(name: str, changes: Mapping[str, Any] | None = None) -> Schedule:
    """Read `smoke`, `short` or `full`, with single values replaced; a UserError names what does not fit."""
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in FOLDER.glob("*.yaml")))
        raise UserError(f"schedule={name} is not known: choose {known}.")
    if changes is not None and not isinstance(changes, Mapping):
        raise UserError(
            f"options={str(changes)[:40]} must name keys of the schedule, such as options={{iterations: 500}}."
        )
    for key, value in (changes or {}).items():
        if isinstance(value, int) and abs(value) > LARGEST:
            raise UserError(f"options={{{key}: ...}} is a number beyond {LARGEST}: give a smaller one.")
    layers = [(str(path), load_yaml(path)), ("options", changes or {})]
    schedule: Schedule = OmegaConf.to_object(compose(OmegaConf.structured(Schedule), layers, {}))
    for key, (least, most) in BOUNDS.items():
        if not least <= getattr(schedule, key) <= most:
            raise UserError(f"schedule {name}: {key}={getattr(schedule, key)} does not fit, give {least} to {most}.")
    if not 0 < schedule.learning_rate < 10:
        raise UserError(f"schedule {name}: learning_rate={schedule.learning_rate} must be above 0 and below 10.")
    if not 0 <= schedule.momentum < 1:
        raise UserError(f"schedule {name}: momentum={schedule.momentum} must be 0 or more and below 1.")
    if "warmup" not in (changes or {}):
        schedule.warmup = min(schedule.warmup, schedule.iterations - 1)
    if schedule.warmup >= schedule.iterations:
        raise UserError(
            f"schedule {name}: warmup={schedule.warmup} must be below iterations={schedule.iterations}, give fewer."
        )
    if schedule.tile < schedule.crop:
        raise UserError(
            f"schedule {name}: tile={schedule.tile} is smaller than crop={schedule.crop}, which is cut from it."
        )
    if not 0 <= schedule.overlap < schedule.window:
        raise UserError(
            f"schedule {name}: overlap={schedule.overlap} must be below window={schedule.window} and not negative."
        )
    return schedule
