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
    """

    def __init__(self, rows: int, dimension: int, momentum: float, seed: int, name: str, device: torch.device):
        start = torch.randn(rows, dimension, generator=generator(seed, "bank", name))
        self.rows = F.normalize(start, dim=1).to(device)
        self.momentum = momentum

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Tensor) -> Tensor:
        """Rows of a (...,) int64 index as (..., D), without gradient."""
        return self.rows[index]

    @torch.no_grad()
    def update(self, tile_ids: Tensor, features: Tensor) -> None:
        """Blend (B, D) unit features into the rows of (B,) tile ids, which must be unique."""
        blend = (1 - self.momentum) * self.rows[tile_ids] + self.momentum * features.float()
        self.rows[tile_ids] = F.normalize(blend, dim=1)


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
