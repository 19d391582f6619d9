"""From what a person writes after `encoder=` to open encoders."""

import re
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

LIBRARIES = ("timm:", "torchvision:")
NO_IMAGENET = "encoder=imagenet needs imagenet=FILE (torchvision weights) or download=true."
COLOUR = {"mean_rgb": MeanRgb, "colour_histogram": ColourHistogram}


@dataclass(frozen=True)
class EncoderOptions:
    """What opening an encoder may depend on besides its spec.

    Attributes:
        work: folder whose `runs` are searched by `latest`, `all` and names of runs.
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
        spec: a run folder or its name under `work`/runs, a weight file (`FILE#BRANCH` where it holds several networks), `timm:NAME` or `torchvision:NAME` (with
            `@FILE`, or `options.download`), `latest` (or `latest:METHOD:COHORT:SEED`, any tail left out or empty), `random`,
            `imagenet`, `mean_rgb` or `colour_histogram`.
        options: where to look and how to load.
        trial: which draw of `random`.

    Raises:
        UserError: when nothing is there, or what is there does not fit.
    """
    _check_words(spec)
    if spec in COLOUR:
        return COLOUR[spec]()
    from transfer.encoders import foreign, network, pretrained

    device: torch.device = network.choose_device(options.device)
    if spec == "random":
        return network.RandomEncoder(options.backbone, options.size, options.seed, device, trial)
    if spec == "imagenet":
        return _imagenet(options, device)
    if spec.startswith(LIBRARIES):
        return pretrained.named_encoder(spec, options.size, device, options.download, options.allow_partial)
    path, kind, branch = _locate(spec, options.work)
    if kind == "run" or not path.is_file() or (not branch and _has_card(path)):
        export = open_export(path)
        return network.export_encoder(export, kind, device, options.allow_partial)
    return foreign.file_encoder(path, branch, options.size, device, options.allow_partial)


def _imagenet(options: EncoderOptions, device: "torch.device") -> Encoder:
    from transfer.encoders import foreign, pretrained

    if not options.imagenet:
        if not options.download:
            raise UserError(NO_IMAGENET)
        return pretrained.imagenet_download(options.backbone, options.size, device, options.allow_partial)
    return foreign.imagenet_file(_imagenet_path(options.imagenet), options.size, device, options.allow_partial)


def _imagenet_path(text: str) -> Path:
    path = Path(text)
    if not path.is_file():
        raise UserError(
            f"imagenet={path} is not a file: give torchvision weights as .safetensors or .pth, or download=true."
        )
    return path


def _locate(spec: str, work: Path) -> tuple[Path, str, str]:
    """Return the path, `run` or `file`, and the branch that was asked for."""
    if spec == "latest" or spec.startswith("latest:"):
        parts = spec.split(":")[1:]
        if len(parts) > 3:
            raise UserError(f"'{spec}' has too many parts: write latest:METHOD:COHORT:SEED.")
        return newest(work, *parts), "run", ""
    path, branch = split_branch(spec)
    run = work / "runs" / spec
    if not path.exists() and Path(spec).name == spec and run.is_dir():
        path, branch = run, ""
    return path, "run" if path.is_dir() else "file", branch


def split_branch(text: str) -> tuple[Path, str]:
    """Split `FILE#BRANCH`; a file that has `#` in its own name is taken as it is."""
    if Path(text).exists() or "#" not in text:
        return Path(text), ""
    path, _, branch = text.rpartition("#")
    return Path(path), branch


def _has_card(path: Path) -> bool:
    return path.suffix == ".safetensors" and path.with_name("card.json").is_file()


def open_encoders(
    specs: Iterable[str], options: EncoderOptions, floors: bool, dense: bool = False
) -> tuple[list[Encoder], list[str]]:
    """Open the asked encoders and, with `floors`, the floor rows that belong beside them.

    `all` stands for the newest export of every (method, cohort, seed). Untrained and ImageNet rows take the architecture and
    input side of each asked network, so that they differ from it by their weights only.

    Args:
        specs: as `open_encoder` takes them, or `all`.
        options: where to look and how to load.
        floors: whether to add them.
        dense: whether a network is needed, which leaves the colour floors out.

    Returns:
        the encoders (one per digest, asked ones first) and lines to print: the coverage of every file that was opened, and
        which row is absent and why.
    """
    specs = list(specs)
    asked = _expanded(specs, options.work)
    fixed = (*COLOUR, "random", "imagenet")
    trained = [open_encoder(spec, options) for spec in asked if spec not in fixed]
    shapes = list(dict.fromkeys((encoder.architecture, encoder.size) for encoder in trained))
    settings = [replace(options, backbone=backbone, size=size) for backbone, size in shapes] or [options]
    wanted = [spec for spec in asked if spec in fixed]
    lines = _left_out(options.work) if "all" in specs else []
    if floors:
        wanted += ["random"] if dense else ["random", *COLOUR]
        if options.imagenet or options.download:
            wanted.append("imagenet")
        else:
            lines.append("no ImageNet row: give imagenet=FILE (torchvision weights) or download=true to have one")
    pairs = [(spec, setting) for spec in dict.fromkeys(wanted) for setting in settings]
    for spec, setting in list(pairs):
        if floors and spec == "imagenet" and not setting.imagenet and not _downloads(setting.backbone):
            pairs.remove((spec, setting))
            lines.append(f"no ImageNet row for {setting.backbone}: torchvision has no such weights")
    opened = trained + [open_encoder(spec, setting) for spec, setting in pairs]
    encoders = list({encoder.digest: encoder for encoder in opened}.values())
    runs = [
        f"{encoder.name}: run {encoder.run}, seed {(encoder.card or {}).get('seed')}"
        for encoder in encoders
        if getattr(encoder, "run", None)
    ]
    return encoders, [line for encoder in encoders for line in coverage_of(encoder)] + runs + lines


def check_specs(specs: Iterable[str], options: EncoderOptions) -> None:
    """Find out before any long step whether what is asked for is there; `open_encoders` looks closer. Names of libraries alone need torch.

    Raises:
        UserError: a name or a path leads nowhere, a name comes without weights, or a run was not exported.
    """
    if options.imagenet:
        _imagenet_path(options.imagenet)
    for spec in _expanded(specs, options.work):
        if spec == "imagenet" and not options.imagenet and not options.download:
            raise UserError(NO_IMAGENET)
        if spec in (*COLOUR, "random", "imagenet"):
            continue
        if spec.startswith(LIBRARIES):
            from transfer.encoders import pretrained

            pretrained.look_up(spec, options.size, options.download)
            continue
        path, kind, branch = _locate(spec, options.work)
        if kind == "run" or not path.is_file() or (not branch and _has_card(path)):
            open_export(path)


def _expanded(specs: Iterable[str], work: Path) -> list[str]:
    asked: list[str] = []
    for spec in specs:
        asked += [str(run) for run in newest_of_each(work)[0]] if spec == "all" else [spec]
    for spec in asked:
        _check_words(spec)
    if not asked:
        raise UserError(
            "no encoder was named: give encoder=latest, a folder, or a list such as encoder=[latest,random]."
        )
    return list(dict.fromkeys(asked))


def _left_out(work: Path) -> list[str]:
    why = newest_of_each(work)[1]
    said = ", ".join(f"{run} ({reason})" for run, reason in why.items())
    return [f"encoder=all leaves out {said}".encode("utf-8", "backslashreplace").decode()] if why else []


def _check_words(spec: str) -> None:
    """Refuse what YAML makes of `encoder=` and of `encoder=timm:`, where a name is still to come, and of nested lists."""
    bare = re.fullmatch(r"\{'(.*)': None\}", spec)
    if bare:
        raise UserError(f"encoder={bare[1]}: stops at its colon: write {bare[1]}:NAME, for example timm:resnet50@FILE.")
    if spec.strip() in ("", "None"):
        raise UserError("encoder= is empty: give encoder=latest, a folder, a weight file or timm:NAME@FILE.")
    if spec.startswith(("[", "{")) and not Path(spec).exists():
        raise UserError(
            f"encoder={spec} is no name: write encoder=[a,b] with names or paths, without further brackets."
        )


def _downloads(backbone: str) -> bool:
    from transfer.encoders.architectures import RESNETS

    return backbone in RESNETS


def coverage_of(encoder: Encoder) -> list[str]:
    """Return the lines that say what of a file found its place in the network; none where nothing is loaded."""
    if encoder.coverage is None:
        return []
    from transfer.encoders.coverage import coverage_lines

    return coverage_lines(encoder.name, encoder.coverage)
