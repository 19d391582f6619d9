"""The processes of one run: who am I, and the few exchanges that training needs."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from results.errors import PATIENCE, UserError


@dataclass(frozen=True)
class World:
    """Rank, number of processes and device of this process. `World()` is a single process on the CPU."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009 (immutable)

    def gather(self, tensor: Tensor) -> Tensor:
        """Concatenate equally shaped tensors of all ranks along the first axis, in rank order."""
        if self.size == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def exchange(self, tensor: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Send `counts[r]` consecutive rows of (n, ...) to every rank r, and receive theirs.

        Args:
            counts: (W,) int64, summing to n.

        Returns:
            what the ranks sent, in rank order; (W,) how many rows each sent.
        """
        if self.size == 1:
            return tensor, counts
        received = torch.empty_like(counts)
        dist.all_to_all_single(received, counts)
        out = tensor.new_empty(int(received.sum()), *tensor.shape[1:])
        dist.all_to_all_single(out, tensor.contiguous(), received.tolist(), counts.tolist())
        return out, received

    def gather_objects(self, value: Any) -> list[Any]:
        """Collect one small Python value per rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def broadcast(self, tensor: Tensor) -> Tensor:
        """Overwrite `tensor` on every rank with rank 0's."""
        if self.size > 1:
            dist.broadcast(tensor, 0)
        return tensor

    def share(self, value: Any) -> Any:
        """Return rank 0's Python value on every rank."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, 0)
        return box[0]

    def max(self, value: int) -> int:
        """The largest of the ranks' numbers, on every rank."""
        if self.size == 1:
            return value
        vote = torch.tensor([value], device=self.device)
        dist.all_reduce(vote, dist.ReduceOp.MAX)
        return int(vote.item())


def pick_device(name: str, local_rank: int = 0) -> torch.device:
    """Resolve `auto`, `cpu` or `cuda` to the device of this process."""
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"device={name} is not known: choose auto, cpu or cuda.")
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(
            "device=cuda was asked for, but PyTorch sees no CUDA device: use device=cpu or mend the driver."
        )
    if local_rank >= torch.cuda.device_count():
        raise UserError(
            f"process {local_rank} has no GPU of its own: only {torch.cuda.device_count()} are visible; start fewer processes."
        )
    return torch.device("cuda", local_rank)


def under_torchrun() -> bool:
    """Whether a launcher such as torchrun has set this process's rank."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


PEER_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")
"""What gloo says in the ranks that are left when one has died."""


@contextmanager
def joined(device: str) -> Iterator[World]:
    """Be in the process group that torchrun announces (nccl on CUDA, gloo on CPU) for the block; alone without torchrun.

    Raises:
        UserError: for a device that is not there, or where another rank is gone.
    """
    if not under_torchrun():
        yield World(device=pick_device(device))
        return
    chosen = pick_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=timedelta(minutes=30))
    try:
        yield World(dist.get_rank(), dist.get_world_size(), chosen)
    except RuntimeError as error:
        if not any(words in str(error) for words in PEER_LOST):
            raise
        time.sleep(2 * PATIENCE)  # a launcher ends this rank before that, when the other has said what it died of
        raise UserError(
            "another rank is gone while this one waited for it: see what that one said; saved checkpoints stay."
        ) from error
    finally:
        dist.destroy_process_group()
