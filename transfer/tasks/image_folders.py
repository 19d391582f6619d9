"""Tile classification on folders of images, one a class, with a given test set: NCT-CRC-HE."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from results.errors import UserError
from results.files import value_digest
from transfer.tasks.image_files import SHOWN, ImageFiles, images_in, is_rehearsal
from transfer.tasks.sample import named_by_size
from transfer.tasks.schema import Kind, Request, TaskSettings, task_root
from transfer.tasks.tile_task import ROUND, Split, TileTask, split_digest

LARGEST = 4096
"""px of a side."""
COARSEST = 100
"""um/px."""


@dataclass
class ImageFolders(TaskSettings):
    """The keys of a task on folders `<root>/<set>/<class>/<image>`.

    Attributes:
        layout: name of the data's folder in a synthetic cohort.
        train: folder of the labelled set; it must hold every class.
        test: folder of the set that is tested on, once; it may lack classes.
        classes: names of the class folders.
        tile: side of every image in px.
        mpp: um/px.
        full_set: tiles of both sets as published; folders with fewer go by the name of a sample.
    """

    kind: str = "image_folders"
    layout: str = ""
    train: str = ""
    test: str = ""
    classes: list[str] = field(default_factory=list)
    tile: int = 224
    mpp: float = 0.5
    full_set: int | None = None

    def check(self, where: str) -> None:
        super().check(where)
        for key in ("name", "layout", "train", "test"):
            if not getattr(self, key):
                raise UserError(f"{where}: {key} is missing, a task on folders of images needs it.")
        if len(set(self.classes)) < 2 or len(set(self.classes)) != len(self.classes):
            raise UserError(f"{where}: classes={self.classes} must name two or more different folders.")
        if Path(self.train) == Path(self.test):
            raise UserError(f"{where}: train and test are both {self.train}: name two different folders.")
        if not 8 <= self.tile <= LARGEST or not 0 < self.mpp <= COARSEST:
            raise UserError(
                f"{where}: tile={self.tile} must be 8 to {LARGEST} px, and mpp={self.mpp} above 0 and at most {COARSEST} um/px."
            )


def load_image_folders(settings: ImageFolders, request: Request) -> TileTask:
    """Find and check the images, draw validation from the training set, and return the task.

    Of each class `validation_share` of the training tiles (rounded half up; never all, and one where there are two or more) chooses
    hyperparameters, in an order drawn from (seed, trial, file name). The test set is the same in every trial. No slide is known, so
    each tile is a cluster of its own.

    Raises:
        UserError: when a set or class is missing, a folder or file does not belong there, or an image cannot be used.
    """
    if request.store:
        raise UserError(f"task {settings.name} is on folders of images: give task.root=FOLDER instead of store=.")
    root, classes = task_root(request, settings.layout), tuple(sorted(settings.classes))
    found = {part: _images(root, part, classes) for part in (settings.train, settings.test)}
    empty = [name for name in classes if not any(label == name for label, _ in found[settings.train])]
    if empty:
        raise UserError(
            f"{root / settings.train} has no images of {', '.join(empty)}: every class is needed to train on."
        )
    if not found[settings.test]:
        raise UserError(f"{root / settings.test} has no images: fetch the test set again.")
    rows = [(f"{part}/{label}/{name}", classes.index(label)) for part in found for label, name in found[part]]
    names, labels = [name for name, _ in rows], np.array([label for _, label in rows], dtype=np.int32)
    kept = request.work / "transfer" / f"images-{value_digest(str(root.resolve()))[:12]}.json"
    source = ImageFiles(root, names, settings.tile, settings.mpp, is_rehearsal(root, names), kept)
    count = len(found[settings.train])
    _refuse_shared(source, count)
    draws = tuple(
        _split(names, labels, count, settings.validation_share, request.seed, trial)
        for trial in range(max(ROUND, request.trials))
    )
    tiles, units = np.arange(len(names), dtype=np.int64), np.array(names)
    digest = split_digest(source.digest, tiles, labels, classes, draws[:ROUND])
    remark = (
        f"{count} tiles of {settings.train} to train and choose on, {len(names) - count} of {settings.test} to test on; no slide is "
        "known, so intervals are over tiles"
    )
    name, notes = str(settings.name), ()
    if not source.rehearsal:
        name, notes = named_by_size(name, len(names), settings.full_set, "tiles")
    splits = draws[: request.trials]
    return TileTask(name, settings.version, source, tiles, units, labels, units, classes, splits, digest, remark, notes)


def _refuse_shared(source: ImageFiles, count: int) -> None:
    """Raise a UserError when an image of the test set is among the first `count`, which are trained on.

    Files are compared by content. Images of a single colour are passed over: empty glass is alike everywhere.
    """
    known = {digest: name for name, digest in zip(source.names[:count], source.digests[:count], strict=True)}
    shared = [row for row in range(count, len(source.names)) if source.digests[row] in known]
    told = []
    for row in shared:
        pixels = source.read_many([row])[0]
        if (pixels != pixels[0, 0]).any():
            told.append(f"{source.names[row]} is {known[source.digests[row]]}")
        if len(told) > SHOWN:
            break
    if told:
        more = ", ..." if len(told) > SHOWN else ""
        raise UserError(
            f"{source.root} has images to test on that are trained on too ({'; '.join(told[:SHOWN])}{more}): take them out of one set."
        )


def _images(root: Path, part: str, classes: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return (class, file name) of every image of one set, by class and name."""
    folder = root / part
    if not folder.is_dir():
        raise UserError(
            f"{folder} is missing: give task.root=FOLDER, the folder that holds {part} beside the other set."
        )
    there = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    stray = [name for name in there if name not in classes]
    if stray:
        raise UserError(f"{folder / stray[0]} is none of the classes {', '.join(classes)}: take it out of the set.")
    return [(label, name) for label in there for name in images_in(folder / label)]


def _split(names: list[str], labels: np.ndarray, count: int, share: float, seed: int, trial: int) -> Split:
    """Part the first `count` rows into train and validation; the others are the test."""

    def drawn(row: int) -> bytes:
        return hashlib.sha256(f"validation {seed} {trial} {names[row]}".encode()).digest()

    held: list[int] = []
    for label in np.unique(labels[:count]):
        own = sorted(np.flatnonzero(labels[:count] == label).tolist(), key=drawn)
        held += own[: min(len(own) - 1, max(1, int(share * len(own) + 0.5)))]
    validation = np.sort(np.array(held, dtype=np.int64))
    train = np.setdiff1d(np.arange(count, dtype=np.int64), validation)
    return Split(train, validation, np.arange(count, len(names), dtype=np.int64))


KIND = Kind(ImageFolders, load_image_folders)
