"""Spatial neighbours on the slide by integer keys: exact for any coordinates (sgcl-method.md 2.6, D9, S1)."""

import torch
from torch import Tensor

from results.errors import UserError


class SpatialIndex:
    """Finds P_i = {j on i's slide : 0 < distance(i, j) < radius}, both strict, in grid units.

    One sorted 64-bit key per tile: 16 bytes a tile with the sorting order, O(N log N) to build, O(log N) a look-up.

    Args:
        slide, x, y: (N,) integers; coordinates may be negative or huge.
        radius: in grid units.
    """

    def __init__(self, slide: Tensor, x: Tensor, y: Tensor, radius: float):
        slide, x, y = (v.to(torch.int64) for v in (slide, x, y))
        reach = int(radius)
        self.radius = radius
        x, y = (v - v.min() + reach if v.numel() else v for v in (x, y))
        width, height = (int(v.max()) + reach + 1 if v.numel() else 1 for v in (x, y))
        slides = int(slide.max()) + 1 if slide.numel() else 1
        if width * height * slides >= 2**63:
            raise UserError(
                f"the grid of {slides} slides spans {width} x {height} units, too much to index: are the coordinates pixels?"
            )
        self.key = (slide * height + y) * width + x
        self.sorted_key, self.order = torch.sort(self.key, stable=True)
        repeats = torch.unique_consecutive(self.sorted_key, return_counts=True)[1]
        self.most_per_cell = int(repeats.max()) if repeats.numel() else 1
        steps = torch.arange(-reach, reach + 1, device=slide.device)
        dy, dx = torch.meshgrid(steps, steps, indexing="ij")
        square = dx**2 + dy**2
        near = (square > 0) & (square < radius**2)
        self.offsets = dy[near] * width + dx[near]

    def positives(self, tile_ids: Tensor) -> Tensor:
        """Return P of (B,) tiles as a padded (B, P) int64 set."""
        wanted = self.key[tile_ids][:, None] + self.offsets
        start = torch.searchsorted(self.sorted_key, wanted)
        place = start[..., None] + torch.arange(self.most_per_cell, device=wanted.device)
        found = place.clamp(max=max(len(self.sorted_key) - 1, 0))
        hit = (place < len(self.sorted_key)) & (self.sorted_key[found] == wanted[..., None])
        return torch.where(hit, self.order[found], -1).flatten(1)
