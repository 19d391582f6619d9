"""One training on several devices of one machine: a process each, gradients averaged, batch norm synchronised."""

from dataclasses import replace

import torch
from torch import multiprocessing

from transfer.engines.mmseg import training
from transfer.engines.mmseg.segmenter import Job


def launch(job: Job) -> None:
    """Train in `job.devices` processes (NCCL on GPUs, gloo on CPUs); the first one looks at validation and keeps weights.

    They meet at a file in the job's folder, so no port is opened for that. What kills one of them is raised here.
    """
    meeting = job.folder / "meeting"
    try:
        multiprocessing.spawn(_rank, (job, meeting.as_uri()), job.devices)
    finally:
        meeting.unlink(missing_ok=True)


def _rank(rank: int, job: Job, meeting: str) -> None:
    is_gpu = job.device.startswith("cuda")
    if is_gpu:
        torch.cuda.set_device(rank)
    torch.distributed.init_process_group(
        "nccl" if is_gpu else "gloo", init_method=meeting, rank=rank, world_size=job.devices
    )
    try:
        training.train(replace(job, device=f"cuda:{rank}") if is_gpu else job, rank)
    finally:
        torch.distributed.destroy_process_group()
