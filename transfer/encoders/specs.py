"""From what a person writes after `encoder=` to open encoders."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from results.errors import UserError
from transfer.encoders.base import Encoder
from transfer.encoders.cards import newest, newest_of_each, open_export
from transfer.encoders.colour import ColourHistogram, MeanRgb

if TYPE_CHECKING:
    import torch

DOWNLOADS = ("resnet18", "resnet50")
"""Backbones whose ImageNet weights torchvision offers."""
COLOUR = {"mean_rgb": MeanRgb, "colour_histogram": ColourHistogram}


@dataclass(frozen=True)
class EncoderOptions:
    """What opening an encoder may depend on besides its spec.

    Attributes:
        work: folder whose `runs` are searched by `latest` and `all`.
        imagenet: path of torchvision weights, or None.
        download: whether ImageNet weights may be fetched.
        allow_partial: whether a file may leave tensors of the network untouched.
        device: `auto`, `cpu` or `cuda`.
        seed: seeds untrained networks, together with the trial.
        backbone: architecture of `random` and of a downloaded `imagenet`.
        size: their input side in px.
    """

    work: Path = Path("work")
    imagenet: str | None = None
    download: bool = False
    allow_partial: bool = False
    device: str = "auto"
    seed: int = 0
    backbone: str = "resnet18"
    size: int = 224


def open_encoder(spec: str, options: EncoderOptions, trial: int = 0) -> Encoder:
    """Open one encoder.

    Args:
        spec: a run folder, a `backbone.safetensors`, `latest` (or `latest:METHOD:COHORT:SEED`, any tail left out or empty),
            `random`, `imagenet`, `mean_rgb` or `colour_histogram`.
        options: where to look and how to load.
        trial: which draw of `random`.

    Raises:
        UserError: when nothing is there, or what is there does not fit.
    """
    if spec in COLOUR:
        return COLOUR[spec]()
    from transfer.encoders import network

    device: torch.device = network.choose_device(options.device)
    if spec == "random":
        return network.RandomEncoder(options.backbone, options.size, options.seed, device, trial)
    if spec == "imagenet":
        if not options.imagenet and not options.download:
            raise UserError("encoder=imagenet needs imagenet=FILE (torchvision weights) or download=true.")
        path = Path(options.imagenet) if options.imagenet else None
        return network.imagenet_encoder(path, options.backbone, options.size, device, options.allow_partial)
    path, kind = _locate(spec, options.work)
    export = open_export(path)
    return network.export_encoder(export.weights, export.card, export.name, kind, device, options.allow_partial)


def _locate(spec: str, work: Path) -> tuple[Path, str]:
    if spec == "latest" or spec.startswith("latest:"):
        parts = spec.split(":")[1:]
        if len(parts) > 3:
            raise UserError(f"'{spec}' has too many parts: write latest:METHOD:COHORT:SEED.")
        return newest(work, *parts), "run"
    path = Path(spec)
    return path, "run" if path.is_dir() else "file"


def open_encoders(specs: Iterable[str], options: EncoderOptions, floors: bool) -> tuple[list[Encoder], list[str]]:
    """Open the asked encoders and, with `floors`, the floor rows that belong beside them.

    `all` stands for the newest export of every (method, cohort, seed). Untrained and ImageNet rows take the architecture and
    input side of each asked network, so that they differ from it by their weights only.

    Returns:
        the encoders (one per digest, asked ones first) and the lines that say which row is absent and why.
    """
    asked: list[str] = []
    for spec in specs:
        asked += [str(run) for run in newest_of_each(options.work)] if spec == "all" else [spec]
    asked = list(dict.fromkeys(asked))
    if not asked:
        raise UserError(
            "no encoder was named: give encoder=latest, a folder, or a list such as encoder=[latest,random]."
        )
    trained = [open_encoder(spec, options) for spec in asked if spec not in (*COLOUR, "random", "imagenet")]
    shapes = list(dict.fromkeys((e.card["backbone"], e.card["input"]["size"]) for e in trained if e.card))
    settings = [replace(options, backbone=backbone, size=size) for backbone, size in shapes] or [options]
    wanted = [spec for spec in asked if spec in (*COLOUR, "random", "imagenet")]
    lines = []
    if floors:
        wanted += ["random", "mean_rgb", "colour_histogram"]
        if options.imagenet or options.download:
            wanted.append("imagenet")
        else:
            lines.append("no ImageNet row: give imagenet=FILE (torchvision weights) or download=true to have one")
    pairs = [(spec, setting) for spec in dict.fromkeys(wanted) for setting in settings]
    for spec, setting in list(pairs):
        if floors and spec == "imagenet" and not setting.imagenet and setting.backbone not in DOWNLOADS:
            pairs.remove((spec, setting))
            lines.append(f"no ImageNet row for {setting.backbone}: torchvision has no such weights")
    opened = trained + [open_encoder(spec, setting) for spec, setting in pairs]
    return list({encoder.digest: encoder for encoder in opened}.values()), lines
