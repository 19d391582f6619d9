"""A method's options as its file declares them, read without importing it: to print settings, nobody waits for torch."""

import ast
import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

from pretrain.methods import METHODS

TYPES: dict[str, Any] = {
    "int": int, "float": float, "str": str, "bool": bool,
    "int | None": int | None, "float | None": float | None, "str | None": str | None, "bool | None": bool | None,
}  # fmt: skip
"""The types that options have."""


def options_of(method: str) -> type:
    """Return a dataclass with the names, types, defaults and docstring of a registered method's `Options`.

    Raises:
        ValueError: a default is not a plain value.
        KeyError: a type is none of `TYPES`.
    """
    module, _, name = METHODS[method].partition(":")
    body = _class(module, name).body
    (options,) = [
        node.value.id
        for node in body
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["Options"]
    ]
    return _dataclass(module, options)


def _dataclass(module: str, name: str) -> type:
    node = _class(module, name)
    bases = tuple(_dataclass(_home(module, base.id), base.id) for base in node.bases)
    own = [
        (each.target.id, TYPES[ast.unparse(each.annotation)], ast.literal_eval(each.value))
        for each in node.body
        if isinstance(each, ast.AnnAssign)
    ]
    made = dataclasses.make_dataclass(name, own, bases=bases)
    made.__doc__ = ast.get_docstring(node, clean=False)
    return made


def _class(module: str, name: str) -> ast.ClassDef:
    return next(node for node in _tree(module).body if isinstance(node, ast.ClassDef) and node.name == name)


def _home(module: str, name: str) -> str:
    """Return the module that defines a class which `module` names."""
    for node in _tree(module).body:
        if isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names]:
            return node.module
    return module


def _tree(module: str) -> ast.Module:
    return ast.parse(Path(importlib.util.find_spec(module).origin).read_text(encoding="utf-8"))
