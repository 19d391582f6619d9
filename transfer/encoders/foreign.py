"""Weight files without a card of ours: the family and the network are read off their keys, the input is assumed and said so."""

from pathlib import Path
from typing import Any

import torch

from results.errors import UserError
from results.files import value_digest
from transfer.encoders.architectures import known_backbones, recognise
from transfer.encoders.coverage import Coverage
from transfer.encoders.families import Found, find_backbone
from transfer.encoders.network import Input, NetworkEncoder, filled_backbone, weights_digest
from transfer.encoders.weights import read_weights

SHOWN = 20
"""Most first names of tensors left aside that a record keeps."""


def file_encoder(path: Path, branch: str, size: int, device: torch.device, allow_partial: bool) -> NetworkEncoder:
    """Open a weight file of any family in `families.FAMILIES`.

    Args:
        path: safetensors or torch file.
        branch: which of its backbones, where it has several; empty takes the family's first.
        size: assumed input side in px; mean and standard deviation are taken to be ImageNet's.
        device: where it runs.
        allow_partial: whether tensors of the network may be missing, or more be there than it has.

    Raises:
        UserError: the file is refused; the message carries the coverage.
    """
    found, architecture, model, coverage = _open(path, branch, allow_partial)
    assumed = assumed_input(model, size)
    name = f"{path.absolute().parent.name}/{path.name}".lstrip("/") + (f"#{branch}" if branch else "")
    return NetworkEncoder(
        model,
        Input(size),
        device,
        name=name,
        kind="file",
        digest=value_digest(
            {"encoder": "file", "network": architecture, "weights": weights_digest(model), "input": assumed}
        ),
        coverage=report(coverage, found, architecture, assumed),
        architecture=architecture,
    )


def imagenet_file(path: Path, size: int, device: torch.device, allow_partial: bool) -> NetworkEncoder:
    """Open a file of supervised ImageNet weights as the floor row `imagenet`; the network is read off the file."""
    found, architecture, model, coverage = _open(path, "", allow_partial)
    return imagenet_row(
        model, architecture, size, device, report(coverage, found, architecture, assumed_input(model, size))
    )


def imagenet_row(
    model: torch.nn.Module, architecture: str, size: int, device: torch.device, coverage: dict[str, Any]
) -> NetworkEncoder:
    """Make the floor row `imagenet` of a filled network."""
    return NetworkEncoder(
        model,
        Input(size),
        device,
        name=f"ImageNet ({architecture}, {size} px)",
        kind="floor",
        digest=value_digest(
            {"encoder": "imagenet", "network": architecture, "weights": weights_digest(model), "size": size}
        ),
        coverage=coverage,
        architecture=architecture,
    )


def report(coverage: Coverage, found: Found, architecture: str, assumed: dict[str, Any]) -> dict[str, Any]:
    """What a record keeps of how a file was understood."""
    aside = dict(list(found.aside.items())[:SHOWN])
    rest = sum(list(found.aside.values())[SHOWN:])
    return {
        **coverage.report(),
        "family": found.family,
        "architecture": architecture,
        "prefix": found.prefix,
        "branch": found.branch,
        "others": list(found.others[:SHOWN]),
        "left_aside": {**aside, "others": rest} if rest else aside,
        "assumed": assumed,
    }


def _open(path: Path, branch: str, allow_partial: bool) -> tuple[Found, str, torch.nn.Module, Coverage]:
    found = find_backbone(read_weights(path), branch)
    architecture = recognise(found.tensors)
    if architecture is None:
        counted = f"0 tensors loaded, {len(found.tensors)} unexpected"
        raise UserError(
            f"{path} holds a network under '{found.prefix}' that is not known here ({counted}): {known_backbones()} are; "
            f"another network of timm is opened with encoder=timm:NAME@{path}."
        )
    model, coverage = filled_backbone(architecture, found.tensors, path, allow_partial)
    return found, architecture, model, coverage


def assumed_input(model: torch.nn.Module, size: int, normalisation: str = "ImageNet") -> dict[str, Any]:
    """What no tensor of a file says: the input side in px, how colours are normalised, a transformer's attention heads."""
    assumed: dict[str, Any] = {"size": size, "normalisation": normalisation}
    blocks = getattr(model, "blocks", None)
    heads = (
        getattr(getattr(blocks[0], "attn", None), "num_heads", None)
        if isinstance(blocks, torch.nn.Sequential)
        else None
    )
    return {**assumed, "heads": heads} if heads else assumed
