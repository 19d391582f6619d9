"""The settings of `python -m pretrain`: schema, layers and digest."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pretrain import methods
from pretrain.backbones import FEATURE_DIMS
from pretrain.methods.base import check_numbers
from pretrain.views import ViewSettings
from results.errors import UserError
from results.files import value_digest
from results.settings import compose, load_yaml, split_overrides

CONFIGS = Path(__file__).parent / "configs"


@dataclass
class TilingSettings:
    """How tiles are kept and stored; the tissue rule is described in `pretrain.tiling.tissue`."""

    min_tissue: float = 0.5
    encoding: str = "jpeg"
    quality: int = 90
    mask_mpp: float = 8.0
    workers: int | None = None


@dataclass
class RehearsalSettings:
    """The synthetic slides that `cohort=rehearsal` makes."""

    slides: int = 12
    size_px: int = 2048
    seed: int = 0


@dataclass
class Camelyon16Settings:
    """Slides of `cohort=camelyon16` (part: train, validation, test, all), and when a tile of them is tumour."""

    part: str = "train"
    rule: str = "centre"
    centre: float = 1 / 3
    min_share: float = 0.5


@dataclass
class TrainSettings:
    """One run of the loop. The published schedule is epochs=100, batch_size=32 on 4 GPUs, lr=0.015.

    `weight_decay_end` lets the weight decay go there by half a cosine (DINO); null keeps it.
    """

    epochs: int = 10
    batch_size: int = 32
    optimizer: str = "sgd"
    lr: float = 0.015
    momentum: float = 0.9
    weight_decay: float = 1e-4
    weight_decay_end: float | None = None
    warmup_epochs: float = 0.0
    clip: float | None = None
    amp: str = "auto"
    deterministic: bool = False
    processes: int | None = None
    loaders: int | None = None
    log_every: int = 10
    knn_every: int | None = None
    checkpoint_minutes: float = 10.0
    checkpoint_steps: int | None = None


@dataclass
class Config:
    """Everything that changes what a run does; cohort, method, backbone and recipe add YAML layers below the command line."""

    cohort: str = "rehearsal"
    method: str = "sgcl"
    recipe: str | None = None
    seed: int = 0
    backbone: str = "resnet18"
    tile: int = 256
    mpp: float | None = 0.5
    mpp_override: float | None = None
    root: str | None = None
    manifest: str | None = None
    store: str | None = None
    work: str = "work"
    run: str | None = None
    name: str | None = None
    device: str = "auto"
    scheduler: str | None = None
    tiling: TilingSettings = field(default_factory=TilingSettings)
    rehearsal: RehearsalSettings = field(default_factory=RehearsalSettings)
    camelyon16: Camelyon16Settings = field(default_factory=Camelyon16Settings)
    views: ViewSettings = field(default_factory=ViewSettings)
    train: TrainSettings = field(default_factory=TrainSettings)


# These say where and how fast, or choose tiles, which the store's digest tells: they are not part of a run's identity.
PLACES = ("root", "manifest", "store", "camelyon16", "work", "run", "name", "device", "scheduler", "tiling.workers", "train.loaders", "train.processes", "train.log_every",
          "train.checkpoint_minutes", "train.checkpoint_steps")  # fmt: skip


RANGES = (
    ("seed", 0, 2**32 - 1), ("mpp", 0.01, 100), ("mpp_override", 0.01, 100), ("tiling.mask_mpp", 1, 100), ("tiling.workers", 0, 4096),
    ("train.lr", 1e-12, 1e6), ("train.momentum", 0, 0.9999), ("train.weight_decay", 0, 1), ("train.weight_decay_end", 0, 1), ("train.warmup_epochs", 0, 1e6),
    ("train.clip", 1e-9, 1e9), ("train.knn_every", 1, 1e9), ("train.loaders", 0, 256), ("train.checkpoint_minutes", 1e-3, 1e6),
    ("train.checkpoint_steps", 1, 1e9), ("train.processes", 1, 4096), ("views.size", 16, 4096), ("views.local_size", 16, 4096),
    ("views.grey", 0, 1), ("views.flip", 0, 1), ("views.hue", 0, 0.5), ("views.brightness", 0, 1), ("views.contrast", 0, 1),
    ("views.saturation", 0, 1), ("views.jitter", 0, 1), ("views.blur", 0, 1), ("views.second_blur", 0, 1), ("views.local_blur", 0, 1),
    ("views.solarise", 0, 1), ("camelyon16.centre", 1e-3, 1), ("camelyon16.min_share", 1e-6, 1),
)  # fmt: skip
"""Lowest and highest sensible value of numbers; not-a-number fits nowhere."""


def named_layers() -> dict[str, list[str]]:
    """Return the names that `cohort=`, `method=`, `backbone=` and `recipe=` find under configs/."""
    return {
        folder.name: sorted(p.stem for p in folder.glob("*.yaml"))
        for folder in sorted(CONFIGS.iterdir())
        if folder.is_dir()
    }


def load(arguments: list[str]) -> DictConfig:
    """Resolve the command line: dataclass defaults < cohort < method < backbone < recipe < `key=value`.

    A recipe may hold settings for one method alone under `only: {METHOD: {...}}`; they win over the rest of the recipe.

    Raises:
        UserError: for an unknown key, name or value.
    """
    overrides = split_overrides(arguments)
    recipe_layers = _recipe(overrides.get("recipe"))
    chosen = {"cohort": Config.cohort, "method": Config.method, "backbone": Config.backbone}
    for layer in (*(values for _, values in recipe_layers), overrides):
        chosen.update({name: str(layer[name]) for name in chosen if name in layer})
    method = methods.find(chosen["method"])
    schema = dataclasses.make_dataclass(
        "Settings", [(chosen["method"], method.Options, field(default_factory=method.Options))], bases=(Config,)
    )
    layers = [
        layer
        for layer in (
            *(_layer(group, name) for group, name in chosen.items()),
            *_for_method(recipe_layers, chosen["method"]),
        )
        if layer
    ]
    others = methods.METHODS.keys() - {chosen["method"]}  # a recipe may hold the options of several methods
    for key in overrides:
        owner = key.partition(".")[0]
        if owner in others:
            raise UserError(f"'{key}' belongs to method={owner}, this is method={chosen['method']}: leave it out.")
    layers = [(name, {key: value for key, value in values.items() if key not in others}) for name, values in layers]
    config = compose(OmegaConf.structured(schema), layers, overrides)
    _check(config)
    check_numbers(chosen["method"], method_options(config))
    method.check(method_options(config))
    return config


def _layer(group: str, name: str) -> tuple[str, dict[str, Any]] | None:
    if name not in named_layers().get(group, []):
        return None
    return f"configs/{group}/{name}.yaml", load_yaml(CONFIGS / group / f"{name}.yaml")


def _recipe(name: str | None) -> list[tuple[str, dict[str, Any]]]:
    if name in (None, "null", ""):
        return []
    path = CONFIGS / "recipe" / f"{name}.yaml"
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
    if not path.exists():
        known = ", ".join(named_layers().get("recipe", []))
        raise UserError(f"recipe={name} is not known: choose one of {known}, or give the path of a YAML file.")
    return [(str(name), load_yaml(path))]


def _for_method(layers: list[tuple[str, dict[str, Any]]], method: str) -> list[tuple[str, dict[str, Any]]]:
    """Put what a recipe says under `only: {method: ...}` on top of the rest of it."""
    found = []
    for name, values in layers:
        only = values.get("only") or {}
        if not isinstance(only, dict) or not all(
            key in methods.METHODS and isinstance(v, dict) for key, v in only.items()
        ):
            raise UserError(
                f"'only' in recipe {name} must map names of methods to settings, as in only: {{npid: {{train: {{lr: 0.1}}}}}}."
            )
        rest = {key: value for key, value in values.items() if key != "only"}
        found += [(name, rest), (f"{name}: only", only.get(method, {}))]
    return found


def _check(config: DictConfig) -> None:
    train = config.train
    for name, value, least in (
        ("train.epochs", train.epochs, 1), ("train.batch_size", train.batch_size, 2), ("train.log_every", train.log_every, 1),
        ("rehearsal.slides", config.rehearsal.slides, 1), ("tile", config.tile, 16),
    ):  # fmt: skip
        if value < least:
            raise UserError(f"{name}={value} is too small: give {least} or more.")
    for name, low, high in RANGES:
        value = OmegaConf.select(config, name)
        if value is not None and not low <= value <= high:
            raise UserError(f"{name}={value} does not fit: give a number from {low:g} to {high:g}.")
    if config.mpp is None and not config.store:
        raise UserError("mpp=null does not fit: give the um/px of the tiles, a number from 0.01 to 100.")
    if config.device not in ("auto", "cpu", "cuda"):
        raise UserError(f"device={config.device} is not known: choose auto, cpu or cuda.")
    for name in ("scale", "local_scale", "ratio", "blur_sigma"):
        pair = config.views[name]
        if len(pair) != 2 or not 0 < pair[0] <= pair[1] or ("scale" in name and pair[1] > 1):
            raise UserError(
                f"views.{name}={list(pair)} does not fit: give [low, high], above 0, low first, shares at most 1."
            )
    if config.backbone not in FEATURE_DIMS:
        raise UserError(f"backbone={config.backbone} is not known: choose one of {', '.join(FEATURE_DIMS)}.")
    if train.optimizer not in ("sgd", "lars", "adamw"):
        raise UserError(f"train.optimizer={train.optimizer} is not known: choose sgd, lars or adamw.")
    if train.amp not in ("auto", "off", "bf16"):
        raise UserError(f"train.amp={train.amp} is not known: choose auto, off or bf16.")


def method_options(config: DictConfig) -> Any:
    """Return the method's options as its own dataclass."""
    return OmegaConf.to_object(config[config.method])


def view_settings(config: DictConfig) -> ViewSettings:
    """Return the view settings as their dataclass."""
    return OmegaConf.to_object(config.views)


def settings_digest(config: DictConfig, store_digest: str) -> str:
    """Digest of what a run computes: the settings without places and speeds, and the data."""
    plain = OmegaConf.to_container(config)
    for path in PLACES:
        group, _, key = path.rpartition(".")
        (plain[group] if group else plain).pop(key, None)
    return value_digest([plain, store_digest])
