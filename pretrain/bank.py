"""Memory banks: one remembered unit vector per tile (sgcl-method.md 2.3, S5, S6, S12)."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.distributed import World
from pretrain.randomness import generator
from results.errors import UserError

STORAGES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}
CHUNK = 1 << 18


def check_momentum(key: str, momentum: float) -> None:
    """Refuse a weight of new features that teaches the bank nothing or too much, with a UserError; `key` is as it is typed."""
    if not 0 < momentum <= 1:
        raise UserError(
            f"{key}={momentum:g} does not fit: give a number above 0, at most 1 (the weight of the new feature)."
        )


class MemoryBank:
    """(N, D) unit rows, whole on every rank or, when sharded, row i on rank i mod W.

    `in_files` says that checkpoints keep it in files of its own. `rows` (own rows, D), `scale` (own rows,) and `written` (own rows,) are what this rank holds. Reading a sharded bank is a
    collective: every rank must ask at the same time, each for what it wants.

    Args:
        rows: number of tiles N.
        dimension: D.
        momentum: weight m of the NEW feature in `v <- normalize((1 - m) v + m f)`.
        seed, name: what the Gaussian start depends on; the number of ranks is not among them.
        world: the ranks, and this one's device.
        forget_start: the first write of a row takes its place, so that no row stays half noise (D8); False blends, as published.
        storage: `fp32`, `bf16`, or `int8` with one scale a row.
        sharded: whether the rows are dealt to the ranks.
    """

    def __init__(
        self,
        rows: int,
        dimension: int,
        momentum: float,
        seed: int,
        name: str,
        world: World,
        forget_start: bool = False,
        storage: str = "fp32",
        sharded: bool = False,
    ):
        self.total, self.dimension, self.momentum, self.world = rows, dimension, momentum, world
        self.step, self.first = (world.size, world.rank) if sharded and world.size > 1 else (1, 0)
        self.in_files = sharded
        own, device = len(range(self.first, rows, self.step)), world.device
        self.rows = torch.empty(own, dimension, dtype=STORAGES[storage], device=device)
        self.scale = torch.ones(own if storage == "int8" else 0, device=device)
        self.written = torch.full((own,), not forget_start, device=device)
        for number, start in enumerate(range(0, rows, CHUNK)):
            parts = (seed, "bank", name) + ((number,) if number else ())
            drawn = torch.randn(min(CHUNK, rows - start), dimension, generator=generator(*parts))
            ids = torch.arange(start, start + len(drawn))
            self.put(ids.to(device), F.normalize(drawn, dim=1).to(device))

    def __len__(self) -> int:
        return self.total

    @property
    def sharded(self) -> bool:
        """Whether other ranks hold rows that this one does not."""
        return self.step > 1

    def __getitem__(self, index: Tensor) -> Tensor:
        """Rows of a (...,) int64 index as (..., D) floats, without gradient."""
        flat = index.flatten()
        found = self._fetch(flat) if self.sharded else self._read(flat)
        return found.view(*index.shape, self.dimension)

    @torch.no_grad()
    def similarity(self, queries: Tensor) -> Tensor:
        """(R, D) queries with every row, (R, N); not for a sharded bank."""
        if self.sharded:
            raise ValueError("a sharded bank has no rank that could compare with all rows")
        if self.rows.is_floating_point() and self.rows.dtype != torch.bfloat16:
            return queries @ self.rows.T
        return torch.cat([queries @ rows.T for _, rows in self.chunks()], 1)

    def chunks(self, size: int = CHUNK) -> Iterator[tuple[Tensor, Tensor]]:
        """Pass over this rank's rows: (n,) tile ids, (n, D) floats."""
        for start in range(0, len(self.rows), size):
            part = slice(start, start + size)
            ids = self.first + self.step * torch.arange(
                start, min(start + size, len(self.rows)), device=self.rows.device
            )
            yield ids, self._decode(self.rows[part], self.scale[part] if len(self.scale) else None)

    @torch.no_grad()
    def put(self, tile_ids: Tensor, features: Tensor) -> None:
        """Overwrite the rows of (B,) unique tile ids by (B, D) unit features; every rank keeps its own."""
        place, features = self._own(tile_ids, features)
        if len(self.scale):
            scale = features.abs().amax(1).clamp(min=1e-12) / 127
            self.scale[place] = scale
            features = (features / scale[:, None]).round()
        self.rows[place] = features.to(self.rows.dtype)

    @torch.no_grad()
    def update(self, tile_ids: Tensor, features: Tensor) -> None:
        """Blend (B, D) unit features into the rows of (B,) unique tile ids, the same on all ranks; every rank its own."""
        place, features = self._own(tile_ids, features.float())
        ids = self.first + self.step * place
        m = torch.where(self.written[place], self.momentum, 1.0)[:, None]
        old = self._read(place)
        self.put(ids, F.normalize((1 - m) * old + m * features, dim=1))
        self.written[place] = True

    def _own(self, tile_ids: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Places in `rows` of those tiles that this rank holds, and their features."""
        if not self.sharded:
            return tile_ids, features
        mine = tile_ids % self.step == self.first
        return tile_ids[mine] // self.step, features[mine]

    def _read(self, place: Tensor) -> Tensor:
        """Rows at (n,) places of `rows`; `index_select` is several times faster than indexing on the CPU."""
        scale = self.scale.index_select(0, place) if len(self.scale) else None
        return self._decode(self.rows.index_select(0, place), scale)

    def _decode(self, rows: Tensor, scale: Tensor | None) -> Tensor:
        if rows.dtype == torch.float64:
            return rows
        return rows.float() if scale is None else rows.float() * scale[..., None]

    def _fetch(self, ids: Tensor) -> Tensor:
        """Ask the ranks that hold them for the rows of (n,) ids; n may differ between ranks."""
        owner = ids % self.step
        order = torch.argsort(owner, stable=True)
        asked = torch.bincount(owner, minlength=self.step)
        wanted, counts = self.world.exchange(ids[order], asked)
        place = wanted // self.step
        answer, _ = self.world.exchange(self.rows.index_select(0, place), counts)
        scale = self.world.exchange(self.scale[place], counts)[0] if len(self.scale) else None
        found = torch.empty(len(ids), self.dimension, device=ids.device)
        found[order] = self._decode(answer, scale)
        return found


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
