"""What `python -m pretrain` makes of its arguments: layers of settings, checked, and their digest."""

import dataclasses
from dataclasses import field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pretrain import methods
from pretrain.options import check_options, refuse_no_switch
from pretrain.schema import FEATURE_DIMS, PLACES, RANGES, Config, ViewSettings
from results.errors import UserError
from results.files import value_digest
from results.settings import compose, load_yaml, split_overrides

CONFIGS = Path(__file__).parent / "configs"


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
    config, _ = resolve(arguments)
    methods.find(config.method).check(method_options(config))
    return config


def resolve(arguments: list[str]) -> tuple[DictConfig, list[tuple[str, dict[str, Any]]]]:
    """Lay the settings of a command line over each other.

    Args:
        arguments: `key=value`.

    Returns:
        the settings, each of which fits by itself; the named layers they were made of, later ones win.

    Raises:
        UserError: for an unknown key, name or value.
    """
    overrides = split_overrides(arguments)
    recipe_layers = _recipe(overrides.get("recipe"))
    chosen = {"cohort": Config.cohort, "method": Config.method, "backbone": Config.backbone}
    for layer in (*(values for _, values in recipe_layers), overrides):
        chosen.update({name: str(layer[name]) for name in chosen if name in layer})
    methods.require(chosen["method"])
    options = methods.find(chosen["method"]).Options
    schema = dataclasses.make_dataclass(
        "Settings", [(chosen["method"], options, field(default_factory=options))], bases=(Config,)
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
        refuse_no_switch(key)
        owner = key.partition(".")[0]
        if owner in others:
            raise UserError(f"'{key}' belongs to method={owner}, this is method={chosen['method']}: leave it out.")
    layers = [(name, {key: value for key, value in values.items() if key not in others}) for name, values in layers]
    config = compose(OmegaConf.structured(schema), layers, overrides)
    _check(config)
    check_options(chosen["method"], method_options(config))
    return config, [*layers, ("the command line", overrides)]


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
