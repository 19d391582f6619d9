"""`python -m benchmarks.speed.shard`: training steps on one rank's share of a very large bank, with their peak of memory.

One process stands for one of eight ranks of a cohort of 1e8 tiles: it holds 1.25e7 rows of the global and the backbone bank in
bf16 and trains on random tiles. What it does not show: the exchange of rows between ranks, and the indices of the other ranks'
tiles, which every rank holds too (`python -m benchmarks plan tiles=1e8 ranks=8 bank=bf16`).
"""

import dataclasses
import sys
import time

import torch
from omegaconf import OmegaConf

from benchmarks.speed import loss as speed
from benchmarks.speed.measuring import keep, peak
from results.errors import told
from results.settings import compose, split_overrides


@dataclasses.dataclass
class Settings:
    """Rows of this rank, batch and view size of the steps."""

    tiles: int = 12_500_000
    batch: int = 32
    size: int = 64
    steps: int = 5
    bank: str = "bf16"
    threads: int = 2
    out: str | None = None


def main(arguments: list[str]) -> int:
    """Train, print seconds and peak memory, and write JSON where `out=` says."""
    return told(lambda: _run(arguments))


def _run(arguments: list[str]) -> int:
    settings: Settings = OmegaConf.to_object(compose(OmegaConf.structured(Settings), [], split_overrides(arguments)))
    torch.set_num_threads(settings.threads)
    start = time.perf_counter()
    method = speed.cohort(speed.Settings(bank=settings.bank), settings.tiles)
    made = time.perf_counter() - start
    optimiser = torch.optim.SGD(method.parameters(), lr=0.01, momentum=0.9)
    rng = torch.Generator().manual_seed(0)
    seconds, losses = [], []
    for number in range(settings.steps):
        start = time.perf_counter()
        ids = torch.randint(settings.tiles, (settings.batch,), generator=rng).unique()
        view = torch.randn(len(ids), 3, settings.size, settings.size, generator=rng)
        result = method({"global": view}, ids, 2, number)
        optimiser.zero_grad(set_to_none=True)
        result.total().backward()
        optimiser.step()
        method.remember(result)
        seconds.append(time.perf_counter() - start)
        losses.append(result.total().item())
    held = sum(
        t.numel() * t.element_size() for bank in method.banks.values() for t in (bank.rows, bank.scale, bank.written)
    )
    found = {"bank_gib": held / 2**30, "peak_gib": peak() / 1024, "seconds": seconds, "losses": losses}
    print(f"{settings.tiles:,} rows, banks {found['bank_gib']:.1f} GiB, peak {found['peak_gib']:.1f} GiB, steps "
          + ", ".join(f"{s:.2f}" for s in seconds) + " s, losses " + ", ".join(f"{x:.3f}" for x in losses))  # fmt: skip
    keep(settings.out, settings, **found, setup_seconds=made)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
