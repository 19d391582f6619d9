"""What stands under a table in words."""

import json
import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from results.kinds import KINDS
from results.naming import PER_ENCODER, settings_in_words
from results.provenance import short_revision
from results.record import Record
from results.statistics import Trial

if TYPE_CHECKING:
    from results.table import Row


def trials_in_words(rows: Sequence["Row"], trials: Mapping[Hashable, Sequence[Trial]]) -> str:
    """Say what the trials are: folds, repeats on the same slides, and whether pretraining seeds are pooled."""
    slides: dict[Hashable, set[str]] = defaultdict(set)
    for trial in (trial for members in trials.values() for trial in members):
        slides[trial.number] |= set(np.unique(trial.cluster).tolist())
    counts = sorted({len(members) for members in trials.values() if members}) or [0]
    words = " to ".join(map(str, sorted({counts[0], counts[-1]}))) + (" trial" if counts == [1] else " trials")
    if len(slides) > 1:
        apart = sum(map(len, slides.values())) == len(set().union(*slides.values()))
        words += " (folds: every test slide in one)" if apart else " (seeds or repeats on shared test slides)"
    return words + (", pretraining seeds pooled" if any(len(row.seeds) > 1 for row in rows) else "")


def percent(share: float) -> str:
    """Return a share below 1 as text, rounded down, so that 99.99 % does not read as all."""
    return f"{math.floor(share * 1000) / 10:g} %"


def _marks(record: Record) -> list[str]:
    coverage = record.data["encoder"]["coverage"]
    told = {**(coverage if isinstance(coverage, dict) else {}), **record.data["engine"]["settings"]}
    name = record.data["encoder"]["name"]
    return [f"{name}: {key.replace('_', ' ')}, {_in_words(told[key])}." for key in PER_ENCODER if key in told]


def _in_words(told: Any) -> str:
    """Return what a record tells of a mismatch: `scored on 96 px at 0.25 um/px, trained on 32 px at 0.5 um/px`."""
    verbs = {"tiles": "scored on", "encoder": "trained on"}
    sides = told if isinstance(told, dict) else {}
    if sides.keys() != verbs.keys() or not all(
        isinstance(side, dict) and {"px", "mpp"} <= side.keys() for side in sides.values()
    ):
        return json.dumps(told, sort_keys=True)
    return ", ".join(f"{verbs[key]} {sides[key]['px']} px at {sides[key]['mpp']:g} um/px" for key in verbs)


def _schedule(record: Record) -> str | None:
    stated = record.data["engine"]["settings"].get("schedule")
    return stated.get("name") if isinstance(stated, dict) else stated


def _decoders(records: Sequence[Record]) -> list[str]:
    """Warn where rows that stand side by side come from slides that were decoded to different pixels."""
    cards = [record.data["encoder"]["card"] or {} for record in records]
    scored = {record.data["task"].get("decoder") for record in records} - {None}
    trained = {(card.get("data") or {}).get("decoder") for card in cards} - {None, ""}
    words = [("test tiles", scored), ("pretraining tiles", trained)]
    return [
        f"The {what} of these rows were decoded by {len(found)} sets of libraries that make different pixels of the same file."
        for what, found in words
        if len(found) > 1
    ]


def notes_of(records: Sequence[Record], rows: Sequence["Row"], engine_of: Mapping[Hashable, str]) -> list[str]:
    """Return what a reader must know of these records, rows and, by record path, engine columns."""
    notes, kind = sorted({note for record in records for note in record.data.get("notes", ())}), KINDS[records[0].kind]
    if not any(row.floor for row in rows):
        notes.append("No floor rows: nothing here shows what colour or untrained weights alone would reach.")
    if any(cell.estimate is not None and cell.estimate.tiles_only for row in rows for cell in row.cells.values()):
        notes.append(f"One test slide only: the interval shows the sampling of its {kind.units}, not of slides.")
    for row in rows:
        if row.loaded < 1:
            notes.append(
                f"{row.name}: only {percent(row.loaded)} of the encoder's weights found their place; the rest is as it was drawn."
            )
        if len(row.seeds) > 1:
            seeds = ", ".join(map(str, row.seeds))
            notes.append(f"{row.name}: {len(row.seeds)} pretraining seeds ({seeds}) are pooled as trials.")
        if row.runs:
            runs = ", ".join(f"{run} (seed {seed})" for run, seed in row.runs)
            notes.append(f"{row.name}: run{'s' if len(row.runs) > 1 else ''} {runs}.")
    notes += sorted({mark for record in records for mark in _marks(record)})
    stores = {record.data["task"]["store_digest"] for record in records}
    if len(stores) > 1:
        source = "tile stores" if records[0].kind == "classification" else "copies of the images"
        notes.append(f"The records come from {len(stores)} {source} of the same split: pixels may differ.")
    smoke = sorted({engine_of[record.path] for record in records if _schedule(record) == "smoke"})
    if smoke:
        notes.append(
            f"Schedule smoke ({', '.join(smoke)}): it shows that everything runs; its scores say nothing of an encoder."
        )
    made = {(engine_of[record.path], settings_in_words(record)) for record in records}
    notes += [f"{engine}: {settings}." for engine, settings in sorted(made) if settings]
    notes += _decoders(records)
    revisions = sorted({record.data["git_revision"] for record in records})
    notes.append(f"Code: {', '.join(dict.fromkeys(map(short_revision, revisions)))}.")
    for record in records:
        if not record.ok:
            reason = " ".join(record.data["error"].split())[:160] or "no reason given"
            cell = f"{record.data['encoder']['name']}, {engine_of[record.path]}, trial {record.data['trial']}"
            notes.append(f"crashed: {cell}: {reason} ({record.path.name})")
    return notes
