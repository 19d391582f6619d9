"""`key=value` settings over dataclass schemas, in the dialect of Hydra, with errors that name the nearest key."""

import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException, ValidationError

from results.errors import UserError

DEEPEST = 16
"""Groups within groups that settings may have."""


def split_overrides(arguments: Iterable[str]) -> dict[str, str]:
    """Turn `["a.b=1", "c=x"]` into `{"a.b": "1", "c": "x"}`; the last one wins."""
    overrides: dict[str, str] = {}
    for argument in arguments:
        key, separator, value = argument.partition("=")
        if not separator or not key:
            raise UserError(f"'{argument}' is not a setting: write key=value, for example seed=1.")
        overrides[key] = value
    return overrides


class _PlainLoader(yaml.SafeLoader):
    """YAML without aliases: a few lines of them can stand for more values than any memory holds."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"the alias *{self.peek_event().anchor} is not taken, write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        twice = next((key for number, key in enumerate(keys) if key in keys[:number]), None)
        if twice is not None:
            raise yaml.YAMLError(f"'{twice}' stands there twice, and one of the two would be lost")
        return super().construct_mapping(node, deep)


def load_yaml(path: Path | str) -> dict[str, Any]:
    """Read one YAML mapping without aliases; a broken or non-mapping file is a UserError that names it."""
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), _PlainLoader)  # noqa: S506 (a SafeLoader)
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be read as YAML settings ({reason}).") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold 'key: value' lines, not a {type(content).__name__}.")
    return content


def compose(
    schema: DictConfig, layers: Iterable[tuple[str, Mapping[str, Any]]], overrides: Mapping[str, str]
) -> DictConfig:
    """Lay named YAML layers, then command-line overrides, over a structured schema.

    Args:
        schema: `OmegaConf.structured(...)` of a dataclass, which gives names, types and defaults.
        layers: (name, nested mapping) pairs, later ones win; the name is shown in errors.
        overrides: dotted key -> text, parsed as YAML (`1e-3`, `[1,2]`, `null`, `true`); where the schema wants text, a
            number or a truth value stays the text that was typed (`out=2024_11`, `cohort=007`, `encoder=on`).

    Raises:
        UserError: for an unknown key (with the nearest valid one) or a value of the wrong type.
    """
    config = schema.copy()
    for name, layer in layers:
        for key, value in _leaves(layer):
            _set(config, key, value, name)
    for key, text in overrides.items():
        try:
            value = OmegaConf.from_dotlist([f"value={text}"])["value"]
        except (OmegaConfBaseException, yaml.YAMLError, ValueError, RecursionError) as error:
            raise UserError(f"{key}={text[:60]} cannot be parsed: quote the value or mend its brackets.") from error
        value = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
        if isinstance(value, bool | int | float | str) and _wants_text(config, key):
            value = as_typed(value, text)
        _set(config, key, value, "the command line", shown=text)
    try:
        OmegaConf.resolve(config)
        missing = sorted(OmegaConf.missing_keys(config))
    except (OmegaConfBaseException, RecursionError) as error:
        raise UserError(
            f"the settings refer to each other in a way that cannot be resolved ({str(error).partition(chr(10))[0]})."
        ) from error
    if missing:
        raise UserError(f"{missing[0]}=??? is no value: give one, or leave the key out.")
    return config


def as_typed(value: bool | int | float | str, text: str) -> str:
    """Return text as a person typed it, where YAML made a number of it or cut it at a `#`; quotes go, and `~/` is the home folder."""
    if isinstance(value, str) and text.lstrip()[:1] in ("'", '"'):
        return value
    text = text.strip()
    return os.path.expanduser(text) if text.startswith("~/") else text


def _wants_text(config: DictConfig, key: str) -> bool:
    if key not in _valid_keys(config):
        return False
    parent, _, leaf = key.rpartition(".")
    node = (OmegaConf.select(config, parent) if parent else config)._get_node(leaf)
    return node._metadata.ref_type is str


def _leaves(layer: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    if prefix.count(".") > DEEPEST:
        raise UserError(
            f"the settings below '{prefix.partition('.')[0]}' have no end: a YAML alias names what it is part of."
        )
    for key, value in layer.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _valid_keys(config: DictConfig, prefix: str = "") -> list[str]:
    keys = []
    for key in config:
        value = config._get_node(key)
        keys.append(f"{prefix}{key}")
        if isinstance(value, DictConfig) and not value._is_none():
            keys += _valid_keys(value, f"{prefix}{key}.")
    return keys


def _set(config: DictConfig, key: str, value: Any, source: str, shown: str | None = None) -> None:
    valid = _valid_keys(config)
    if key not in valid:
        near = difflib.get_close_matches(key, valid, n=1, cutoff=0.4)
        tail = [name for name in valid if name.rpartition(".")[2] == key.rpartition(".")[2]]
        suggestion = (tail or near or [None])[0]
        hint = f"did you mean '{suggestion}'?" if suggestion else f"known keys: {', '.join(sorted(valid))}."
        raise UserError(f"unknown setting '{key}' from {source}: {hint}")
    current = OmegaConf.select(config, key)
    if isinstance(current, DictConfig):
        example = next(iter(_valid_keys(current, f"{key}.")), None)
        hint = f"set one of its keys, such as '{example}'." if example else "it has no keys to set."
        raise UserError(f"'{key}' from {source} is a group of settings: {hint}")
    parent, _, leaf = key.rpartition(".")
    group = OmegaConf.select(config, parent) if parent else config
    try:
        if group._get_node(leaf)._metadata.ref_type is bool and isinstance(value, int | float) and value not in (0, 1):
            raise ValidationError("OmegaConf takes any number but 0 for true")
        if (
            isinstance(value, list)
            and _element(group, leaf) is not None
            and any(isinstance(v, list | dict) for v in value)
        ):
            raise ValidationError("OmegaConf takes lists within a list of text")
        OmegaConf.update(config, key, value)
    except (OmegaConfBaseException, OverflowError) as error:
        kind = _kind(group, leaf)
        given = str(value if shown is None else shown)[:80]
        raise UserError(f"{key}={given} from {source} does not fit: {kind} is expected.") from error


def _element(parent: DictConfig, leaf: str) -> type | None:
    """Return what a list of the schema holds, such as `str`; None for what is no list, or one of anything."""
    kind = getattr(parent._get_node(leaf)._metadata, "element_type", None)
    return kind if kind in (str, int, float, bool) else None


def _kind(parent: DictConfig, leaf: str) -> str:
    node = parent._get_node(leaf)
    kind = getattr(node._metadata, "ref_type", None)
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    if kind in names:
        return names[kind] + (" or null" if node._metadata.optional else "")
    return f"a value like {OmegaConf.to_container(parent).get(leaf)!r}"
