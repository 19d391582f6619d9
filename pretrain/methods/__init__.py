"""Pretraining methods: one file a method, one line here to register it."""

import difflib
import importlib

from results.errors import UserError

METHODS = {
    "npid": "pretrain.methods.npid:NPID",
    "sgcl": "pretrain.methods.sgcl:SGCL",
}


def find(name: str) -> type:
    """Return the class of a registered method; an unknown name is a UserError that names the nearest."""
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"choose one of {', '.join(METHODS)}."
        raise UserError(f"method={name} is not known: {hint}")
    module, _, cls = METHODS[name].partition(":")
    return getattr(importlib.import_module(module), cls)
