"""What of a file found its place in a network, stage by stage, and what is refused."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from results.errors import UserError

OPTIONAL = "num_batches_tracked"
"""Batch-norm counters play no part in inference, so a file may leave them out."""
STAGES = {"conv1": "stem", "bn1": "stem", "cls_token": "patch embedding", "pos_embed": "patch embedding", "patch_embed": "patch embedding"}  # fmt: skip
"""First part of a name -> stage, where they differ."""
SHOWN = 200
"""Letters of a tensor's name that a message shows."""
HEADS = re.compile(
    r"fc|heads?|last_layer|classifier|online_classifier|project(or|ion)\w*|predict(or|ion)\w*|prototypes\w*|queue\w*"
    r"|decoder\w*|mask_token|masked_embed|mlp|head_dist"
)
"""First part of the names of what training put on top of (or beside) a backbone."""


@dataclass(frozen=True)
class Coverage:
    """Names that met (or not) between a network and a file; a tensor of the wrong shape counts as missing and is marked so.

    Attributes:
        loaded: number of tensors, as all counts here without batch-norm counters.
        missing, unexpected: names.
        stages: stage -> (loaded, all), in the network's order.
        heads: names of dropped heads -> number of tensors.
    """

    loaded: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    stages: Mapping[str, tuple[int, int]]
    heads: Mapping[str, int]

    @property
    def share(self) -> float:
        """Loaded tensors (weights and batch-norm statistics) over all that the network has, 0 to 1."""
        return self.loaded / (self.loaded + len(self.missing))

    @property
    def complete(self) -> bool:
        return not self.missing and not self.unexpected

    def report(self) -> dict[str, Any]:
        """What a record keeps of it."""
        counts = {"loaded": self.loaded, "missing": len(self.missing), "unexpected": len(self.unexpected)}
        stages = {stage: list(pair) for stage, pair in self.stages.items()}
        return {"share": round(self.share, 6), **counts, "stages": stages, "dropped_heads": dict(self.heads)}

    def __str__(self) -> str:
        counts = (
            f"{self.loaded} tensors loaded, {len(self.missing)} missing, {len(self.unexpected)} unexpected; by stage: "
        )
        return counts + _by_stage(self.stages)


def _by_stage(stages: Mapping[str, Iterable[int]]) -> str:
    return ", ".join("{} {}/{}".format(stage, *pair) for stage, pair in stages.items())


def _stage(name: str) -> str:
    first = name.partition(".")[0]
    return STAGES.get(first, first)


def load_weights(model: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> Coverage:
    """Copy every tensor whose name and shape fit into `model` and report the rest."""
    own = model.state_dict()
    fitting = {name: value for name, value in weights.items() if name in own and _fits(value, own[name])}
    model.load_state_dict(fitting, strict=False)
    expected = [name for name in own if not name.endswith(OPTIONAL)]
    missing = [
        name if name not in weights else f"{name} {_shape(weights[name])} instead of {_shape(own[name])}"
        for name in expected
        if name not in fitting
    ]
    total = Counter(_stage(name) for name in expected)
    loaded = Counter(_stage(name) for name in expected if name in fitting)
    strange = [name for name in weights if name not in own and not name.endswith(OPTIONAL)]
    heads = Counter(name.partition(".")[0] for name in strange if HEADS.fullmatch(name.partition(".")[0]))
    unexpected = [name for name in strange if name.partition(".")[0] not in heads]
    stages = {stage: (loaded[stage], count) for stage, count in total.items()}
    return Coverage(len(expected) - len(missing), tuple(missing), tuple(unexpected), stages, heads)


def _fits(value: torch.Tensor, own: torch.Tensor) -> bool:
    same_kind = value.is_floating_point() or not (own.is_floating_point() or value.is_complex())
    return value.shape == own.shape and same_kind and value.layout == torch.strided and not value.is_quantized


def _shape(value: torch.Tensor) -> str:
    kind = "" if value.is_floating_point() else f" {str(value.dtype).removeprefix('torch.')}"
    layout = "" if value.layout == torch.strided else f" {str(value.layout).removeprefix('torch.')}"
    return f"{tuple(value.shape)}{kind}{layout}"


def require_complete(coverage: Coverage, path: Path | str, backbone: str, allow_partial: bool) -> None:
    """Raise a UserError with the report and the first names that do not fit, unless `allow_partial` and something fits."""
    if coverage.complete or (allow_partial and coverage.loaded):
        return
    parts = [
        f"{word} {', '.join(name[:SHOWN] for name in names[:3])}{', ...' if len(names) > 3 else ''}"
        for word, names in (("missing", coverage.missing), ("unexpected", coverage.unexpected))
        if names
    ]
    raise UserError(
        f"{path} does not fit {backbone} ({coverage}; {'; '.join(parts)}): give whole weights of a known network, or allow_partial=true."
    )


def require_sound(model: torch.nn.Module, path: Path | str) -> None:
    """Refuse weights that no training leaves behind: not finite, a negative variance, or a kernel of one repeated number."""
    for name, value in model.state_dict().items():
        if not value.is_floating_point():
            continue
        if not value.isfinite().all():
            raise UserError(
                f"{path} has numbers in {name} that are not finite: its training diverged or it is damaged."
            )
        if name.endswith("running_var") and (value < 0).any():
            raise UserError(f"{path} has negative variances in {name}: the file is damaged or its names are mixed up.")
        if value.ndim > 1 and value.numel() > 1 and name.endswith(".weight") and (value == value.flatten()[0]).all():
            raise UserError(f"{path} has one number all over {name}: these are not trained weights.")


def coverage_lines(name: str, report: Mapping[str, Any] | None) -> list[str]:
    """Lay the coverage of an encoder, as records keep it, out for people; an encoder that loads nothing has no lines."""
    if not report:
        return []
    total = report["loaded"] + report["missing"]
    source = ", ".join(report[key] for key in ("family", "architecture") if report.get(key))
    head = f"{name}: {report['loaded']} of {total} tensors loaded ({100 * report['share']:.4g} %)"
    lines = [head + (f", {source}" if source else ""), f"  by stage: {_by_stage(report['stages'])}"]
    if report["unexpected"]:
        lines.append(f"  unexpected: {report['unexpected']} tensors")
    if report.get("prefix"):
        names = list(report.get("others") or ())
        more = [f"{len(names) - 6} more"] if len(names) > 6 else []
        others = f" (also there: {', '.join(names[:6] + more)}; FILE#NAME takes one)" if names else ""
        lines.append(f"  taken from: {report['prefix']}{others}")
    for key, word in (("dropped_heads", "dropped heads"), ("left_aside", "left aside")):
        if report.get(key):
            counts = [f"{part} ({count})" for part, count in report[key].items()]
            lines.append(
                f"  {word}: {', '.join(counts[:6])}" + (f", {len(counts) - 6} more" if len(counts) > 6 else "")
            )
    if report.get("assumed"):
        lines.append("  assumed: " + ", ".join(f"{key} {value}" for key, value in report["assumed"].items()))
    return lines
