"""What every segmentation task is: annotated regions, a table from mask codes to classes, and who trains, chooses and tests."""

import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from results.errors import UserError
from results.files import replacing, value_digest
from transfer.overlap import Origins, origins_of

IGNORE = 255
"""Class of px that count nowhere: outside of the annotated region, or without a sure answer."""

MOST_PX = 170_000_000
"""Largest image that is decoded, in px (13,000 x 13,000); the largest region of BCSS has about 90 million."""

BAND = 2**20
"""px of a mask that are counted or looked up at once."""

Bytes = NDArray[np.uint8]
_OPENING = threading.Lock()
"""Filters of warnings belong to the process, so one thread at a time changes them."""


@dataclass(frozen=True)
class Region:
    """One annotated region of a slide (ROI).

    Attributes:
        name: file name without its ending; the unit of records.
        slide, institute: what it was cut from, and where that was scanned.
        image, mask: RGB image and 8-bit mask of codes, of equal size.
        width, height: of both, in px.
        mpp: um/px of both.
        digests: sha256 of the two files.
        pixels: px of every class in the mask.
    """

    name: str
    slide: str
    institute: str
    image: Path
    mask: Path
    width: int
    height: int
    mpp: float
    digests: tuple[str, str]
    pixels: tuple[int, ...]


@dataclass(frozen=True)
class Split:
    """Indices of regions; `validation` is empty where too few regions are there to choose anything on."""

    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]


@dataclass(frozen=True)
class SegmentationTask:
    """Regions under a split rule, in the form that engines take.

    Attributes:
        name, version: identity in records.
        classes: names, in the order of the units' columns; `colours` are theirs in drawings, RGB.
        codes: (256,) class of every mask code, `IGNORE` where it does not count.
        mpp: um/px at which networks see the images.
        rehearsal: whether the images are synthetic.
        regions: all regions.
        dealt: one round of the split rule, the same however many trials there are; trial t has split t modulo its length.
        trials: how many.
        cache: folder for resampled regions.
        remarks: what a person should know of how the folder was read.
        notes: what a reader of records and tables must know of the data and the split.
    """

    name: str
    version: int
    classes: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]
    codes: tuple[int, ...]
    mpp: float
    rehearsal: bool
    regions: tuple[Region, ...]
    dealt: tuple[Split, ...]
    trials: int
    cache: Path
    remarks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    kind: str = "segmentation"

    @property
    def splits(self) -> tuple[Split, ...]:
        """One split a trial."""
        return tuple(self.dealt[trial % len(self.dealt)] for trial in range(self.trials))

    def tested(self, trial: int) -> Origins:
        """Return where the test regions of a trial come from."""
        return origins_of(self.regions, self.splits[trial].test)

    @property
    def data_digest(self) -> str:
        """The sha256 over the images."""
        return value_digest([[region.name, region.digests[0]] for region in self.regions])

    @property
    def split_digest(self) -> str:
        """The sha256 over names, scale and masks of the regions, the grouping of codes and the parts of one round."""
        truth = [[r.name, r.slide, r.digests[1], round(r.mpp, 6)] for r in self.regions]
        parts = [[split.train, split.validation, split.test] for split in self.dealt]
        return value_digest([self.classes, self.codes, self.mpp, truth, parts])

    def truth(self, region: Region) -> Bytes:
        """Return the class of every px of the mask, uint8 (H, W) at the mask's own resolution."""
        mask, table = read_mask(region.mask), np.array(self.codes, np.uint8)
        classes = np.empty_like(mask)
        for rows in _bands(mask):
            classes[rows] = table[mask[rows]]
        return classes

    def resampled(self, region: Region) -> tuple[Bytes, Bytes]:
        """Return image (h, w, 3) and classes (h, w), both uint8 at `mpp` um/px, from a file under `cache` that is made once.

        The image is resized with an antialiased bilinear filter, the classes take the nearest px. Both arrays are read-only views
        of a file, so neither processes nor loader workers hold copies.
        """
        key = value_digest([region.digests, region.mpp, self.mpp, self.codes])[:24]
        path = self.cache / f"{region.name}-{key}.npy"
        if not path.is_file():
            size = (
                max(1, round(region.width * region.mpp / self.mpp)),
                max(1, round(region.height * region.mpp / self.mpp)),
            )
            both = np.empty((size[1], size[0], 4), np.uint8)
            both[..., :3] = np.asarray(
                Image.fromarray(read_image(region.image)).resize(size, Image.Resampling.BILINEAR)
            )
            both[..., 3] = np.asarray(Image.fromarray(self.truth(region)).resize(size, Image.Resampling.NEAREST))
            with replacing(path) as temporary:
                np.save(temporary, both)
        stored = np.load(path, mmap_mode="r")
        return stored[..., :3], stored[..., 3]


def read_image(path: Path) -> Bytes:
    """Decode an RGB PNG to (H, W, 3); a UserError names a file that is broken or too large."""
    with _opened(path) as image:
        if image.mode.startswith(("I", "F")):  # Pillow would cut its values off at 255
            raise UserError(f"{path} has the mode {image.mode}: an image has 8 bits a channel, save it as such.")
        return np.asarray(image.convert("RGB"))


def read_mask(path: Path) -> Bytes:
    """Decode an 8-bit PNG mask of one channel to (H, W) codes; a UserError names a file that is broken, too large or of another kind."""
    with _opened(path) as image:
        if image.mode not in ("L", "P"):
            raise UserError(
                f"{path} has the mode {image.mode}: a mask has one channel of 8-bit codes, save it as such."
            )
        return np.asarray(image)


def count_codes(mask: Bytes) -> NDArray[np.int64]:
    """Count the px of every code of a mask (H, W), int64 (256,), a few rows at a time: the library's counting takes 8 bytes a px."""
    return sum((np.bincount(mask[rows].ravel(), minlength=256) for rows in _bands(mask)), np.zeros(256, np.int64))


def _bands(mask: Bytes) -> Iterator[slice]:
    rows = max(1, BAND // max(1, mask.shape[1]))
    return (slice(start, start + rows) for start in range(0, len(mask), rows))


def image_size(path: Path) -> tuple[int, int]:
    """Return width and height in px from the header."""
    with _opened(path) as image:
        return image.size


class _opened:
    """A checked image; what goes wrong inside the block with the file is a UserError that names it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Image.Image:
        try:
            with _OPENING, warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                self._image = Image.open(self._path, formats=("PNG",))
        except Image.DecompressionBombError:
            raise self._too_large() from None
        except (OSError, SyntaxError, ValueError) as error:
            raise self._broken(error) from error
        if self._image.width * self._image.height > MOST_PX:
            self._image.close()
            raise self._too_large()
        return self._image

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        self._image.close()
        if isinstance(error, OSError | SyntaxError | ValueError):
            raise self._broken(error) from error

    def _broken(self, error: BaseException) -> UserError:
        return UserError(
            f"{self._path} cannot be decoded as PNG ({' '.join(str(error).split())[:120]}): fetch the file again."
        )

    def _too_large(self) -> UserError:
        return UserError(f"{self._path} has more than {MOST_PX // 10**6} million px: cut it into smaller regions.")


def official_split(regions: Sequence[Region], test: Sequence[str], validation: Sequence[str]) -> Split | None:
    """Split by the named institutes; all others train. None when the folder has none to test or none to train on."""
    tested = [i for i, region in enumerate(regions) if region.institute in test]
    chosen = [i for i, region in enumerate(regions) if region.institute in validation]
    train = [i for i in range(len(regions)) if i not in tested and i not in chosen]
    return Split(tuple(train), tuple(chosen), tuple(tested)) if tested and train else None


LEVELS = ("institute", "slide", "name")


def split_in_turn(regions: Sequence[Region], trials: int, where: str) -> tuple[tuple[Split, ...], str]:
    """Split a folder that has none of the official test institutes, by names alone.

    The groups are the institutes where there are two or more, else the slides, else the single regions. Sorted by name they are
    dealt into max(3, trials) hands (fewer where there are fewer groups), and split t tests on hand t. Of the
    rest, every fourth group from the first on is for validation: of the coarsest kind (institute, slide, region) of which
    there are three or more, else two; of a single region that is left, none.

    Returns:
        one split a hand, and the kind of group that test and train do not share (`institute`, `slide` or `name`).

    Raises:
        UserError: with fewer than two regions.
    """
    rows = range(len(regions))
    level = next((level for level in LEVELS if len(_groups(regions, rows, level)) > 1), None)
    if level is None:
        raise UserError(
            f"{where} has {len(regions)} annotated region(s): two or more are needed, one to train and one to test."
        )
    groups = _groups(regions, rows, level)
    hands = min(len(groups), max(3, trials))
    splits = []
    for hand in range(hands):
        held = groups[hand::hands]
        test = [row for group in held for row in group]
        rest = [row for row in rows if row not in test]
        validation = _validation(regions, rest)
        train = [row for row in rest if row not in validation]
        splits.append(Split(tuple(train), tuple(validation), tuple(sorted(test))))
    return tuple(splits), level


def _validation(regions: Sequence[Region], rest: Sequence[int]) -> list[int]:
    for least in (3, 2):
        for level in LEVELS:
            groups = _groups(regions, rest, level)
            if len(groups) >= least:
                return sorted(row for group in groups[::4] for row in group)
    return []


def _groups(regions: Sequence[Region], rows: Sequence[int], level: str) -> list[list[int]]:
    """Return the rows of every institute, slide or region, in order of their names."""
    found: dict[str, list[int]] = {}
    for row in rows:
        found.setdefault(getattr(regions[row], level), []).append(row)
    return [found[name] for name in sorted(found)]
