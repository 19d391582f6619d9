"""Memory banks: one remembered unit vector per tile (sgcl-method.md 2.3)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.distributed import World
from pretrain.randomness import generator


class MemoryBank:
    """(N, D) float32 unit rows, alike on every rank.

    Args:
        rows: number of tiles N.
        dimension: D.
        momentum: weight m of the NEW feature in `v <- normalize((1 - m) v + m f)`.
        seed, name: what the Gaussian start depends on.
        forget_start: the first write of a row takes its place, so that no row stays half noise (D8); False blends, as published.
    """

    def __init__(
        self,
        rows: int,
        dimension: int,
        momentum: float,
        seed: int,
        name: str,
        device: torch.device,
        forget_start: bool = False,
    ):
        start = torch.randn(rows, dimension, generator=generator(seed, "bank", name))
        self.rows = F.normalize(start, dim=1).to(device)
        self.momentum = momentum
        self.written = torch.full((rows,), not forget_start, device=device)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Tensor) -> Tensor:
        """Rows of a (...,) int64 index as (..., D), without gradient."""
        return self.rows[index]

    @torch.no_grad()
    def update(self, tile_ids: Tensor, features: Tensor) -> None:
        """Blend (B, D) unit features into the rows of (B,) tile ids, which must be unique."""
        m = torch.where(self.written[tile_ids], self.momentum, 1.0)[:, None]
        self.rows[tile_ids] = F.normalize((1 - m) * self.rows[tile_ids] + m * features.float(), dim=1)
        self.written[tile_ids] = True


@torch.no_grad()
def gather_writes(world: World, tile_ids: Tensor, features: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Collect (B,) ids and named (B, D) features of all ranks; of a tile that occurs twice, the first is kept.

    "First" is by rank, then by place in the batch, so every rank keeps the same one.
    """
    ids = world.gather(tile_ids)
    gathered = {name: world.gather(value.detach().float()) for name, value in features.items()}
    order = torch.argsort(ids, stable=True)
    ordered = ids[order]
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    keep = order[first]
    return ids[keep], {name: value[keep] for name, value in gathered.items()}
