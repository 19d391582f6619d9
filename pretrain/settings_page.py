"""`python -m pretrain --settings`: every setting with its value, what it means and who set it, as YAML that a recipe may hold."""

import inspect
from collections.abc import Mapping
from textwrap import wrap
from typing import Any

import yaml
from omegaconf import OmegaConf

from pretrain import methods
from pretrain.config import CONFIGS, resolve
from results.settings import load_yaml

COLUMN, WIDTH = 34, 112
"""Where the words after a value begin, and how long a line of prose is."""


def page(arguments: list[str]) -> str:
    """Return the settings that a command line amounts to.

    Raises:
        UserError: for an unknown key, name or value.
    """
    config, layers = resolve(arguments)
    values = OmegaConf.to_container(config)
    setters = {key: name for name, layer in layers for key in _keys(layer)}
    meanings, method = dict(_leaves(load_yaml(CONFIGS / "meanings.yaml"))), config.method
    lines = [
        "# python -m pretrain key=value ...: a group's settings are written group.key=value. Here with their values, what",
        "# they mean, and [who set them] where it is not the default; give method=, recipe=, cohort= to see theirs.",
    ]
    groups = {key: value for key, value in values.items() if isinstance(value, dict)}
    lines += [_line(key, value, meanings, setters, key) for key, value in values.items() if key not in groups]
    for group, own in groups.items():
        lines += ["", f"{group}:"] if own else ["", f"{group}: {{}}"]
        if group == method:
            lines += [
                f"  # {text}".rstrip()
                for text in wrap(" ".join(inspect.getdoc(methods.find(method).Options).split()), WIDTH)
            ]
        for key, value in own.items():
            meaning = f"options.{key}" if group == method else f"{group}.{key}"
            lines.append("  " + _line(key, value, meanings, setters, meaning, f"{group}.{key}"))
    return "\n".join(lines) + "\n"


def _line(
    key: str, value: Any, meanings: Mapping[str, str], setters: Mapping[str, str], meaning: str, path: str = ""
) -> str:
    plain = yaml.safe_dump([value], default_flow_style=True, width=10**6, allow_unicode=True).strip()[1:-1]
    shown = f"{key}: {plain}"
    words = [meanings[meaning]] if meaning in meanings else []
    words += [f"[{setters[path or key]}]"] if (path or key) in setters else []
    return f"{shown:<{COLUMN}}  # {' '.join(words)}" if words else shown


def _leaves(layer: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found = []
    for key, value in layer.items():
        found += _leaves(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
    return found


def _keys(layer: Mapping[str, Any]) -> list[str]:
    return [key for key, _ in _leaves(layer)]
