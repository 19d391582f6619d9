"""What every command that runs cells shares: the record of a cell, and small things around a sweep."""

import contextlib
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TextIO

import pyarrow as pa

from results import provenance
from results.errors import UserError, printable
from results.metrics import score_units
from results.record import SCHEMA, validate
from transfer.encoders.base import Encoder
from transfer.overlap import mark


class Task(Protocol):
    """What a record says of a task.

    Attributes:
        name, version: identity in records.
        kind: `classification`, `segmentation` or `detection`.
        rehearsal: whether the images are synthetic.
        decoder: where slides were decoded, digest of what the decoders made of known files; a task may lack it.
        split_digest: sha256 over the units, their truth and the parts of every trial.
        data_digest: sha256 over the images.
        trials: how many there are.
        notes: what a reader of records and tables must know of the data and the split; a task may lack it.
    """

    name: str
    version: int
    kind: str
    rehearsal: bool
    split_digest: str
    data_digest: str
    trials: int


@dataclass(frozen=True)
class CellRecord:
    """The record of one cell, but for its outcome; `seconds` counts from when it was made."""

    fields: dict[str, Any]
    start: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.start

    def check(self) -> None:
        """Raise a UserError now for what no record could hold, such as a setting that is not a finite number."""
        validate({**self.crashed(RuntimeError("not yet"), 0.0), "schema": SCHEMA, "units": None}, "the record to be")

    def scored(self, units: pa.Table, seconds: float) -> dict[str, Any]:
        """Return the record of a cell that gave units."""
        return self._with(seconds, status="ok", error=None, metrics=score_units(units))

    def crashed(self, error: Exception, seconds: float) -> dict[str, Any]:
        """Return the record of a cell that died of `error`."""
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
        reason = reason.encode("utf-8", "backslashreplace").decode("utf-8")
        return self._with(seconds, status="crashed", error=reason, metrics=[])

    def _with(self, seconds: float, **outcome: Any) -> dict[str, Any]:
        spent = {"wall_seconds": round(seconds, 3), "device_hours": round(seconds / 3600, 6)}
        return {**self.fields, **spent, "created": provenance.now(), **outcome}


class Recorder:
    """Fills in the fields of a record that every cell of one command shares."""

    def __init__(self) -> None:
        self._common = {
            "hardware": provenance.hardware(),
            "versions": provenance.versions(),
            "git_revision": provenance.git_revision(),
        }

    def of(
        self,
        task: Task,
        encoder: Encoder,
        engine: str,
        settings: dict[str, Any],
        seed: int,
        trial: int,
        fit: dict[str, Any] | None = None,
    ) -> CellRecord:
        """Begin the record of one cell.

        Args:
            task, encoder, engine, settings, seed, trial: what decides the cell's number.
            fit: further words on how encoder and task fit, kept beside the coverage.
        """
        card = encoder.card or {}
        return CellRecord(
            {
                "task": {
                    "name": task.name,
                    "version": task.version,
                    "kind": task.kind,
                    "split_digest": task.split_digest,
                    "store_digest": task.data_digest,
                    "rehearsal": bool(task.rehearsal),
                    "decoder": getattr(task, "decoder", None) or None,
                },
                "encoder": {
                    "name": encoder.name,
                    "kind": encoder.kind,
                    "digest": encoder.digest,
                    "coverage": {**(encoder.coverage or {}), **fit} if fit else encoder.coverage,
                    "method": card.get("method"),
                    "seed": card.get("seed"),
                    "run": getattr(encoder, "run", None),
                    "card": encoder.card,
                },
                "engine": {"name": engine, "settings": settings},
                "seed": seed,
                "trial": trial,
                "trials": task.trials,
                "notes": [
                    *getattr(task, "notes", ()),
                    *(task.trial_notes(trial) if hasattr(task, "trial_notes") else ()),
                ],
                "contamination": mark(encoder.card, encoder.kind, task, trial),
                **self._common,
            }
        )


def check_writable(setting: str, folder: Path) -> None:
    """Find out before any long step that a folder cannot be made or written; what is made to find that out is removed again."""
    made: list[Path] = []
    try:
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{setting}={folder} cannot be made ({error.strerror}): give a folder that can be written."
        ) from error
    finally:
        writable = os.access(folder, os.W_OK)
        for path in made:
            with contextlib.suppress(OSError):  # another process has put something in it
                path.rmdir()
    if not writable and folder.exists():
        raise UserError(f"{setting}={folder} cannot be written: mend its permissions or give another folder.")


def planned(cells: int, missing: int, records: str) -> str:
    """Return the line that says what a command is going to do."""
    there = f", {cells - missing} of them already in {records}" if cells > missing else ""
    return f"{cells} cells{there}: {missing or 'none'} to run"


def say(line: str, stream: TextIO | None = None) -> None:
    """Print a line of progress at once, to stdout unless told; names may hold any bytes, a terminal gets no control characters."""
    stream = stream or sys.stdout
    print(printable(line, stream), file=stream, flush=True)


def titled(encoder: Encoder) -> str:
    """Return an encoder's name with the seed of its pretraining."""
    seed = (encoder.card or {}).get("seed")
    return encoder.name if seed is None else f"{encoder.name}, seed {seed}"


class Progress:
    """Says now and then how far a training is: iteration, mean loss since the last line, time that is left.

    Args:
        total: iterations.
        every: seconds between lines.
    """

    def __init__(self, total: int, every: float = 30.0) -> None:
        self._total, self._every = total, every
        self._start = self._last = time.monotonic()
        self._losses: list[float] = []

    def step(self, done: int, loss: float) -> None:
        """Note the loss of iteration number `done`, from 1, and print a line when it is time."""
        self._losses.append(loss)
        now = time.monotonic()
        if now - self._last < self._every and done != self._total:
            return
        left = (now - self._start) / done * (self._total - done)
        mean = sum(self._losses) / len(self._losses)
        say(f"  iteration {done:,} of {self._total:,}, loss {mean:.3f}, {in_words(left)} left")
        self._last, self._losses = now, []


def in_words(seconds: float) -> str:
    """Return a duration as `40 s`, `5 min 20 s` or `3 h 10 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return what `work` returns and the seconds it took."""
    start = time.perf_counter()
    return work(), time.perf_counter() - start
