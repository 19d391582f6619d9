"""What every measurement of speed shares: medians, the peak of memory, and the file that keeps them."""

import dataclasses
import gc
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from results import provenance
from results.files import write_json


def timed(step: Callable[[int], Any], steps: int) -> dict[str, float]:
    """Median seconds of `steps` calls after one to warm up, and how far the peak of memory rose meanwhile."""
    gc.collect()
    before = reset_peak()
    step(0)
    seconds, busy = [], time.process_time()
    for number in range(1, steps + 1):
        start = time.perf_counter()
        step(number)
        seconds.append(time.perf_counter() - start)
    return {
        "seconds": statistics.median(seconds),
        "cpu_seconds": (time.process_time() - busy) / steps,
        "fastest": min(seconds),
        "slowest": max(seconds),
        "transient_mib": peak() - before,
    }


def reset_peak() -> float:
    """Start the kernel's peak of resident memory anew and return the present one in MiB."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return peak()
    return _status("VmRSS")


def peak() -> float:
    """Peak of resident memory in MiB, since the last `reset_peak`."""
    return _status("VmHWM")


def _status(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def keep(out: str | None, settings: Any, **found: Any) -> None:
    """Write what was found, with the settings and what it was found on, where `out` says."""
    if out is None:
        return
    made_with = {
        "hardware": provenance.hardware(),
        "versions": provenance.versions(),
        "git_revision": provenance.git_revision(),
        "created": provenance.now(),
    }
    write_json(Path(out), {"schema": 1, "settings": dataclasses.asdict(settings), **found, **made_with})
