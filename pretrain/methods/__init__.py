"""Pretraining methods: one file a method, one line here to register it."""

import difflib
import importlib

from results.errors import UserError

METHODS = {
    "npid": "pretrain.methods.npid:NPID",
    "sgcl": "pretrain.methods.sgcl:SGCL",
    "deepcluster": "pretrain.methods.deepcluster:DeepCluster",
    "npid_mcrop": "pretrain.methods.npid_mcrop:NPIDMcrop",
    "odc": "pretrain.methods.odc:ODC",
    "pirl": "pretrain.methods.pirl:PIRL",
    "relative_loc": "pretrain.methods.relative_loc:RelativeLoc",
    "rotation": "pretrain.methods.rotation:Rotation",
    "sslp": "pretrain.methods.sslp:SSLP",
    "moco_v1": "pretrain.methods.moco:MoCoV1",
    "moco_v2": "pretrain.methods.moco:MoCoV2",
    "simclr": "pretrain.methods.simclr:SimCLR",
    "byol": "pretrain.methods.byol:BYOL",
    "densecl": "pretrain.methods.densecl:DenseCL",
    "dino": "pretrain.methods.dino:DINO",
    "barlow_twins": "pretrain.methods.barlow_twins:BarlowTwins",
    "vicreg": "pretrain.methods.vicreg:VICReg",
}


def name_of(cls: type) -> str:
    """Return the name that a class of a method is registered by, its own where it is not."""
    place = f"{cls.__module__}:{cls.__name__}"
    return next((name for name, known in METHODS.items() if known == place), cls.__name__.lower())


def require(name: str) -> None:
    """Refuse the name of no registered method with a UserError that names the nearest."""
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"choose one of {', '.join(METHODS)}."
        raise UserError(f"method={name} is not known: {hint}")


def find(name: str) -> type:
    """Return the class of a registered method; an unknown name is a UserError that names the nearest."""
    require(name)
    module, _, cls = METHODS[name].partition(":")
    return getattr(importlib.import_module(module), cls)
