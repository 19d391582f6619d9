"""Folders of equally large images as a source of tiles: nothing is decoded before its size is known to be the expected one."""

import hashlib
import io
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from results.errors import UserError
from results.files import value_digest, write_json
from results.settings import load_yaml
from transfer.reading import READERS
from transfer.tasks.schema import readable

FORMATS = ("TIFF", "PNG", "JPEG")
SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg")
LEFT_BY_SYSTEMS = ("thumbs.db", "desktop.ini")
BYTES_A_PIXEL = 16
"""A file larger than this times its px (and 1 MiB) is not opened."""
SHOWN = 3
TOGETHER = 2048
"""Files that are checked at once, so that a stop signal is not kept waiting."""


class BadImage(Exception):
    """What is wrong with one image file, in a few words."""


def read_image(path: Path, side: int) -> tuple[np.ndarray, str]:
    """Return pixels (side, side, 3) uint8 and the sha256 of the file.

    Raises:
        BadImage: for a file that is not an RGB image of that size in one of `FORMATS`, or cannot be decoded.
    """
    try:
        if path.stat().st_size > BYTES_A_PIXEL * side * side + 2**20:
            raise BadImage(f"has {path.stat().st_size} bytes, too many for {side} x {side} px")
        content = path.read_bytes()
    except OSError as error:
        raise BadImage(f"cannot be read ({error.strerror})") from error
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.size != (side, side):
                raise BadImage(f"is {image.size[0]} x {image.size[1]} px instead of {side} x {side}")
            if image.mode != "RGB":
                raise BadImage(f"is of mode {image.mode} instead of 8-bit RGB")
            return np.array(image), hashlib.sha256(content).hexdigest()
    except BadImage:
        raise
    except Exception as error:  # decoders raise whatever the damage leads them to
        raise BadImage(f"cannot be decoded ({type(error).__name__})") from error


def images_in(folder: Path) -> list[str]:
    """Return the names of a folder's images, sorted; hidden files and those that systems leave behind are passed over.

    Raises:
        UserError: for a file or folder that is no image.
    """
    names = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name.lower() in LEFT_BY_SYSTEMS:
            continue
        if path.suffix.lower() not in SUFFIXES:
            raise UserError(f"{path} is not one of {', '.join(SUFFIXES)}: take it out of the class folder.")
        if not path.is_file():
            raise UserError(f"{path} is not a regular file: put the image there, or take it out of the class folder.")
        names.append(readable(path).name)
    return names


class ImageFiles:
    """Image files below a root, by number; all are read and decoded once before anything is trained.

    Attributes:
        names: (N,) paths relative to the root.
        tile: side in px; mpp: um/px.
        digests: (N,) sha256 of the files; `digest` is that over names and contents.
        rehearsal: whether they are synthetic.
    """

    def __init__(self, root: Path, names: Sequence[str], tile: int, mpp: float, rehearsal: bool, kept: Path) -> None:
        self.root, self.names, self.tile, self.mpp, self.rehearsal = root, list(names), tile, mpp, rehearsal
        self.digests = self._check(kept)
        self.digest = value_digest(list(zip(self.names, self.digests, strict=True)))

    def read_many(self, tile_ids: Iterable[int]) -> np.ndarray:
        """Return tiles as (n, tile, tile, 3) uint8; a file that has changed since it was checked is a UserError."""
        tiles = []
        for number in tile_ids:
            path = self.root / self.names[int(number)]
            try:
                tiles.append(read_image(path, self.tile)[0])
            except BadImage as error:
                raise UserError(f"{path} {error}: it has changed since the start, put it back.") from error
        return np.stack(tiles) if tiles else np.empty((0, self.tile, self.tile, 3), np.uint8)

    def _check(self, kept: Path) -> list[str]:
        """Return the sha256 of every file; files that were whole before and have not changed since are not read again.

        Raises:
            UserError: names up to three files that cannot be used, and counts them.
        """
        known = read_known(kept)
        marks = [_mark(self.root / name) for name in self.names]
        fresh = [
            n
            for n, (name, mark) in enumerate(zip(self.names, marks, strict=True))
            if known.get(name, [])[:3] != [*mark, self.tile]
        ]
        digests = {n: known[self.names[n]][3] for n in set(range(len(self.names))) - set(fresh)}
        broken = []
        with ThreadPoolExecutor(READERS) as readers:
            for start in range(0, len(fresh), TOGETHER):
                part = fresh[start : start + TOGETHER]
                for number, outcome in zip(part, readers.map(self._digest, part), strict=True):
                    if isinstance(outcome, BadImage):
                        broken.append(f"{self.names[number]} {outcome}")
                    else:
                        digests[number] = outcome
        if broken:
            more = ", ..." if len(broken) > SHOWN else ""
            raise UserError(
                f"{self.root} has {len(broken)} image(s) that cannot be used ({'; '.join(broken[:SHOWN])}{more}): fetch them again, or "
                "take them out."
            )
        if fresh:
            rows = {name: [*marks[n], self.tile, digests[n]] for n, name in enumerate(self.names)}
            write_json(kept, {**known, **rows})
        return [digests[n] for n in range(len(self.names))]

    def _digest(self, number: int) -> str | BadImage:
        try:
            return read_image(self.root / self.names[number], self.tile)[1]
        except BadImage as error:
            return error


def _mark(path: Path) -> list[int]:
    """Size and time of a file: what says that it has not changed."""
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): mend it or take it out.") from error
    return [status.st_size, status.st_mtime_ns]


def read_known(kept: Path) -> dict[str, list[Any]]:
    """What an earlier call found; a damaged list is as good as none."""
    import json

    try:
        content = json.loads(kept.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    rows = content.items() if isinstance(content, dict) else ()
    return {name: row for name, row in rows if isinstance(row, list) and len(row) == 4}


def is_rehearsal(root: Path, names: Iterable[str]) -> bool:
    """Say whether images are synthetic: by the `cohort.yaml` of the folder or of the one above, or by the barcode of a name."""
    cards = [folder / "cohort.yaml" for folder in (root, root.resolve().parent)]
    marked = any(load_yaml(card).get("rehearsal") is True for card in cards if card.is_file())
    return marked or any("-RHSL-" in name for name in names)
