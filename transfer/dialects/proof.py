"""The proof of an export: a library's own model, loaded from the written file, gives what the source network gives."""

import importlib
from importlib import metadata
from typing import TYPE_CHECKING, Any

from results.errors import UserError
from transfer.dialects import LIBRARIES, NATIVE

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from transfer.encoders.network import Backbone

TOLERANCE = 1e-5
DEFINITION = "per stage: largest absolute difference from the source network's output, over the largest absolute value of that output"
PROOF_SIDES = {"resnet18": (64, 96), "resnet50": (64, 96), "vit_small": (224, 224)}
"""Height and width of the proof's image in px; unequal where the network allows it, so that turned axes would show."""


def proof_image(height: int, width: int) -> "np.ndarray":
    """Return the fixed image of the proof: uint8 RGB (height, width, 3), even noise of a fixed seed."""
    import numpy as np

    return np.random.default_rng(20).integers(0, 256, (height, width, 3), dtype=np.uint8)


def source_stages(backbone: "Backbone", image: "np.ndarray") -> "dict[str, Tensor]":
    """Return what the source network gives after each stage of a ResNet (`layer1` to `layer4`), or as tokens of a transformer."""
    from transfer.dialects.stages import RESNET_STAGES, captured, normalised
    from transfer.encoders.network import build_backbone

    model = build_backbone(backbone.architecture)
    model.load_state_dict(backbone.state)
    modules = (
        {"tokens": "norm"}
        if NATIVE[backbone.architecture] == "timm"
        else dict(zip(RESNET_STAGES, RESNET_STAGES, strict=True))
    )
    return captured(model, modules, normalised(image, backbone.mean, backbone.std))


def prove(name: str, source: "dict[str, Tensor]", found: "dict[str, Tensor]") -> dict[str, Any]:
    """Compare the stage features of a library's model with the source's (`DEFINITION`).

    Stages of a second detector carry its name before the stage's (`c4 layer1`).

    Returns:
        the differences and the library's version, for the card.

    Raises:
        UserError: when a stage is missing, or differs by more than `TOLERANCE` or by something that is not a number.
    """
    differences = {}
    for stage, features in found.items():
        expected = source[stage.rpartition(" ")[2]]
        if features.shape != expected.shape:
            raise UserError(failed(name, f"{stage} is {tuple(features.shape)} instead of {tuple(expected.shape)}"))
        scale = expected.abs().max().item()
        if not scale > 0:
            raise UserError(
                failed(name, f"{stage} of the source is zero everywhere or not a number, so nothing can be compared")
            )
        differences[stage] = (features - expected).abs().max().item() / scale
    missing = [stage for stage in source if stage not in found]
    if missing:
        raise UserError(failed(name, f"{missing[0]} was not found"))
    worst = max(differences, key=lambda stage: (differences[stage] != differences[stage], differences[stage]))
    if not differences[worst] <= TOLERANCE:
        raise UserError(failed(name, f"{worst} differs by {differences[worst]:.1e}, more than {TOLERANCE:g}"))
    return {"stages": differences, "largest": differences[worst], "library": library_version(name)}


def failed(name: str, what: str) -> str:
    """Say that a proof failed, and of what."""
    return f"the export for {name} does not compute what the source computes ({what}): nothing was written; check the encoder's weights and the installed {LIBRARIES[name]}."


def library_version(name: str) -> str:
    """Name the library that a format was proved in, with its version."""
    if name == "detectron2":
        from transfer.engines.detectron2.compat import version

        return f"Detectron2 {version()}"
    package = {"mmseg": "onedl-mmsegmentation"}.get(name, name)
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return getattr(importlib.import_module(LIBRARIES[name]), "__version__", "unknown")
