"""Detection and segmentation cells: their settings, and the one runner that trains, scores and records them."""

import fcntl
import shutil
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from results.errors import UserError, told_together
from results.files import replacing
from results.record import cell_key, find_record, slug, write_record
from transfer.encoders import open_encoders
from transfer.encoders.base import Encoder
from transfer.recording import CellRecord, Recorder, check_writable, in_words, planned, say, timed, titled
from transfer.settings import CellSettings, check_device, check_encoders, encoder_options
from transfer.tasks.schema import Request, load_task, read_task, task_root

if TYPE_CHECKING:
    from transfer.encoders.network import Backbone


KEPT, SECONDS = "unrecorded.parquet", b"wall_seconds"
"""Units in a cell's scratch folder whose record could not be written, and how long they took (schema metadata)."""


class DenseTask(Protocol):
    """What the loader of a detection or segmentation task returns.

    Attributes:
        name, version: identity in records.
        kind: `detection` or `segmentation`.
        classes: names, in the order of the units' columns.
        rehearsal: whether the images are synthetic.
        split_digest: sha256 over the units, their truth and the parts of every trial.
        data_digest: sha256 over the image files used.
        trials: how many there are.
    """

    name: str
    version: int
    kind: str
    classes: tuple[str, ...]
    rehearsal: bool
    split_digest: str
    data_digest: str
    trials: int


class DenseEngine(Protocol):
    """A library that trains a detector or a segmenter on top of an encoder.

    Attributes:
        name: the engine column of tables.
        kind: the kind of task it takes.
    """

    name: str
    kind: str

    def settings(self) -> dict[str, Any]:
        """Return all that changes a number, as JSON; it goes into the cell's key."""
        ...

    def check(self, backbone: "Backbone") -> None:
        """Raise a UserError when this encoder cannot be used."""
        ...

    def run(self, task: Any, backbone: "Backbone", seed: int, trial: int, folder: Path) -> pa.Table:
        """Train, predict the test part of the trial and return its units; `folder` is scratch that stays."""
        ...


@dataclass
class DenseSettings(CellSettings):
    """The settings that both dense commands have."""

    engine: str = ""
    backbone: str = "resnet18"
    gpus: int = 1
    options: Any = None


Built = TypeVar("Built", bound=DenseEngine)
Opened = tuple[list[Encoder], list[str]]
"""Encoders, and the lines to print of them."""


def open_dense(
    settings: DenseSettings,
    purpose: str,
    usual: str,
    build: Callable[[], Built],
    changes: Mapping[str, Any] | None = None,
) -> tuple[Any, Built, Opened]:
    """Build the engine of a command, open its encoders, and load its task, `task=` or the usual one.

    Args:
        settings: of the command.
        purpose: `detection` or `segmentation`.
        usual: name of the task where none is asked for.
        build: makes the engine, without the library that it trains with.
        changes: keys that take the place of the task's own.

    Raises:
        UserError: with all mistakes in encoders, places, engine and task before any data is read, then for an encoder that the
            engine cannot take, else with what is wrong with the data.
    """
    _, engine, (task, request), *_ = told_together(
        (
            lambda: check_encoders(settings),
            build,
            lambda: _task_and_request(settings, purpose, usual, changes),
            lambda: check_device(settings),
            lambda: check_writable("records", Path(settings.records)),
            lambda: check_writable("work", Path(settings.work)),
        )
    )
    opened = open_usable(settings, engine)
    return load_task(task, request, purpose), engine, opened


def open_usable(settings: DenseSettings, engine: DenseEngine) -> Opened:
    """Open the encoders of a command; returns them with the lines to print.

    Raises:
        UserError: for an encoder that is not there or that the engine cannot take.
    """
    options = encoder_options(settings, backbone=settings.backbone)
    encoders, remarks = open_encoders(settings.encoder, options, settings.floors, dense=True)
    for encoder in encoders:
        if not hasattr(encoder, "backbone"):
            raise UserError(f"encoder {encoder.name} has no weights to train on: {engine.kind} needs a network.")
        engine.check(encoder.for_trial(0).backbone())
    return encoders, remarks


def _task_and_request(
    settings: DenseSettings, purpose: str, usual: str, changes: Mapping[str, Any] | None
) -> tuple[Any, Request]:
    task = read_task(settings.task or usual, purpose, changes)
    request = Request(Path(settings.work), settings.root, None, settings.trials, settings.seed)
    return task, replace(request, root=str(task_root(request, task.kind)))


class DenseFloor(Protocol):
    """A row that a score must beat and that trains nothing; it has the identity of an `Encoder`."""

    name: str
    digest: str

    def units(self, task: Any, trial: int) -> pa.Table:
        """Return the units of the trial's test part."""
        ...


def run_cells(
    task: DenseTask,
    engine: DenseEngine,
    settings: DenseSettings,
    opened: Opened,
    untrained: Sequence[DenseFloor] = (),
) -> int:
    """Score every encoder on every trial whose record is not there yet, one record a cell.

    Args:
        task, engine, settings: of the command.
        opened: its encoders, by `open_usable`.
        untrained: floors that are scored after the encoders, without the engine.

    Returns:
        0, or 3 when a cell crashed (its record says how) while the others went on.
    """
    encoders, remarks = opened
    for remark in remarks:
        say(remark)
    synthetic = " (synthetic images)" if task.rehearsal else ""
    say(
        f"{task.name} v{task.version}: {task.kind}, {engine.name}, schedule {settings.schedule}, {task.trials} trials, "
        f"{len(encoders)} encoders{synthetic}"
    )
    sweep = _Sweep(task, engine, settings)
    cells = [(encoder, trial) for encoder in [*encoders, *untrained] for trial in range(task.trials)]
    missing = [cell for cell in cells if not sweep.has_record(*cell)]
    say(planned(len(cells), len(missing), settings.records))
    if settings.check:
        return 0
    sweep.known = len(cells) - len(missing)
    for number, cell in enumerate(missing, start=1):
        sweep.run(*cell, sum(hasattr(encoder, "backbone") for encoder, _ in missing[number:]))
    say(
        f"{sweep.scored} cells scored, {sweep.known} already there, {sweep.crashed} crashed"
        + (f", {sweep.elsewhere} run by another process" if sweep.elsewhere else "")
        + f"; records in {settings.records}, "
        "'python -m results table' lays them out"
    )
    return 3 if sweep.crashed else 0


class _Sweep:
    def __init__(self, task: DenseTask, engine: DenseEngine, settings: DenseSettings) -> None:
        self.scored = self.known = self.crashed = self.elsewhere = 0
        self._task, self._engine, self._settings, self._recorder = task, engine, settings, Recorder()
        self._trained: list[float] = []

    def has_record(self, encoder: Encoder, trial: int) -> bool:
        """Whether the cell was scored already."""
        known = find_record(Path(self._settings.records), self._key(encoder, trial))
        return known is not None and known.ok

    def _key(self, encoder: Encoder, trial: int) -> str:
        task, engine, settings = self._task, self._engine, self._settings
        return cell_key(
            task.name,
            task.version,
            task.split_digest,
            encoder.digest,
            engine.name,
            engine.settings(),
            settings.seed,
            trial,
        )

    def run(self, encoder: Encoder, trial: int, after: int = 0) -> None:
        """Run one cell unless its record is there; what it dies of is written down, and the sweep goes on.

        Args:
            encoder, trial: what the cell is of.
            after: how many cells wait behind it that train.
        """
        if self.has_record(encoder, trial):  # of another process that was at it when this one looked
            self.known += 1
            return
        name = f"{slug(self._task.name)}-{self._key(encoder, trial)[:12]}"
        folder = Path(self._settings.work) / "transfer" / name
        folder.parent.mkdir(parents=True, exist_ok=True)
        with only_one(folder.with_suffix(".lock")) as alone:
            if alone:
                self._train(encoder, trial, folder, after)
            else:
                say(f"{self._place(encoder, trial)}: another process runs it now")
                self.elsewhere += 1

    def _place(self, encoder: Encoder, trial: int) -> str:
        return f"{titled(encoder)}, {self._engine.name}, trial {trial + 1} of {self._task.trials}"

    def _train(self, encoder: Encoder, trial: int, folder: Path, after: int) -> None:
        task, engine, settings = self._task, self._engine, self._settings
        place, records = self._place(encoder, trial), Path(settings.records)
        recorder = self._recorder.of(task, encoder, engine.name, engine.settings(), settings.seed, trial)
        recorder.check()
        try:
            units, seconds = self._kept(folder, place) or timed(lambda: self._units(encoder, trial, folder, place))
            record = _scored(recorder, units, seconds)
        except UserError:
            raise
        except Exception as error:  # one cell's end must not be the end of the others
            (folder / "crash.txt").write_text(traceback.format_exc(), encoding="utf-8", errors="backslashreplace")
            _write(records, recorder.crashed(error, recorder.seconds), None, folder, 0.0)
            say(f"{place}: crashed ({type(error).__name__}: {error}); {folder / 'crash.txt'} has the trace")
            self.crashed += 1
            return
        _write(records, record, units, folder, seconds)
        shown = ", ".join(
            f"{metric['name']} {metric['value']:.3f}" for metric in record["metrics"][:3] if metric["value"] is not None
        )
        if hasattr(encoder, "backbone"):
            self._trained.append(seconds)
        left = after * sum(self._trained) / max(1, len(self._trained))
        behind = f"; {after} more to train, about {in_words(left)}" if self._trained and after else ""
        say(f"{place}: {shown} ({seconds:.0f} s{behind})")
        self.scored += 1

    def _units(self, encoder: Encoder, trial: int, folder: Path, place: str) -> pa.Table:
        """Let the engine train and predict, or a floor answer without it; scratch of an earlier try is removed."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        if hasattr(encoder, "units"):
            return encoder.units(self._task, trial)
        say(f"{place}: training")
        return self._engine.run(self._task, encoder.for_trial(trial).backbone(), self._settings.seed, trial, folder)

    def _kept(self, folder: Path, place: str) -> tuple[pa.Table, float] | None:
        """Return the units and seconds of a cell whose record could not be written, where they were kept."""
        try:
            units = pq.read_table(folder / KEPT)
            metadata = dict(units.schema.metadata or {})
            seconds = float(metadata.pop(SECONDS))
        except (OSError, ValueError, KeyError, pa.ArrowException):
            return None
        say(f"{place}: trained earlier, {folder / KEPT} has its answers")
        return units.replace_schema_metadata(metadata), seconds


def _scored(recorder: CellRecord, units: pa.Table, seconds: float) -> dict[str, Any]:
    """Score the units; what is wrong with them is the engine's fault, not the user's."""
    try:
        return recorder.scored(units, seconds)
    except UserError as error:
        raise ValueError(f"the engine's units cannot be scored: {error}") from error


def _write(records: Path, record: Mapping[str, Any], units: pa.Table | None, folder: Path, seconds: float) -> None:
    """Write a record; where that fails, the units stay in the cell's scratch folder, for the same command to find."""
    try:
        write_record(records, record, units)
    except OSError as error:
        kept = units is not None and _keep(units, folder, seconds)
        raise UserError(
            f"records={records}: the record of a finished cell could not be written ({error.strerror}): make room or mend the "
            f"folder, then repeat the command{', which will not train it again' if kept else ''}."
        ) from error
    (folder / KEPT).unlink(missing_ok=True)


def _keep(units: pa.Table, folder: Path, seconds: float) -> bool:
    """Put units aside; whether there was room for that."""
    stated = {**(units.schema.metadata or {}), SECONDS: repr(seconds).encode()}
    try:
        with replacing(folder / KEPT) as temporary:
            pq.write_table(units.replace_schema_metadata(stated), temporary)
    except OSError:
        return False
    return True


@contextmanager
def only_one(lock: Path) -> Iterator[bool]:
    """Yield whether this process alone works on what the lock file stands for; the lock goes with the process."""
    with open(lock, "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True
