"""`python -m benchmarks plan tiles=N ranks=W ...`: what the banks and indices of a cohort cost, before anything is bought."""

from dataclasses import dataclass

from omegaconf import OmegaConf

from results.errors import UserError
from results.settings import compose, split_overrides

WIDTH = {"fp32": 4, "bf16": 2, "int8": 1}
SCALE = {"fp32": 0, "bf16": 0, "int8": 4}
LIMITS = {
    "tiles": (1, 1e12), "ranks": (1, 1e6), "batch": (1, 1e6), "dimension": (1, 65536), "features": (1, 65536), "quadrants": (0, 64),
    "clusterings": (0, 64), "negatives": (1, 1e12), "sample": (1, 1e12), "steps_per_second": (1e-6, 1e6),
}  # fmt: skip
KEYS = 24
"""Bytes a tile of a sorted 64-bit index: the key, the sorted key, the order."""


@dataclass
class Settings:
    """Defaults are SGCL's: one global and four quadrant banks of `dimension`, one backbone bank of `features`."""

    tiles: int = 681_486
    ranks: int = 1
    batch: int = 32
    bank: str = "fp32"
    shard: bool = True
    dimension: int = 128
    features: int = 512
    quadrants: int = 4
    clusterings: int = 3
    negatives: int = 65_536
    sample: int = 16_384
    steps_per_second: float | None = None


@dataclass(frozen=True)
class Plan:
    """Bytes on one rank, and how old a bank row gets.

    Attributes:
        banks: bank name -> bytes; written: their marks of written rows.
        spatial, cells, labels: of the indices, whole on every rank.
        exchanged: bytes of rows that a rank receives in a step when banks are dealt, about.
        refresh_steps: optimiser steps between two writes of a row, one epoch.
    """

    banks: dict[str, int]
    written: int
    spatial: int
    cells: int
    labels: int
    exchanged: int
    refresh_steps: int

    @property
    def total(self) -> int:
        """All bytes that stay on a rank."""
        return sum(self.banks.values()) + self.written + self.spatial + self.cells + self.labels


def plan(settings: Settings) -> Plan:
    """Reckon the plan of a cohort.

    Raises:
        UserError: for an impossible setting.
    """
    for name, (low, high) in LIMITS.items():
        value = getattr(settings, name)
        if value is not None and not low <= value <= high:
            raise UserError(f"{name}={value} does not fit: give a number from {low:g} to {high:g}.")
    if settings.bank not in WIDTH:
        raise UserError(f"bank={settings.bank} is not known: choose one of {', '.join(WIDTH)}.")
    dealt = settings.ranks if settings.shard else 1
    rows = -(-settings.tiles // dealt)
    width, scale = WIDTH[settings.bank], SCALE[settings.bank]
    sizes = {"global": settings.dimension, "backbone": settings.features}
    quadrants = settings.dimension * settings.quadrants
    banks = {name: rows * (size * width + scale) for name, size in sizes.items()}
    if settings.quadrants:
        banks[f"{settings.quadrants} quadrants"] = rows * (quadrants * width + scale * settings.quadrants)
    negatives, sample = (min(count, settings.tiles) for count in (settings.negatives, settings.sample))
    read = (negatives + sample) * settings.dimension + sample * settings.features
    read += (
        negatives * settings.dimension * bool(settings.quadrants)
    )  # the quadrants read a fourth of the tiles in each of four banks
    return Plan(
        banks,
        rows * (len(sizes) + settings.quadrants),
        settings.tiles * KEYS,
        settings.tiles * KEYS,
        settings.tiles * 4 * settings.clusterings,
        read * width * (dealt - 1) // dealt,
        -(-settings.tiles // (settings.batch * settings.ranks)),
    )


def show(settings: Settings, found: Plan) -> str:
    """The plan as lines for people."""
    lines = [
        f"{settings.tiles:,} tiles, {settings.ranks} rank(s), batch {settings.batch} a rank, banks in {settings.bank}"
    ]
    parts = {f"bank {name}": size for name, size in found.banks.items()}
    parts |= {
        "marks of written rows": found.written,
        "spatial index (whole)": found.spatial,
        "cells (whole)": found.cells,
        "cluster labels (whole)": found.labels,
        "all, on every rank": found.total,
        "rows received a step": found.exchanged,
    }
    lines += [f"  {name:<24} {size / 2**30:>9.3f} GiB" for name, size in parts.items()]
    fresh = f"  a row is written anew every {found.refresh_steps:,} steps"
    if settings.steps_per_second:
        fresh += (
            f", {found.refresh_steps / settings.steps_per_second / 3600:.1f} h at {settings.steps_per_second:g} steps/s"
        )
    return "\n".join([*lines, fresh])


def command(arguments: list[str]) -> int:
    """Print the plan of `key=value` settings; counts may be written as 1e8."""
    overrides = split_overrides(arguments)
    for name in ("tiles", "negatives", "sample"):
        text = overrides.get(name, "")
        if "e" in text.lower():
            try:
                number = float(text)
                overrides[name] = str(int(number)) if number == int(number) else text
            except (ValueError, OverflowError):
                continue  # told below as a wrong type
    settings: Settings = OmegaConf.to_object(compose(OmegaConf.structured(Settings), [], overrides))
    print(show(settings, plan(settings)))
    return 0
