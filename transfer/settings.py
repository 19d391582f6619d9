"""The settings that every command which scores encoders has, and the one reader of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf

from results.errors import UserError
from results.settings import as_typed, compose, split_overrides
from transfer.encoders import EncoderOptions, check_specs
from transfer.tasks.schema import MOST_TRIALS

SCHEDULES = ("smoke", "short", "full")
LEAST = {"trials": 1, "seed": 0, "gpus": 1, "batch_size": 1}


@dataclass
class CellSettings:
    """What `classify`, `detect` and `segment` share; `python -m transfer --help` says what they mean.

    `root` is written `task.root=` on the command line. `encoder` is a list of specs once it was read.
    """

    encoder: Any = "latest"
    task: str | None = None
    root: str | None = None
    work: str = "work"
    records: str = "results/records"
    schedule: str = "smoke"
    trials: int = 3
    seed: int = 0
    floors: bool = True
    imagenet: str | None = None
    download: bool = False
    allow_partial: bool = False
    device: str = "auto"
    check: bool = False


def check_encoders(settings: CellSettings) -> None:
    """Find out before any long step whether the encoders of a command are there; a UserError says which is not."""
    check_specs(settings.encoder, encoder_options(settings))


def encoder_options(settings: CellSettings, **more: Any) -> EncoderOptions:
    """Return what opening the encoders of a command depends on; `more` are the fields that not every command has."""
    return EncoderOptions(
        Path(settings.work),
        settings.imagenet,
        settings.download,
        settings.allow_partial,
        settings.device,
        settings.seed,
        **more,
    )


def check_device(settings: CellSettings) -> None:
    """Find out before any long step whether the device is there."""
    if settings.device != "auto":
        from transfer.encoders.network import choose_device

        choose_device(settings.device)


Own = TypeVar("Own", bound=CellSettings)


def read_settings(schema: type[Own], arguments: Sequence[str]) -> Own:
    """Resolve `key=value` arguments over a schema; a UserError names what is unknown or does not fit."""
    overrides = split_overrides(list(arguments))
    if "task.root" in overrides:
        overrides["root"] = overrides.pop("task.root")
    settings: Own = OmegaConf.to_object(compose(OmegaConf.structured(schema), [], overrides))
    given = settings.encoder
    if isinstance(given, bool | int | float | str) and "encoder" in overrides:
        given = as_typed(given, overrides["encoder"])
    specs = [str(spec) for spec in given] if isinstance(given, list) else [str(given)]
    settings.encoder = [as_typed(spec, spec) for spec in specs]
    for name, least in LEAST.items():
        if getattr(settings, name, least) < least:
            raise UserError(f"{name}={getattr(settings, name)} is too small: give {least} or more.")
    if settings.trials > MOST_TRIALS:
        raise UserError(f"trials={settings.trials} is too large: give {MOST_TRIALS} or less.")
    if settings.schedule not in SCHEDULES:
        raise UserError(f"schedule={settings.schedule} is not known: choose {', '.join(SCHEDULES)}.")
    return settings
