"""What a number was made with: versions, git revision, hardware."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch", "torchvision", "numpy", "scipy", "pillow", "openslide-python", "openslide-bin", "lmdb", "faiss-cpu",
    "scikit-learn", "safetensors", "timm", "lightly", "dask", "distributed", "onedl-mmcv", "onedl-mmengine", "onedl-mmsegmentation",
)  # fmt: skip

DIRTY = "-dirty"


def versions() -> dict[str, str]:
    """Return the installed versions of Python and of every package that can change a number."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_revision() -> str:
    """Return the commit of the running code, `-dirty` appended when tracked files differ; images carry it in a variable."""
    baked = os.environ.get("SGCL_BENCH_REVISION")
    if baked:
        return baked
    root = Path(__file__).resolve().parent.parent
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit + (DIRTY if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def short_revision(revision: str) -> str:
    """Return a revision as tables and pages show it: 12 digits, and `-dirty` where it has that mark."""
    commit, mark, _ = revision.partition(DIRTY)
    return commit[:12] + mark


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def hardware() -> dict[str, Any]:
    """Return processor, usable cores, memory in GiB and the names of visible CUDA devices."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cpu": model, "cores": cores, "memory_gib": round(memory, 1), "gpus": _gpus()}


def _gpus() -> list[str]:
    try:
        import torch
    except ImportError:
        return []
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def now() -> str:
    """Return the current time as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).replace(microsecond=0).isoformat()
