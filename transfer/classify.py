"""`python -m transfer classify`: score encoders on labelled tiles, one record a cell."""

import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pretrain.tiles import TileStore, latest_store
from results.errors import UserError, told_together
from results.record import find_record, write_record
from transfer.cells import Cell, extract, scale_mismatch
from transfer.encoders import open_encoders
from transfer.encoders.base import Encoder
from transfer.engines import Images, known_engines
from transfer.recording import Recorder, check_writable, planned, say, timed, titled
from transfer.settings import CellSettings, check_device, check_encoders, encoder_options, read_settings
from transfer.tasks import Request, TileTask, load_task, read_task

HELP = """python -m transfer classify key=value ...

Scores encoders on labelled tiles, of a store or of folders; one record a cell (task x encoder x engine x trial). A cell whose
record is there already is not run again, so the command can be stopped and repeated.

  encoder=latest      newest finished export under work/runs; latest:METHOD:COHORT:SEED the newest of these;
                      all the newest of every (method, cohort, seed); or a run folder, a backbone.safetensors,
                      random, imagenet, mean_rgb, colour_histogram; several as encoder=[a,b]
  task=null           rehearsal, tiles, camelyon16-tiles (tile stores), nct-crc-he, nct-crc-he-nonorm (folders of images), pcam
                      (HDF5 files) or a YAML file; null takes what fits the store
  store=null          a tile store; null takes the newest labelled one under work/tiles
  task.root=null      folder of the data set, for folders of images and HDF5 files; null takes the newest synthetic one under work/cohorts
  work=work           where pretraining left its tiles and runs
  records=results/records
  engines=[knn,linear]  of knn, linear, finetune, and linear_1pct, linear_10pct, finetune_1pct, finetune_10pct
  schedule=smoke      of fine-tuning: smoke (seconds on a CPU), short, full
  trials=3            trial t tests on fold t of a store (folds share no slide and no patient); where the test set is given,
                      trial t draws its own validation tiles, few labels and head
  seed=0              of these draws and of untrained networks
  floors=true         adds the rows a score must beat: untrained network, mean RGB, colour histogram
  imagenet=null       file of torchvision weights for one more floor row; download=true fetches them
  download=false
  allow_partial=false true scores weights that do not fill the network
  max_tiles_per_slide=null  evenly spaced over a slide; null takes the cap of the task
  device=auto
  batch_size=256
  check=false         true looks at data and encoders, counts the cells that have no record yet, and scores nothing

Exit status: 0 done, 2 mistake in input or settings, 3 a cell crashed and left a record, 143 stopped; finished cells stay.
"""


@dataclass
class Settings(CellSettings):
    """The settings of `python -m transfer classify`; `HELP` says what they mean."""

    store: str | None = None
    engines: list[str] = field(default_factory=lambda: ["knn", "linear"])
    max_tiles_per_slide: int | None = None
    batch_size: int = 256


def load(arguments: list[str]) -> Settings:
    """Resolve `key=value` arguments; a UserError names what is unknown or does not fit."""
    settings = read_settings(Settings, arguments)
    unknown = [name for name in settings.engines if not isinstance(name, str) or name not in known_engines()]
    if unknown or not settings.engines:
        raise UserError(
            f"engines=[{','.join(map(str, settings.engines))}] is not possible: choose among {', '.join(known_engines())}."
        )
    settings.engines = list(dict.fromkeys(settings.engines))
    return settings


def classify(settings: Settings) -> int:
    """Score every encoder with every engine on every trial whose record is not there yet.

    Returns:
        0, or 3 when a cell crashed (its record says how) while the others went on.

    Raises:
        UserError: before the first cell, for a mistake in settings, store, task or encoder.
    """
    told_together(
        (
            lambda: check_encoders(settings),
            lambda: check_device(settings),
            lambda: check_writable("records", Path(settings.records)),
            lambda: _check_task(settings),
        )
    )
    task = _open_task(settings)
    options = encoder_options(settings, size=task.source.tile)
    encoders, remarks = open_encoders(settings.encoder, options, settings.floors)
    apart = "" if len(np.unique(task.clusters)) == len(task.tiles) else f" of {len(np.unique(task.clusters))} slides"
    say(
        f"{task.name} v{task.version}: {len(task.tiles)} tiles{apart}, {len(task.classes)} classes, "
        f"{settings.trials} trials, {len(encoders)} encoders" + (" (synthetic slides)" if task.rehearsal else "")
    )
    trial_notes = [note for trial in range(task.trials) for note in task.trial_notes(trial)]
    for remark in [*([task.remark] if task.remark else []), *task.notes, *trial_notes, *remarks]:
        say(remark)
    sweep = _Sweep(settings, task)
    plans = [(encoder, sweep.cells(encoder)) for encoder in encoders]
    count = sum(len(cells) for _, cells in plans)
    say(planned(count, count - sum(sweep.has_record(cell) for _, cells in plans for cell in cells), settings.records))
    if settings.check:
        return 0
    for encoder, cells in plans:
        sweep.run(encoder, cells)
    say(
        f"{sweep.scored} cells scored, {sweep.known} already there, {sweep.crashed} crashed; records in {settings.records}, "
        "'python -m results table' lays them out"
    )
    return 3 if sweep.crashed else 0


def _open_task(settings: Settings) -> TileTask:
    spec, work = settings.task, Path(settings.work)
    if spec is None and settings.root:
        raise UserError(f"task.root={settings.root} needs to know the task: add task=nct-crc-he, for example.")
    if spec is None:
        store = TileStore(settings.store or latest_store(work, labelled=True))
        spec = "rehearsal" if store.rehearsal else "tiles"
    request = Request(work, settings.root, settings.store, settings.trials, settings.seed)
    return load_task(read_task(spec, changes={"max_tiles_per_slide": settings.max_tiles_per_slide}), request)


def _check_task(settings: Settings) -> None:
    """Find out before anything is read whether store and task are there, and `work` for what a task on files keeps."""
    if settings.store:
        TileStore(settings.store)
    if settings.task:
        read_task(settings.task)
    if settings.root:  # what of its files was read is remembered there
        check_writable("work", Path(settings.work))


class _Sweep:
    """The cells of one command, encoder after encoder; features are extracted once and shared by trials and engines."""

    def __init__(self, settings: Settings, task: TileTask) -> None:
        self.scored = self.known = self.crashed = 0
        self._settings, self._task, self._recorder = settings, task, Recorder()

    def has_record(self, cell: Cell) -> bool:
        """Whether a cell was scored already."""
        record = find_record(self._settings.records, cell.key)
        return record is not None and record.ok

    def run(self, encoder: Encoder, cells: list[Cell]) -> None:
        """Run the cells of one encoder that have no record yet."""
        missing = []
        for cell in cells:
            if self.has_record(cell):
                self.known += 1
                say(f"{_title(cell)}  already in {self._settings.records}")
            else:
                missing.append(cell)
        mismatch = scale_mismatch(encoder, self._task)
        if mismatch and missing:
            tiles, own = (f"{side['px']} px at {side['mpp']:g} um/px" for side in mismatch.values())
            say(f"warning: {encoder.name} was trained on tiles of {own}, these are {tiles}.", sys.stderr)
        for trial_encoder, group in _by_encoder(encoder, missing):
            self._run_group(trial_encoder, group)

    def cells(self, encoder: Encoder) -> list[Cell]:
        """The cells of one encoder, trial after trial; engines that train a network are left out where there is none."""
        settings = self._settings
        trains = {name: known_engines()[name](settings.schedule).trains for name in settings.engines}
        engines = [name for name in settings.engines if hasattr(encoder, "backbone") or not trains[name]]
        if left := [name for name in settings.engines if name not in engines]:
            say(f"{encoder.name} has no network to train: no {', '.join(left)}")
        return [
            Cell(self._task, encoder, engine, settings.seed, trial, settings.schedule)
            for trial in range(settings.trials)
            for engine in engines
        ]

    def _run_group(self, encoder: Encoder, cells: list[Cell]) -> None:
        """Run cells that share one set of weights; those on features carry an equal part of the time these took."""
        on_features = [cell for cell in cells if not cell.build().trains]
        if on_features:
            try:
                features, seconds = timed(lambda: extract(encoder, self._task, self._settings.batch_size))
            except Exception as error:
                for cell in on_features:
                    self._crash(cell, error, 0.0)
            else:
                for cell in on_features:
                    self._run_cell(cell, features, None, seconds / len(on_features))
        for cell in cells:
            if cell.build().trains:
                images = Images(self._task.read, encoder.backbone(), encoder.size, self._settings.device)
                self._run_cell(cell, None, images, 0.0)

    def _run_cell(self, cell: Cell, features: np.ndarray | None, images: Images | None, extraction: float) -> None:
        begun = cell.begin(self._recorder)
        try:
            predictions, seconds = timed(lambda: cell.predict(features, images))
            units = cell.units(predictions)
            record = begun.scored(units, seconds + extraction)
            write_record(self._settings.records, record, units)
        except Exception as error:
            self._crash(cell, error, extraction + begun.seconds)
            return
        self.scored += 1
        first = record["metrics"][0]
        value = "undefined" if first["value"] is None else f"{first['value']:.3f}"
        called = np.unique(predictions.predicted)
        alike = f"all tiles called {cell.task.classes[called[0]]}" if len(called) == 1 else ""
        remark = "".join(f"  {words}" for words in (predictions.remark, alike) if words)
        say(f"{_title(cell)}  {first['name'].replace('_', ' ')} {value}  {seconds + extraction:.1f} s{remark}")

    def _crash(self, cell: Cell, error: Exception, seconds: float) -> None:
        self.crashed += 1
        record = cell.begin(self._recorder).crashed(error, seconds)
        try:
            write_record(self._settings.records, record, None)
        except OSError as cause:
            raise UserError(
                f"{self._settings.records} takes no records ({cause}): make room there or give records=FOLDER; finished cells stay."
            ) from cause
        say(f"{_title(cell)}  crashed: {record['error']}", sys.stderr)


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
    return f"{cell.engine:<6}  {titled(cell.encoder)}  trial {cell.trial + 1}/{cell.task.trials}"
