"""Reading a slide at a physical resolution through OpenSlide."""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import openslide
from PIL import Image

from pretrain.tiling.unreadable import DAMAGED, why_unreadable
from results.errors import UserError

SAME = 0.01
"""Two resolutions within 1 % count as equal: such tiles are copied, not resampled."""
UPSAMPLING = 0.05
"""A slide may be up to 5 % coarser than asked for."""
ANISOTROPY = 0.05
"""Pixels may be up to 5 % from square; their mean is taken."""
SCAN_MPP = (0.01, 50.0)
"""um/px that a microscope scanner can have: a printer's 72 dpi in a TIFF (353 um/px) is not one."""
CACHE_BYTES = 64 * 2**20
BLOCK = 2048
"""Side in level px of the largest region that is held in memory at once."""
CANARY_PLACES = ((1 / 2, 1 / 2), (1 / 4, 1 / 4), (3 / 4, 1 / 4), (1 / 4, 3 / 4), (3 / 4, 3 / 4))
"""Centres of a slide's canary regions as shares of width and height: five of level 0, and the first of the coarsest level."""
CANARY = 256
"""Side of a canary region in px of its level."""


@dataclass(frozen=True)
class TilePlan:
    """How tiles of one size and resolution are read from one slide.

    Attributes:
        tile: side in px of the stored tile.
        level: pyramid level that is read, the coarsest that is not coarser than asked for.
        downsample: level-0 px per px of that level.
        extent: side of the tile in px of that level; equal to `tile` when nothing is resampled.
        step: side of the tile in level-0 px.
    """

    tile: int
    level: int
    downsample: float
    extent: float
    step: float

    @property
    def resampled(self) -> bool:
        """Whether the pixels of the level are resized for the tile."""
        return self.extent != self.tile


class SlideReader:
    """An open slide with a known resolution. Use it as a context manager.

    Attributes:
        size: (width, height) in level-0 px.
        mpp: um/px at level 0, from `mpp_override`, else the cohort, else the slide.
        mpp_source: `override`, `cohort` or `slide`.

    Raises:
        UserError: the file is missing, cannot be opened, or nobody states a usable um/px.
    """

    def __init__(self, path: Path, mpp_override: float | None = None, mpp_cohort: float | None = None) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise UserError(f"{self.path} is not there or is not a file.")
        try:
            self._slide = openslide.OpenSlide(self.path)
        except openslide.OpenSlideError as error:
            raise UserError(f"{why_unreadable(self.path, one_line(error))}.") from error
        try:
            self._slide.set_cache(openslide.OpenSlideCache(CACHE_BYTES))
            self.size: tuple[int, int] = self._slide.dimensions
            self.vendor: str = self._slide.properties.get("openslide.vendor", "")
            self.mpp, self.mpp_source = self._resolution(mpp_override, mpp_cohort)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "SlideReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._slide.close()

    def plan(self, tile: int, mpp: float) -> TilePlan:
        """Choose level and scale for tiles of `tile` px at `mpp` um/px.

        Raises:
            UserError: the slide is more than 5 % coarser than `mpp`.
        """
        if self.mpp > mpp * (1 + UPSAMPLING):
            raise UserError(
                f"{self.path.name} has {self.mpp:.4g} um/px at its finest level, coarser than the mpp={mpp:.4g} asked for: "
                f"set mpp={self.mpp:.4g} or more, or leave the slide out."
            )
        level = self._level(mpp / self.mpp * (1 + SAME))
        downsample = float(self._slide.level_downsamples[level])
        scale = mpp / (self.mpp * downsample)
        if abs(scale - 1) <= SAME:
            scale = 1.0
        return TilePlan(tile, level, downsample, tile * scale, tile * scale * downsample)

    def read_tile(self, x0: int, y0: int, plan: TilePlan) -> np.ndarray:
        """Return the (tile, tile, 3) uint8 tile whose top left corner is (x0, y0) in level-0 px, transparent parts white.

        Raises:
            UserError: the region cannot be decoded.
        """
        x, y = x0 / plan.downsample, y0 / plan.downsample
        if not plan.resampled:
            return np.asarray(self._region(round(x), round(y), plan.level, plan.tile, plan.tile))
        width, height = self._slide.level_dimensions[plan.level]
        left, top = int(x + 1e-6), int(y + 1e-6)
        fx, fy = max(x - left, 0.0), max(y - top, 0.0)
        right, bottom = min(fx + plan.extent, width - left), min(fy + plan.extent, height - top)
        region = self._region(left, top, plan.level, math.ceil(right - 1e-6), math.ceil(bottom - 1e-6))
        box = (fx, fy, min(right, region.width), min(bottom, region.height))
        return np.asarray(region.resize((plan.tile, plan.tile), Image.Resampling.LANCZOS, box=box))

    def thumbnail(self, width: int, height: int) -> np.ndarray:
        """Return the whole slide as (height, width, 3) uint8, each pixel the mean of its area.

        The finest needed level is read block by block, so that memory stays bounded on a slide without a pyramid.
        """
        level = self._level(min(self.size[0] / width, self.size[1] / height) * (1 + SAME))
        level_width, level_height = self._slide.level_dimensions[level]
        scale_x, scale_y = level_width / width, level_height / height
        columns, rows = max(1, int(BLOCK / scale_x)), max(1, int(BLOCK / scale_y))
        image = np.empty((height, width, 3), dtype=np.uint8)
        for y in range(0, height, rows):
            for x in range(0, width, columns):
                x2, y2 = min(x + columns, width), min(y + rows, height)
                left, top = int(x * scale_x), int(y * scale_y)
                right, bottom = min(math.ceil(x2 * scale_x), level_width), min(math.ceil(y2 * scale_y), level_height)
                region = self._region(left, top, level, right - left, bottom - top)
                box = (
                    x * scale_x - left,
                    y * scale_y - top,
                    min(x2 * scale_x - left, region.width),
                    min(y2 * scale_y - top, region.height),
                )
                image[y:y2, x:x2] = region.resize((x2 - x, y2 - y), Image.Resampling.BOX, box=box)
        return image

    def canary(self) -> str:
        """Return the sha256 over the RGB bytes of the canary regions; a region that cannot be decoded counts as that."""
        digest = hashlib.sha256()
        coarsest = max(range(self._slide.level_count), key=lambda level: self._slide.level_downsamples[level])
        for place in CANARY_PLACES:
            digest.update(self._canary_region(0, *place))
        digest.update(self._canary_region(coarsest, *CANARY_PLACES[0]))
        return digest.hexdigest()

    def _canary_region(self, level: int, share_x: float, share_y: float) -> bytes:
        width, height = self._slide.level_dimensions[level]
        w, h = min(CANARY, width), min(CANARY, height)
        left, top = (
            max(0, int(side * share) - part // 2) for side, share, part in ((width, share_x, w), (height, share_y, h))
        )
        try:
            return self._region(min(left, width - w), min(top, height - h), level, w, h).tobytes()
        except UserError:
            return b"cannot be decoded"

    def _level(self, downsample: float) -> int:
        """Return the coarsest level whose downsample is at most `downsample`, else level 0."""
        fitting = [level for level, value in enumerate(self._slide.level_downsamples) if value <= downsample]
        return max(fitting, default=0, key=lambda level: self._slide.level_downsamples[level])

    def _region(self, x: int, y: int, level: int, width: int, height: int) -> Image.Image:
        """Read level px from (x, y) on as RGB on white."""
        downsample = self._slide.level_downsamples[level]
        at = (round(x * downsample), round(y * downsample))
        try:
            region = self._slide.read_region(at, level, (width, height))
        except openslide.OpenSlideError as error:
            raise UserError(
                f"{self.path.name} cannot be decoded at level {level}, x0 {at[0]}, y0 {at[1]} ({one_line(error)}): {DAMAGED}."
            ) from error
        if region.getchannel("A").getextrema()[0] == 255:
            return region.convert("RGB")
        white = Image.new("RGBA", region.size, "white")
        white.alpha_composite(region)
        return white.convert("RGB")

    def _resolution(self, override: float | None, cohort: float | None) -> tuple[float, str]:
        if override is not None:
            return override, "override"
        if cohort is not None:
            return cohort, "cohort"
        properties = self._slide.properties
        try:
            x, y = (float(properties[key]) for key in (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y))
        except (KeyError, ValueError):
            power = properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER)
            hint = f" (it names a {power}x objective)" if power else ""
            raise UserError(
                f"{self.path.name} does not state its um/px{hint}: needs mpp_override=, or an mpp column in cohort.csv."
            ) from None
        if not all(SCAN_MPP[0] <= value <= SCAN_MPP[1] for value in (x, y)):
            raise UserError(
                f"{self.path.name} states {x:.4g} um/px, which is no scanner's resolution: needs mpp_override=, "
                "or an mpp column in cohort.csv."
            )
        if abs(x - y) > ANISOTROPY * min(x, y):
            raise UserError(
                f"{self.path.name} has pixels of {x:.4g} x {y:.4g} um, more than {ANISOTROPY:.0%} from square: "
                "resample the slide, or accept the distortion with mpp_override=."
            )
        return (x + y) / 2, "slide"


def one_line(error: BaseException) -> str:
    """Return an exception's text as one line, its type when it has none."""
    return " ".join(str(error).split())[:300] or type(error).__name__
