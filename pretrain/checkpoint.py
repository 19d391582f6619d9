"""Checkpoints: one file of tensors, written whole or not at all, with a `last` link (S11, S12)."""

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from results.errors import UserError
from results.files import replacing

KEEP = 2
KEYS = {"progress", "parameters", "buffers", "memory", "optimiser"}


@dataclass
class Progress:
    """Where a run stands: `step` optimiser steps are done, `batch` of them in epoch `epoch`."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    tiles_seen: int = 0
    device_seconds: float = 0.0
    numbers: dict[str, float] = field(default_factory=dict)


def save(
    folder: Path, progress: Progress, method: Any, optimiser: torch.optim.Optimizer, buffers: list[dict[str, Tensor]]
) -> Path:
    """Write `step-XXXXXXXX.pt`, point `last` at it and drop all but the newest two.

    Args:
        buffers: batch norm statistics of every rank; they differ between ranks and come back to them on resume.
    """
    path = folder / f"step-{progress.step:08d}.pt"
    content = {
        "progress": vars(progress),
        "parameters": {name: value.detach() for name, value in method.named_parameters()},
        "buffers": buffers,
        "memory": method.memory(),
        "optimiser": optimiser.state_dict(),
    }
    with replacing(path) as temporary:
        torch.save(content, temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
    with replacing(folder / "last") as link:
        link.symlink_to(path.name)
    for old in sorted(folder.glob("step-*.pt"))[:-KEEP]:
        with contextlib.suppress(FileNotFoundError):
            old.unlink()
    return path


def load(folder: Path) -> dict[str, Any] | None:
    """Read the newest checkpoint on the CPU, None when there is none.

    Raises:
        UserError: when it is damaged; it names the file and the older one to fall back on.
    """
    saved = sorted(folder.glob("step-*.pt"))
    if not saved:
        return None
    last = folder / "last"
    path = last.resolve() if last.exists() else saved[-1]
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(content, dict) or not content.keys() >= KEYS:
            raise ValueError("it holds something else")
    except Exception as error:
        older = [p.name for p in saved if p != path]
        hint = f"point {last} at {older[-1]}" if older else "delete the run folder and train again"
        raise UserError(f"checkpoint {path} is damaged ({type(error).__name__}): {hint}.") from error
    return content


def restore(content: dict[str, Any], method: Any, optimiser: torch.optim.Optimizer, rank: int) -> Progress:
    """Put a loaded checkpoint back; a rank that was not there before takes the mean batch norm statistics."""
    saved = content["buffers"]
    buffers = saved[rank] if rank < len(saved) else mean_buffers(saved)
    try:
        method.load_state_dict(content["parameters"] | buffers, strict=True)
        method.load_memory(content["memory"])
        optimiser.load_state_dict(content["optimiser"])
        return Progress(**content["progress"])
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"the run's checkpoint does not fit its settings ({reason}): delete the run folder and train again."
        ) from error


def mean_buffers(buffers: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Average the ranks' batch norm statistics; counters are taken from the first."""
    first = buffers[0]
    if len(buffers) == 1:
        return first
    return {
        name: torch.stack([b[name] for b in buffers]).mean(0) if value.is_floating_point() else value
        for name, value in first.items()
    }
