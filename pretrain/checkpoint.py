"""Checkpoints: one file of tensors, written whole or not at all, with a `last` link (S11, S12)."""

import contextlib
import os
import re
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
MISFITS = (AttributeError, KeyError, RuntimeError, TypeError, ValueError)
"""What loading tensors that do not fit may raise."""
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
    pattern = re.compile(rf"banks-{step:08d}-(\d+)-of-(\d+)\.safetensors")
    found = [pattern.fullmatch(file.name) for file in sorted(folder.glob("banks-*"))]
    files = [(folder / match[0], int(match[1]), int(match[2])) for match in found if match]
    before = files[0][2] if files else 0
    if not files or {(rank, count) for _, rank, count in files} != {(rank, before) for rank in range(before)}:
        raise UserError(
            f"{folder} lacks some of the bank files of step {step} ({len(files)} found): restore them, or train again."
        )
    for file, rank, _ in files:
        try:
            with safe_open(file, framework="pt") as saved:
                for name, bank in wanted.items():
                    _load_rows(bank, rank, before, {part: saved.get_tensor(f"{name}.{part}") for part in BANK_PARTS})
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"bank file {file} does not fit ({reason}): restore it, or train again.") from error


def _load_rows(bank: MemoryBank, rank: int, before: int, saved: dict[str, Tensor]) -> None:
    """Put the rows that rank `rank` of `before` kept into a bank, as far as they are this rank's."""
    ids = torch.arange(rank, len(bank), before)
    mine = ids % bank.step == bank.first
    for part, value in saved.items():
        target = getattr(bank, part)
        shape = (len(ids) if part != "scale" or bank.rows.dtype == torch.int8 else 0, *target.shape[1:])
        if value.shape != shape or value.dtype != target.dtype:
            raise ValueError(f"its {part} are {_kind(value)}, {_kind(target.new_empty(shape))} are expected")
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ValueError(f"its {part} are not all finite")
        if len(value):
            target[(ids[mine] // bank.step).to(target.device)] = value[mine].to(target.device)


def _kind(tensor: Tensor) -> str:
    return f"{'x'.join(map(str, tensor.shape)) or 'single'} {str(tensor.dtype).removeprefix('torch.')}"


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
        if not _is_checkpoint(content):
            raise ValueError("it holds something else")
    except Exception as error:
        older = [p.name for p in saved if p != path]
        hint = f"point {last} at {older[-1]}" if older else "delete the run folder and train again"
        raise UserError(f"checkpoint {path} is damaged ({type(error).__name__}): {hint}.") from error
    return content


def _is_checkpoint(content: Any) -> bool:
    """Whether a file's content has the parts of a checkpoint, and a place in the run that can be."""
    if not isinstance(content, dict) or not content.keys() >= KEYS:
        return False
    progress, buffers = content["progress"], content["buffers"]
    counts = ("epoch", "batch", "step", "tiles_seen", "device_seconds")
    return (
        all(isinstance(content[part], dict) for part in ("progress", "parameters", "memory", "optimiser"))
        and all(isinstance(progress.get(name), int | float) and progress[name] >= 0 for name in counts)
        and isinstance(progress.get("numbers"), dict)
        and isinstance(buffers, list)
        and len(buffers) > 0
        and all(isinstance(one, dict) for one in buffers)
    )


def restore_method(content: dict[str, Any], method: Any, rank: int | None = None) -> None:
    """Put the weights, batch norm statistics and memory of a loaded checkpoint into a method.

    Args:
        rank: whose batch norm statistics; None, and a rank that was not there before, takes their mean.

    Raises:
        KeyError, RuntimeError, TypeError, ValueError: when they do not fit.
    """
    saved, memory = content["buffers"], content["memory"]
    buffers = saved[rank] if rank is not None and rank < len(saved) else mean_buffers(saved)
    method.load_state_dict(content["parameters"] | buffers, strict=True)
    for name, value in method.memory().items():
        if memory[name].shape != value.shape or memory[name].dtype != value.dtype:
            raise ValueError(f"its {name} is {_kind(memory[name])}, {_kind(value)} is expected")
    method.load_memory(memory)


def restore(content: dict[str, Any], method: Any, optimiser: torch.optim.Optimizer, rank: int) -> Progress:
    """Put a loaded checkpoint back; a rank that was not there before takes the mean batch norm statistics."""
    try:
        restore_method(content, method, rank)
        optimiser.load_state_dict(content["optimiser"])
        return Progress(**content["progress"])
    except MISFITS as error:
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
