"""Tile classification on any labelled tile store, with folds that keep the tiles of a slide (and the slides of a patient) together."""

import hashlib
import json
import math
from dataclasses import dataclass

import numpy as np

from pretrain.tiles import TileStore
from results.errors import UserError
from transfer.tasks.schema import TaskSettings

FEWEST_SLIDES = 3
"""One to train on, one to choose hyperparameters on, one to test on."""


@dataclass(frozen=True)
class Split:
    """Rows of a `TileTask`, int64, ascending; the three share no slide and no patient."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class TileTask:
    """A labelled subset of a store under a split rule.

    Attributes:
        name, version: identity in records.
        store: where the tiles are read from.
        tiles: (N,) int64 tile ids, ascending.
        labels: (N,) int32 indices into `classes`.
        clusters: (N,) slide names.
        classes: label names, sorted.
        splits: one per trial.
        split_digest: sha256 over the store's digest, tile ids, labels, classes and the parts of every trial.
    """

    name: str
    version: int
    store: TileStore
    tiles: np.ndarray
    labels: np.ndarray
    clusters: np.ndarray
    classes: tuple[str, ...]
    splits: tuple[Split, ...]
    split_digest: str


def load_tile_task(settings: TaskSettings, store: TileStore, trials: int, seed: int) -> TileTask:
    """Choose tiles, deal slides into folds and return the task.

    Trial t tests on fold t of max(3, trials); with three trials or more every slide that is tested is tested once. Of the slides
    left, `validation_share` are held out for choosing hyperparameters. Slides of one patient stay together, and the folds take
    turns through the slides of each hospital. All of it is a function of slide, patient and hospital names, and the seed.

    Raises:
        UserError: when the store has no labels, too few slides or classes for the trials, or is not of the task's kind.
    """
    if trials < 1:
        raise UserError(f"trials={trials} must be 1 or more.")
    cohort = store.summary["cohort"]
    name = settings.name or f"{cohort}-tiles"
    if settings.rehearsal and not store.rehearsal:
        raise UserError(f"task {name} is for the synthetic rehearsal cohort, and {store.root} is not: use task=tiles.")
    tiles, labels, classes = _labelled(settings, store)
    slides = np.asarray(store.index["slide"])[tiles].astype(str)
    groups, hospitals = _groups(store, tiles, slides)
    held = _folds(groups, hospitals, max(FEWEST_SLIDES, trials), seed, str(store.root))
    splits = tuple(_split(groups, hospitals, fold, settings.validation_share, seed) for fold in held[:trials])
    for trial, split in enumerate(splits):
        if len(np.unique(labels[split.train])) < 2:
            raise UserError(
                f"{store.root}: trial {trial + 1} would train on slides of one class only: annotate more slides, or change seed or trials."
            )
    digest = _digest(store.digest, tiles, labels, classes, splits)
    return TileTask(name, settings.version, store, tiles, labels, slides, classes, splits, digest)


def _labelled(settings: TaskSettings, store: TileStore) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
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
        tiles = _evenly(tiles, np.asarray(store.index["slide"])[tiles].astype(str), settings.max_tiles_per_slide)
    return tiles.astype(np.int64), np.searchsorted(classes, names[tiles]).astype(np.int32), classes


def _evenly(tiles: np.ndarray, slides: np.ndarray, most: int) -> np.ndarray:
    """Keep at most `most` tiles a slide, evenly spaced in tile-id order."""
    kept = []
    for slide in np.unique(slides):
        own = tiles[slides == slide]
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


def _digest(
    store: str, tiles: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], splits: tuple[Split, ...]
) -> str:
    state = hashlib.sha256(json.dumps({"store": store, "classes": classes, "trials": len(splits)}).encode())
    for array in (tiles, labels, *(part for split in splits for part in (split.train, split.validation, split.test))):
        state.update(len(array).to_bytes(8, "little") + np.ascontiguousarray(array, dtype="<i8").tobytes())
    return state.hexdigest()
