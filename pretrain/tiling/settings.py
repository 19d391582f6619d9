"""What a tile is. Every field changes the stored tiles, so all of them are part of a store's name."""

import math
from dataclasses import dataclass

from results.errors import UserError

ENCODINGS = ("jpeg", "png")


@dataclass
class Tiling:
    """Tile settings.

    Attributes:
        tile: side of a tile in px at `mpp`.
        mpp: um/px of the stored tiles.
        mpp_override: um/px of every slide's level 0, instead of what cohort or slide say.
        min_tissue: smallest share of tissue, 0 to 1, that keeps a tile.
        encoding: `jpeg` (4:4:4, `quality` 1 to 100) or `png` (lossless).
        quality: JPEG quality; without effect for `png`.
        mask_mpp: um/px at which tissue is looked for; a slide that is coarser is taken as it is.

    Raises:
        UserError: a value that makes no sense, from the constructor.
    """

    tile: int = 256
    mpp: float = 0.5
    mpp_override: float | None = None
    min_tissue: float = 0.5
    encoding: str = "jpeg"
    quality: int = 90
    mask_mpp: float = 8.0

    def __post_init__(self) -> None:
        self.mpp, self.min_tissue, self.mask_mpp = float(self.mpp), float(self.min_tissue), float(self.mask_mpp)
        self.mpp_override = None if self.mpp_override is None else float(self.mpp_override)
        if not 16 <= self.tile <= 8192:
            raise UserError(f"tile={self.tile} must lie between 16 and 8192 px.")
        for key in ("mpp", "mpp_override", "mask_mpp"):
            value = getattr(self, key)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UserError(f"{key}={value} must be um/px above 0.")
        if not 0 <= self.min_tissue <= 1:
            raise UserError(f"tiling.min_tissue={self.min_tissue} must be a share from 0 to 1.")
        if self.encoding not in ENCODINGS:
            raise UserError(f"encoding={self.encoding} must be one of {', '.join(ENCODINGS)}.")
        if not 1 <= self.quality <= 100:
            raise UserError(f"quality={self.quality} must lie between 1 and 100.")
        if self.mask_mpp > self.tile * self.mpp:
            raise UserError(
                f"mask_mpp={self.mask_mpp} is coarser than a whole tile of {self.tile * self.mpp:g} um: set mask_mpp to at most that."
            )
