"""`python -m transfer classify`: score encoders on labelled tiles, one record a cell."""

import itertools
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from pretrain.tiles import TileStore, latest_store
from results.errors import UserError
from results.record import find_record, write_record
from results.settings import compose, split_overrides
from transfer.cells import Cell, Recorder, extract, scale_mismatch, timed
from transfer.encoders import EncoderOptions, open_encoders
from transfer.encoders.base import Encoder
from transfer.engines import ENGINES
from transfer.tasks import TileTask, load_tile_task, read_task


@dataclass
class Settings:
    """The settings of `python -m transfer classify`; its help text says what they mean."""

    encoder: Any = "latest"
    task: str | None = None
    store: str | None = None
    work: str = "work"
    records: str = "results/records"
    engines: list[str] = field(default_factory=lambda: list(ENGINES))
    trials: int = 3
    seed: int = 0
    floors: bool = True
    imagenet: str | None = None
    download: bool = False
    allow_partial: bool = False
    max_tiles_per_slide: int | None = None
    device: str = "auto"
    batch_size: int = 256


def load(arguments: list[str]) -> Settings:
    """Resolve `key=value` arguments; a UserError names what is unknown or does not fit."""
    settings: Settings = OmegaConf.to_object(compose(OmegaConf.structured(Settings), [], split_overrides(arguments)))
    settings.encoder = (
        [str(spec) for spec in settings.encoder] if isinstance(settings.encoder, list) else [str(settings.encoder)]
    )
    for name, least in (("batch_size", 1), ("trials", 1), ("seed", 0)):
        if getattr(settings, name) < least:
            raise UserError(f"{name}={getattr(settings, name)} is too small: give {least} or more.")
    unknown = [name for name in settings.engines if name not in ENGINES]
    if unknown or not settings.engines:
        raise UserError(f"engines=[{','.join(settings.engines)}] is not possible: choose among {', '.join(ENGINES)}.")
    return settings


def classify(settings: Settings) -> int:
    """Score every encoder with every engine on every trial whose record is not there yet.

    Returns:
        0, or 3 when a cell crashed (its record says how) while the others went on.

    Raises:
        UserError: before the first cell, for a mistake in settings, store, task or encoder.
    """
    store = TileStore(Path(settings.store) if settings.store else latest_store(Path(settings.work), labelled=True))
    spec = settings.task or ("rehearsal" if store.rehearsal else "tiles")
    task = load_tile_task(read_task(spec, settings.max_tiles_per_slide), store, settings.trials, settings.seed)
    options = EncoderOptions(
        Path(settings.work),
        settings.imagenet,
        settings.download,
        settings.allow_partial,
        settings.device,
        settings.seed,
        size=store.tile,
    )
    encoders, remarks = open_encoders(settings.encoder, options, settings.floors)
    _say(
        f"{task.name} v{task.version}: {len(task.tiles)} tiles of {len(np.unique(task.clusters))} slides, {len(task.classes)} classes, "
        f"{settings.trials} trials, {len(encoders)} encoders" + (" (synthetic slides)" if store.rehearsal else "")
    )
    for remark in remarks:
        _say(remark)
    _check_writable(Path(settings.records))
    sweep = _Sweep(settings, task)
    for encoder in encoders:
        sweep.run(encoder)
    _say(
        f"{sweep.scored} cells scored, {sweep.known} already there, {sweep.crashed} crashed; records in {settings.records}, "
        "'python -m results table' lays them out"
    )
    return 3 if sweep.crashed else 0


def _check_writable(folder: Path) -> None:
    """Find out before the first cell, not after it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"records={folder} cannot be made ({error.strerror}): give a folder that can be written."
        ) from error
    if not os.access(folder, os.W_OK):
        raise UserError(f"records={folder} cannot be written: mend its permissions or give another folder.")


class _Sweep:
    """The cells of one command, encoder after encoder; features are extracted once and shared by trials and engines."""

    def __init__(self, settings: Settings, task: TileTask) -> None:
        self.scored = self.known = self.crashed = 0
        self._settings, self._task, self._recorder = settings, task, Recorder()

    def run(self, encoder: Encoder) -> None:
        settings = self._settings
        cells = [
            Cell(self._task, encoder, engine, settings.seed, trial)
            for trial in range(settings.trials)
            for engine in settings.engines
        ]
        missing = []
        for cell in cells:
            record = find_record(settings.records, cell.key)
            if record is not None and record.ok:
                self.known += 1
                _say(f"{_title(cell)}  already in {settings.records}")
            else:
                missing.append(cell)
        mismatch = scale_mismatch(encoder, self._task)
        if mismatch and missing:
            tiles, own = (f"{side['px']} px at {side['mpp']:g} um/px" for side in mismatch.values())
            print(
                f"warning: {encoder.name} was trained on tiles of {own}, these are {tiles}.",
                file=sys.stderr,
                flush=True,
            )
        for trial_encoder, group in _by_encoder(encoder, missing):
            self._run_group(trial_encoder, group)

    def _run_group(self, encoder: Encoder, cells: list[Cell]) -> None:
        """Run cells that share one set of features; each carries an equal part of the time these took."""
        try:
            features, extraction = timed(lambda: extract(encoder, self._task, self._settings.batch_size))
        except Exception as error:
            for cell in cells:
                self._crash(cell, error, 0.0)
            return
        for cell in cells:
            self._run_cell(cell, features, extraction / len(cells))

    def _run_cell(self, cell: Cell, features: np.ndarray, extraction: float) -> None:
        try:
            predictions, seconds = timed(lambda: cell.predict(features))
            units = cell.units(predictions)
            record = self._recorder.scored(cell, units, seconds + extraction)
            write_record(self._settings.records, record, units)
        except Exception as error:
            self._crash(cell, error, extraction)
            return
        self.scored += 1
        first = record["metrics"][0]
        value = "undefined" if first["value"] is None else f"{first['value']:.3f}"
        remark = f"  {predictions.remark}" if predictions.remark else ""
        _say(f"{_title(cell)}  {first['name'].replace('_', ' ')} {value}  {seconds + extraction:.1f} s{remark}")

    def _crash(self, cell: Cell, error: Exception, seconds: float) -> None:
        self.crashed += 1
        record = self._recorder.crashed(cell, error, seconds)
        try:
            write_record(self._settings.records, record, None)
        except OSError as cause:
            raise UserError(
                f"{self._settings.records} takes no records ({cause}): make room there or give records=FOLDER; finished cells stay."
            ) from cause
        print(f"{_title(cell)}  crashed: {record['error']}", file=sys.stderr, flush=True)


def _by_encoder(encoder: Encoder, cells: list[Cell]) -> Iterator[tuple[Encoder, list[Cell]]]:
    """Group cells by the encoder of their trial: one group, or one a trial where weights are drawn anew."""
    if not cells:
        return
    if encoder.for_trial(cells[0].trial) is encoder:
        yield encoder, cells
        return
    for trial, group in itertools.groupby(cells, key=lambda cell: cell.trial):
        yield encoder.for_trial(trial), list(group)


def _title(cell: Cell) -> str:
    return f"{cell.engine:<6}  {cell.encoder.name}  trial {cell.trial + 1}/{len(cell.task.splits)}"


def _say(line: str) -> None:
    print(line, flush=True)
