"""Reading tiles while others are computed on."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

READERS = max(4, min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 4))
"""Threads that read and decode tiles, each one batch."""


def read_ahead(read: Callable[[np.ndarray], np.ndarray], parts: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield `read(part)` for every part, in order; the next `READERS` parts are read in threads meanwhile."""
    with ThreadPoolExecutor(READERS) as readers:
        ahead = deque(readers.submit(read, part) for part in parts[:READERS])
        for number in range(len(parts)):
            tiles = ahead.popleft().result()
            if number + READERS < len(parts):
                ahead.append(readers.submit(read, parts[number + READERS]))
            yield tiles
