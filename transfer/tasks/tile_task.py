"""What every task of tile classification is, whatever its tiles come from."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from transfer.overlap import Origins


class TileSource(Protocol):
    """Where tiles are read from: a tile store, or folders of images.

    Attributes:
        tile: side of a tile in px.
        mpp: um/px of the tiles.
        digest: sha256 over the tiles.
        rehearsal: whether they are synthetic.
    """

    tile: int
    mpp: float
    digest: str
    rehearsal: bool

    def read_many(self, tile_ids: Iterable[int]) -> np.ndarray:
        """Return tiles as (n, tile, tile, 3) uint8, in the order asked for."""
        ...


@dataclass(frozen=True)
class Split:
    """Rows of a `TileTask`, int64, ascending. Validation may be empty where a class has one tile only."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class TileTask:
    """A labelled set of tiles under a split rule.

    Attributes:
        name, version: identity in records.
        source: where the tiles are read from.
        tiles: (N,) int64 ids in the source, ascending.
        units: (N,) their names in records: ids of a store, file names of a folder.
        labels: (N,) int32 indices into `classes`.
        clusters: (N,) what the statistics draw as a whole: slide names, or the unit itself where no slide is known.
        classes: label names, sorted.
        splits: one per trial.
        split_digest: see `split_digest`.
        remark: one line for the person at the keyboard on what the split is.
        notes: what a reader of records and tables must know of the data and the split.
    """

    kind: ClassVar[str] = "classification"
    name: str
    version: int
    source: TileSource
    tiles: np.ndarray
    units: np.ndarray
    labels: np.ndarray
    clusters: np.ndarray
    classes: tuple[str, ...]
    splits: tuple[Split, ...]
    split_digest: str
    remark: str = ""
    notes: tuple[str, ...] = ()

    @property
    def rehearsal(self) -> bool:
        return bool(self.source.rehearsal)

    @property
    def data_digest(self) -> str:
        return self.source.digest

    @property
    def trials(self) -> int:
        return len(self.splits)

    @property
    def decoder(self) -> str | None:
        """Digest of what the decoders of the slides made of known files; None where no slide was decoded."""
        return getattr(self.source, "decoder", None)

    def tested(self, trial: int) -> Origins | None:
        """Return where the test tiles of a trial come from; None where no slide is known."""
        if hasattr(self.source, "origins_of"):
            return self.source.origins_of(self.tiles[self.splits[trial].test])
        index = getattr(self.source, "index", None)
        if index is None or "slide" not in index:
            return None
        rows = self.tiles[self.splits[trial].test]
        keys = [key for key in ("slide", "patient", "hospital", "slide_digest") if key in index]
        return Origins.of(*(np.unique(np.asarray(index[key])[rows].astype(str)) for key in keys))

    def trial_notes(self, trial: int) -> tuple[str, ...]:
        """Say which classes a trial has nothing to learn from, or nothing to choose by: its scores are low for that reason."""
        split = self.splits[trial]
        train, validation, test = (
            set(np.unique(self.labels[rows]).tolist()) for rows in (split.train, split.validation, split.test)
        )
        notes: tuple[str, ...] = ()
        if unknown := test - train - validation:
            notes += (
                f"Trial {trial + 1}: no tile of {self._names(unknown)} to learn from, so all of it that is tested counts as wrong.",
            )
        if unseen := validation - train:
            notes += (
                f"Trial {trial + 1}: validation has {self._names(unseen)} and the training part has none, so what is chosen there "
                "(such as C) may be far from the best.",
            )
        return notes

    def _names(self, classes: set[int]) -> str:
        return ", ".join(self.classes[c] for c in sorted(classes))

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return the tiles of rows (n,) as (n, T, T, 3) uint8."""
        return self.source.read_many(self.tiles[rows])


ROUND = 3
"""Draws whose parts go into the digest of a task that draws anew in every trial."""


def split_digest(
    data: str, tiles: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], splits: tuple[Split, ...]
) -> str:
    """Return the sha256 over the digest of the data, tile ids, labels, classes and the parts of one round of the split rule.

    A round is the same however many trials are asked for, so that a cell that was scored is found again: all folds, or the
    first `ROUND` draws.
    """
    state = hashlib.sha256(json.dumps({"store": data, "classes": classes, "trials": len(splits)}).encode())
    for array in (tiles, labels, *(part for split in splits for part in (split.train, split.validation, split.test))):
        state.update(len(array).to_bytes(8, "little") + np.ascontiguousarray(array, dtype="<i8").tobytes())
    return state.hexdigest()
