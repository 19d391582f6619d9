"""Tile classification on a labelled tile store whose slides have a published split: Camelyon16."""

from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import numpy as np

from results.errors import UserError
from transfer.tasks.sample import named_by_size
from transfer.tasks.schema import Kind, Request
from transfer.tasks.tile_labels import TileLabels, labelled, open_store
from transfer.tasks.tile_task import ROUND, Split, TileTask, split_digest


@dataclass
class SlideLists(TileLabels):
    """The keys of a task with a split by slide name; `*` stands for any characters.

    Attributes:
        train_slides: patterns of the official training slides, from which validation is taken.
        validation_slides: names of those held out to choose hyperparameters; `validation_share` is not used.
        test_slides: patterns of the official test slides.
        full_set: slides of the whole data set; a store with fewer goes by the name of a sample.
    """

    kind: str = "slide_lists"
    train_slides: list[str] = field(default_factory=list)
    validation_slides: list[str] = field(default_factory=list)
    test_slides: list[str] = field(default_factory=list)
    full_set: int | None = None


def load_slide_lists(settings: SlideLists, request: Request) -> TileTask:
    """Choose tiles, part them by slide name and return the task; the split is the same in every trial.

    Raises:
        UserError: when a slide is in no list, or a part is empty or has one class only.
    """
    store = open_store(request)
    name = settings.name or f"{store.summary['cohort']}-tiles"
    if store.rehearsal:
        raise UserError(
            f"task {name} is for the slides of its data set and {store.root} is synthetic: use task=rehearsal."
        )
    tiles, labels, classes = labelled(settings, store)
    slides = np.asarray(store.index["slide"])[tiles].astype(str)
    part_of = {slide: _part(slide, settings, str(store.root)) for slide in np.unique(slides).tolist()}
    parts = np.array([part_of[slide] for slide in slides.tolist()])
    split = Split(*(np.flatnonzero(parts == part) for part in ("train", "validation", "test")))
    for part, rows in (("train", split.train), ("validation", split.validation), ("test", split.test)):
        if len(np.unique(labels[rows])) < 2:
            raise UserError(
                f"{store.root}: the {part} slides of {name} have tiles of fewer than 2 classes: tile more of these slides."
            )
    counts = [sum(part == wanted for part in part_of.values()) for wanted in ("train", "validation", "test")]
    remark = f"official split by slide name: {counts[0]} slides train, {counts[1]} validate, {counts[2]} test"
    splits = (split,) * request.trials
    digest = split_digest(store.digest, tiles, labels, classes, (split,) * ROUND)
    name, notes = named_by_size(name, len(part_of), settings.full_set, "slides")
    return TileTask(name, settings.version, store, tiles, tiles, labels, slides, classes, splits, digest, remark, notes)


def _part(slide: str, settings: SlideLists, where: str) -> str:
    if slide in settings.validation_slides:
        return "validation"
    for part, patterns in (("test", settings.test_slides), ("train", settings.train_slides)):
        if any(fnmatchcase(slide, pattern) for pattern in patterns):
            return part
    raise UserError(
        f"{where}: slide '{slide}' is in no part of {settings.name}, whose slides are named "
        f"{', '.join([*settings.train_slides, *settings.test_slides])}: use task=tiles, or name the files as they were published."
    )


KIND = Kind(SlideLists, load_slide_lists)
