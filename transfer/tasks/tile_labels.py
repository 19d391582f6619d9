"""Tile classification on any labelled tile store, with folds that keep the tiles of a slide (and the slides of a patient) together."""

import hashlib
import math
from dataclasses import dataclass

import numpy as np

from pretrain.tiles import TileStore, latest_store
from results.errors import UserError
from transfer.tasks.schema import Kind, Request, TaskSettings
from transfer.tasks.tile_task import Split, TileTask, split_digest

FEWEST_SLIDES = 3
"""One to train on, one to choose hyperparameters on, one to test on."""


@dataclass
class TileLabels(TaskSettings):
    """The keys of a task on a labelled tile store.

    Attributes:
        rehearsal: whether the task is for synthetic slides; it must agree with the store.
        min_label_share: least share of a tile's area that must have its label, 0 to 1.
        max_tiles_per_slide: cap on a slide's tiles, evenly spaced by tile id; None keeps all.
        cap_each_label: the cap counts the tiles of each label of a slide, so that rare ones are not lost among the others.
    """

    kind: str = "tile_labels"
    rehearsal: bool = False
    min_label_share: float = 0.7
    max_tiles_per_slide: int | None = None
    cap_each_label: bool = False

    def check(self, where: str) -> None:
        super().check(where)
        if not 0 <= self.min_label_share <= 1:
            raise UserError(f"{where}: min_label_share={self.min_label_share} must lie between 0 and 1.")
        if self.max_tiles_per_slide is not None and self.max_tiles_per_slide < 1:
            raise UserError(
                f"max_tiles_per_slide={self.max_tiles_per_slide} must be a whole number above 0, or null for all tiles."
            )


def open_store(request: Request) -> TileStore:
    """Open the store that was asked for, or the newest labelled one.

    Raises:
        UserError: when there is none, or a folder of images was given.
    """
    if request.root:
        raise UserError(
            f"task.root={request.root} is for tasks on folders of images: give store=FOLDER, or such a task."
        )
    return TileStore(request.store or latest_store(request.work, labelled=True))


def load_tile_task(settings: TileLabels, store: TileStore, trials: int, seed: int) -> TileTask:
    """Choose tiles, deal slides into folds and return the task.

    Trial t tests on fold t of max(3, trials); with three trials or more every slide that is tested is tested once. Of the slides
    left, `validation_share` are held out for choosing hyperparameters. Slides of one patient stay together, and the folds take
    turns through the slides of each hospital. All of it is a function of slide, patient and hospital names, and the seed.

    Raises:
        UserError: when the store has no labels, too few slides or classes for the trials, or is not of the task's kind.
    """
    cohort = store.summary["cohort"]
    name = settings.name or f"{cohort}-tiles"
    if settings.rehearsal and not store.rehearsal:
        raise UserError(f"task {name} is for the synthetic rehearsal cohort, and {store.root} is not: use task=tiles.")
    tiles, labels, classes = labelled(settings, store)
    if not store.has_slides and not np.asarray(store.index["patient"])[tiles].astype(bool).all():
        raise UserError(
            f"{store.root} holds packed images whose slides and patients are unknown, so a split could have one slide on both sides: pack them "
            "again with table=FILE.csv that names them."
        )
    slides = np.asarray(store.index["slide"])[tiles].astype(str)
    groups, hospitals = _groups(store, tiles, slides)
    held = _folds(groups, hospitals, max(FEWEST_SLIDES, trials), seed, str(store.root))
    dealt = tuple(_split(groups, hospitals, fold, settings.validation_share, seed) for fold in held)
    splits = dealt[:trials]
    for trial, split in enumerate(splits):
        if len(np.unique(labels[split.train])) < 2:
            raise UserError(
                f"{store.root}: trial {trial + 1} would train on slides of one class only: annotate more slides, or change seed or trials."
            )
    digest = split_digest(store.digest, tiles, labels, classes, dealt)
    return TileTask(name, settings.version, store, tiles, tiles, labels, slides, classes, splits, digest)


def labelled(settings: TileLabels, store: TileStore) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Return the tile ids (N,) int64, their labels (N,) int32 and the classes that the settings ask for."""
    names = np.asarray(store.index["label"]).astype(str)
    enough = np.asarray(store.index["label_share"]) >= settings.min_label_share
    tiles = np.flatnonzero((names != "") & enough)
    if not (names != "").any():
        raise UserError(
            f"{store.root} has no labelled tiles: give cohort.csv a 'mask' column and a labels.csv beside it, then tile again."
        )
    classes = tuple(np.unique(names[tiles]).tolist())
    if len(classes) < 2:
        found = ", ".join(classes) or "none"
        raise UserError(
            f"{store.root} has fewer than 2 classes (found: {found}) among tiles of which {settings.min_label_share:.0%} have one "
            "label: annotate another class, or lower min_label_share in a task file of your own."
        )
    if settings.max_tiles_per_slide is not None:
        groups = np.asarray(store.index["slide"])[tiles].astype(str)
        if settings.cap_each_label:
            groups = np.char.add(np.char.add(groups, "\n"), names[tiles])
        tiles = _evenly(tiles, groups, settings.max_tiles_per_slide)
    return tiles.astype(np.int64), np.searchsorted(classes, names[tiles]).astype(np.int32), classes


def _evenly(tiles: np.ndarray, groups: np.ndarray, most: int) -> np.ndarray:
    """Keep at most `most` tiles a group, evenly spaced in tile-id order."""
    kept = []
    for group in np.unique(groups):
        own = tiles[groups == group]
        steps = np.linspace(0, len(own) - 1, min(most, len(own))).round().astype(np.int64)
        kept.append(own[steps])
    return np.sort(np.concatenate(kept))


def _groups(store: TileStore, tiles: np.ndarray, slides: np.ndarray) -> tuple[np.ndarray, dict[str, str]]:
    """Return the (N,) name of what must stay together (patient, or slide where unknown), and the hospital of each."""
    patients = np.asarray(store.index["patient"])[tiles].astype(str)
    groups = np.where(patients != "", np.char.add("patient ", patients), np.char.add("slide ", slides))
    _, first = np.unique(groups, return_index=True)
    hospitals = np.asarray(store.index["hospital"])[tiles[first]].astype(str)
    return groups, dict(zip(groups[first].tolist(), hospitals.tolist(), strict=True))


def _folds(groups: np.ndarray, hospitals: dict[str, str], count: int, seed: int, where: str) -> list[list[str]]:
    if len(hospitals) < count:
        what = "slides" if all(group.startswith("slide ") for group in hospitals) else "patients"
        fewer = f", or use trials={len(hospitals)}" if len(hospitals) >= FEWEST_SLIDES else ""
        raise UserError(
            f"{where} has labelled tiles of {len(hospitals)} {what} and {count} are needed: annotate more slides{fewer}."
        )
    return _deal(list(hospitals), hospitals, count, seed, "test")


def _split(groups: np.ndarray, hospitals: dict[str, str], held: list[str], share: float, seed: int) -> Split:
    rest = [group for group in hospitals if group not in held]
    parts = min(len(rest), max(2, math.floor(1 / share + 0.5)))
    validation = _deal(rest, hospitals, parts, seed, "validation")[0]
    tested, validating = np.isin(groups, held), np.isin(groups, validation)
    return Split(*(np.flatnonzero(rows) for rows in (~tested & ~validating, validating, tested)))


def _deal(names: list[str], hospitals: dict[str, str], count: int, seed: int, purpose: str) -> list[list[str]]:
    """Deal names into `count` hands, hospital after hospital, in an order drawn from (seed, purpose, name)."""

    def drawn(name: str) -> tuple[str, str]:
        return hospitals[name], hashlib.sha256(f"{purpose} {seed} {name}".encode()).hexdigest()

    order = sorted(names, key=drawn)
    return [order[hand::count] for hand in range(count)]


def _load(settings: TileLabels, request: Request) -> TileTask:
    return load_tile_task(settings, open_store(request), request.trials, request.seed)


KIND = Kind(TileLabels, _load)
