"""Checkpoints: one file of tensors, written whole or not at all, with a `last` link (S11, S12)."""

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from pretrain.bank import MemoryBank
from pretrain.distributed import World
from results.errors import UserError
from results.files import replacing

KEEP = 2
BANK_PARTS = ("rows", "scale", "written")
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
    saved = sorted(folder.glob("step-*.pt"))
    kept = {name.stem.removeprefix("step-") for name in saved[-KEEP:]}
    spent = [name for name in folder.glob("banks-*.safetensors") if name.name.split("-")[1] not in kept]
    for old in (*saved[:-KEEP], *spent):
        with contextlib.suppress(FileNotFoundError):
            old.unlink()
    return path


def save_banks(folder: Path, step: int, banks: dict[str, MemoryBank], world: World) -> None:
    """Write this rank's rows of the banks that have files of their own; every rank calls it before rank 0 calls `save` (S11)."""
    tensors = {
        f"{name}.{part}": getattr(bank, part).contiguous()
        for name, bank in banks.items()
        if bank.in_files
        for part in BANK_PARTS
    }
    if tensors:
        with replacing(folder / f"banks-{step:08d}-{world.rank}-of-{world.size}.safetensors") as temporary:
            save_file(tensors, temporary)


def load_banks(folder: Path, step: int, banks: dict[str, MemoryBank], world: World) -> None:
    """Read back what `save_banks` wrote; the number of ranks may have changed.

    Raises:
        UserError: when a file is missing or does not fit.
    """
    wanted = {name: bank for name, bank in banks.items() if bank.in_files}
    if not wanted:
        return
    files = sorted(folder.glob(f"banks-{step:08d}-*-of-*.safetensors"))
    ranks = {int(file.stem.split("-")[-1]) for file in files}
    if len(ranks) != 1 or len(files) != next(iter(ranks)):
        raise UserError(
            f"{folder} lacks some of the bank files of step {step} ({len(files)} found): restore them, or train again."
        )
    for file in files:
        rank, before = (int(file.stem.split("-")[place]) for place in (-3, -1))
        try:
            with safe_open(file, framework="pt") as saved:
                for name, bank in wanted.items():
                    ids = torch.arange(rank, len(bank), before)
                    mine = ids % bank.step == bank.first
                    for part in BANK_PARTS:
                        target, value = getattr(bank, part), saved.get_tensor(f"{name}.{part}")
                        if len(target) or len(value):
                            target[(ids[mine] // bank.step).to(target.device)] = value[mine].to(target)
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"bank file {file} does not fit ({reason}): restore it, or train again.") from error


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
