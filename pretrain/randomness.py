"""All randomness of pretraining: numbers that depend on (seed, epoch, purpose, tile id) and on nothing else."""

import hashlib

import numpy as np
import torch


def key(*parts: int | str) -> int:
    """Hash the parts to a 64-bit key, the same on every machine and Python."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def generator(*parts: int | str) -> torch.Generator:
    """Return a CPU generator seeded by the parts, for example `generator(seed, epoch, step, "negatives")`."""
    return torch.Generator().manual_seed(key(*parts) >> 1)


def uniform(tile_ids: np.ndarray, count: int, *parts: int | str) -> np.ndarray:
    """Draw `count` numbers in [0, 1) for every tile, independent of the batch it is in.

    Args:
        tile_ids: (B,) integers.
        count: numbers per tile.
        parts: what else the numbers depend on, for example `(seed, epoch, "crop")`.

    Returns:
        (B, count) float64, a counter-based hash (the SplitMix64 finaliser of Steele, Lea and Flood, 2014).
    """
    counter = np.asarray(tile_ids, np.uint64)[:, None] * np.uint64(count) + np.arange(count, dtype=np.uint64)
    with np.errstate(over="ignore"):
        z = _mix(counter * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key(*parts)))
        z = _mix(z + np.uint64(0x9E3779B97F4A7C15))
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
