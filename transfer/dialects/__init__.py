"""The names that other libraries give a backbone's tensors: one file a library, and its proof.

Every module here has `ARCHITECTURES`, `ENGINE_FILE` (suffix of the file its own loader needs beside safetensors, or None),
`translate(state, architecture)`, `preprocessing(mean, std)`, `stages(path, architecture, image, mean, std)` and `usage(file, architecture)`;
those with an engine file have `write_engine_file(state, path)` too.
"""

import importlib
from types import ModuleType

from results.errors import UserError

LIBRARIES = {"torchvision": "torchvision", "timm": "timm", "detectron2": "detectron2", "mmseg": "mmseg"}
"""Dialect -> the package that must be installed to prove it."""
NATIVE = {"resnet18": "torchvision", "resnet50": "torchvision", "vit_small": "timm"}
"""Architecture -> the dialect in which this project keeps it."""


def dialect(name: str) -> ModuleType:
    """Return the module of a dialect; a UserError names those that are known."""
    if name not in LIBRARIES:
        raise UserError(f"format '{name}' is not known: choose among {', '.join(LIBRARIES)}.")
    return importlib.import_module(f"{__name__}.{name}")


def refuse(architecture: str, library: str, known: tuple[str, ...], instead: str = "") -> None:
    """Raise a UserError when `architecture` is not among those `known` to the dialect of `library`."""
    if architecture not in known:
        raise UserError(
            f"{architecture} cannot be written for {library}, which takes {' and '.join(known)} here{instead}."
        )
