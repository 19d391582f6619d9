"""Networks by the name of a library: `timm:NAME` and `torchvision:NAME`, with weights from a file or, when asked, fetched."""

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
import torchvision

from results.errors import UserError
from results.files import value_digest
from transfer.encoders.architectures import RESNETS, TIMM, build_backbone, common_name, recognise
from transfer.encoders.families import DIALECTS, Dialect, Found, find_backbone
from transfer.encoders.foreign import assumed_input, imagenet_row, report
from transfer.encoders.network import Input, NetworkEncoder, filled_backbone, weights_digest
from transfer.encoders.specs import split_branch
from transfer.encoders.weights import read_weights, require_file

TORCHVISION = "torchvision:"
FIRST_WEIGHTS = "IMAGENET1K_V1"
"""Torchvision's tag where none is written."""


@dataclass(frozen=True)
class Named:
    """A network of a library: our name of it, its input, and how a message calls the latter."""

    spec: str
    architecture: str
    source: Input
    normalisation: str


def named_encoder(spec: str, size: int, device: torch.device, download: bool, allow_partial: bool) -> NetworkEncoder:
    """Open `timm:NAME` or `torchvision:NAME` (`resnet50`, `resnet50.a1_in1k`) with `download`, or `...NAME@FILE[#BRANCH]` without.

    Raises:
        UserError: the library has no such network or weights, neither a file nor `download` is given, or the file does not fit.
    """
    named, file = look_up(spec, size, download)
    library, _, rest = spec.partition(":")
    if file:
        found, where = _from_file(file, named), file
    else:
        found, where = _fetched(named, _fetch_timm if f"{library}:" == TIMM else _fetch_torchvision), "the download"
    model, coverage = filled_backbone(named.architecture, found.tensors, where, allow_partial)
    source = named.source
    assumed = assumed_input(model, source.size, named.normalisation)
    identity = {"size": source.size, "mean": source.mean, "std": source.std}
    return NetworkEncoder(
        model,
        source,
        device,
        name=spec if not file else f"{library}:{rest.partition('@')[0]}@{Path(file).name}",
        kind="file",
        digest=value_digest(
            {"encoder": "file", "network": named.architecture, "weights": weights_digest(model), "input": identity}
        ),
        coverage=report(coverage, found, named.architecture, assumed),
        architecture=named.architecture,
    )


def look_up(spec: str, size: int, download: bool) -> tuple[Named, str]:
    """Return the network that a spec names and its file, `FILE#BRANCH`; the file is empty where weights are to be fetched.

    Raises:
        UserError: as `named_encoder`, but for what the file holds.
    """
    library, _, rest = spec.partition(":")
    name, _, file = rest.partition("@")
    if not name:
        raise UserError(f"encoder={library}: names no network: write {library}:resnet50@FILE, for example.")
    named = (_of_timm if f"{library}:" == TIMM else _of_torchvision)(name, size)
    if file:
        require_file(split_branch(file)[0])
    elif not download:
        raise UserError(
            f"encoder={spec} comes with no weights: give encoder={library}:{name}@FILE or download=true; an untrained network is encoder=random."
        )
    return named, file


def imagenet_download(backbone: str, size: int, device: torch.device, allow_partial: bool) -> NetworkEncoder:
    """Fetch torchvision's ImageNet weights as the floor row `imagenet`."""
    if backbone not in RESNETS:
        raise UserError(
            f"ImageNet weights of {backbone} are not fetched: give imagenet=FILE, or encoder=[...] without imagenet."
        )
    named = _of_torchvision(backbone, size)
    found = _fetched(named, _fetch_torchvision)
    model, coverage = filled_backbone(backbone, found.tensors, "the download", allow_partial)
    return imagenet_row(
        model,
        backbone,
        size,
        device,
        report(coverage, found, backbone, assumed_input(model, size, named.normalisation)),
    )


def _of_timm(name: str, size: int) -> Named:
    import timm

    architecture = common_name(name)
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{name.partition('.')[0]}.*")]
        asked = name.partition(".")[2]
        near = tags if len(tags) <= 6 else get_close_matches(asked, tags, 6) or tags[:6]
        more = f" and {len(tags) - len(near)} more" if len(tags) > len(near) else ""
        raise UserError(
            f"timm has no weights '{name}': {', '.join(near) or 'none'}{more} are the tags it knows."
        ) from error
    if config is None:
        return Named(f"{TIMM}{name}", architecture, Input(size), "ImageNet")
    side = config.input_size[-1] if architecture.startswith(TIMM) and config.fixed_input_size else size
    tag = f".{config.tag}" if config.tag else ""
    source = Input(side, tuple(config.mean), tuple(config.std))
    return Named(f"{TIMM}{name}", architecture, source, f"timm's for {config.architecture}{tag}")


def _of_torchvision(name: str, size: int) -> Named:
    architecture, _, tag = name.partition(".")
    if architecture not in RESNETS:
        near = get_close_matches(architecture, RESNETS, n=1)
        raise UserError(
            f"{TORCHVISION}{name} is not taken from torchvision: {near[0] if near else ', '.join(RESNETS)} is; give {TIMM}NAME for another network."
        )
    tags = torchvision.models.get_model_weights(architecture).__members__
    if (tag or FIRST_WEIGHTS) not in tags:
        raise UserError(f"torchvision has no weights '{tag}' of {architecture}: choose {', '.join(tags)}.")
    return Named(f"{TORCHVISION}{architecture}.{tag or FIRST_WEIGHTS}", architecture, Input(size), "ImageNet")


def _from_file(text: str, named: Named) -> Found:
    path, branch = split_branch(text)
    if named.architecture.startswith(TIMM):
        anchor = next(iter(build_backbone(named.architecture).state_dict()))
        return find_backbone(read_weights(path), branch, [Dialect(anchor)])
    found = find_backbone(read_weights(path), branch, DIALECTS)
    recognised = recognise(found.tensors) or ""
    if recognised.endswith("heads") and recognised != named.architecture:
        raise UserError(
            f"{path} is a {recognised}, which {named.spec} is not though its names are: write encoder={path}."
        )
    return found


def _fetched(named: Named, fetch: Any) -> Found:
    try:
        tensors = fetch(named)
    except UserError:
        raise
    except Exception as error:  # whatever the library's network code raises
        raise UserError(
            f"the weights of {named.spec} could not be downloaded ({' '.join(str(error).split())[:200]}): fetch them elsewhere and "
            f"give encoder={named.spec}@FILE, or give imagenet=FILE where it is the ImageNet row."
        ) from error
    return Found("download", "", "", (), tensors, {})


def _fetch_torchvision(named: Named) -> dict[str, torch.Tensor]:
    architecture, _, tag = named.spec.removeprefix(TORCHVISION).partition(".")
    chosen = torchvision.models.get_model_weights(architecture)[tag]
    return torch.hub.load_state_dict_from_url(chosen.url, progress=False, check_hash=True, weights_only=True)


def _fetch_timm(named: Named) -> dict[str, torch.Tensor]:
    """Let timm fetch (safetensors, or tensors only); it would return an untrained network where it has no weights."""
    import timm

    name = named.spec.removeprefix(TIMM)
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise UserError(f"timm has no weights of {name}: give encoder={named.spec}@FILE, or encoder=random.")
    return timm.create_model(name, pretrained=True, num_classes=0).state_dict()
