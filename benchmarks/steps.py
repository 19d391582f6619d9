"""Steps of a suite as child processes: shown, timed, weighed, and stopped with the parent."""

import os
import resource
import select
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

SOME_FAILED = 3
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True)
class Step:
    """One finished step.

    Attributes:
        command: as a person would type it.
        status: exit status, 128 + n when signal n ended it.
        wall_seconds: from start to end.
        cpu_seconds: of the process and the children it waited for.
        peak_rss_mib: largest resident set of the process, or of one child it waited for; on Linux a child starts from its
            parent's, so it is never below that of the runner (some 50 MiB).
    """

    command: str
    status: int
    wall_seconds: float
    cpu_seconds: float
    peak_rss_mib: float

    @property
    def name(self) -> str:
        words = shlex.split(self.command)
        return " ".join(word for word in words[words.index("-m") + 1 :] if "=" not in word)

    @property
    def goes_on(self) -> bool:
        """Whether the suite may go on: done, or done with some slides or cells failed."""
        return self.status in (0, SOME_FAILED)


class Runner:
    """Starts `python -m PACKAGE ...`, one after another or several side by side, and remembers whether someone asked to stop."""

    def __init__(self, python: Sequence[str] = (sys.executable,)) -> None:
        self._python = tuple(python)
        self._running: dict[int, _Child] = {}
        self.stopped_by = 0
        self.steps: list[Step] = []

    @contextmanager
    def forwarding(self) -> Iterator[None]:
        """Hand SIGTERM, SIGINT and SIGHUP on to the running steps while the block lasts."""
        previous = {number: signal.signal(number, self._forward) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _forward(self, number: int, frame: FrameType | None) -> None:
        self.stopped_by = number
        for pid in list(self._running):
            os.kill(pid, number)

    def run(self, package: str, arguments: Sequence[str]) -> Step:
        """Run one step to its end; its output goes where ours goes."""
        return self.run_all({"": (package, arguments)})[0]

    def run_all(self, commands: Mapping[str, tuple[str, Sequence[str]]], jobs: int = 1) -> list[Step]:
        """Run steps to their ends, `jobs` at a time, each with its share of the cores.

        After a step that stops the suite, or a signal, no other is started; those that run go on to their ends.

        Args:
            commands: label -> (package, arguments); with several jobs the label stands before every line of output.

        Returns:
            the steps that were started, in the order of `commands`.
        """
        waiting, done, jobs = list(commands.items()), {}, min(jobs, len(commands))
        while waiting or self._running:
            while waiting and len(self._running) < jobs:
                label, (package, arguments) = waiting.pop(0)
                self._start(label, package, arguments, jobs)
            # wait4 gives the usage of one child; until it returns the process id cannot belong to another process.
            pid, waited, usage = os.wait4(_first_to_end(list(self._running)), 0)
            child = self._running.pop(pid)
            done[child.label] = step = child.ended(waited, usage)
            if self.stopped_by or not step.goes_on:
                waiting = []
        steps = [done[label] for label in commands if label in done]
        self.steps += steps
        return steps

    def _start(self, label: str, package: str, arguments: Sequence[str], jobs: int) -> None:
        command = shlex.join([_shown(self._python[0]), *self._python[1:], "-m", package, *arguments])
        print(f"$ {command}", flush=True)
        start, pipe, environment = time.perf_counter(), None, None
        if jobs > 1:
            pipe = subprocess.PIPE
            environment = {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // jobs))} | os.environ
        # A session of its own keeps a terminal's Ctrl-C from reaching the child twice.
        process = subprocess.Popen(
            [*self._python, "-m", package, *arguments],
            start_new_session=True,
            stdout=pipe,
            stderr=pipe,
            env=environment,
            text=True,
            errors="replace",
        )
        readers = [
            threading.Thread(target=_pass_on, args=(source, target, label), daemon=True)
            for source, target in ((process.stdout, sys.stdout), (process.stderr, sys.stderr))
            if source is not None
        ]
        for reader in readers:
            reader.start()
        self._running[process.pid] = _Child(label, command, process, start, readers)
        if self.stopped_by:
            os.kill(process.pid, self.stopped_by)


def _first_to_end(pids: list[int]) -> int:
    """Return the process that ends first, without a look at children that others started in this process."""
    with ExitStack() as stack:
        waiting, of = select.poll(), {}
        for pid in pids:
            handle = os.pidfd_open(pid)
            stack.callback(os.close, handle)
            waiting.register(handle, select.POLLIN)
            of[handle] = pid
        return of[waiting.poll()[0][0]]


@dataclass(frozen=True)
class _Child:
    label: str
    command: str
    process: subprocess.Popen[str]
    start: float
    readers: list[threading.Thread]

    def ended(self, waited: int, usage: resource.struct_rusage) -> Step:
        wall = time.perf_counter() - self.start
        code = self.process.returncode = os.waitstatus_to_exitcode(waited)
        for reader in self.readers:
            reader.join(timeout=10)  # an orphan of a killed step may hold the pipe
        return Step(
            self.command,
            code if code >= 0 else 128 - code,
            round(wall, 3),
            round(usage.ru_utime + usage.ru_stime, 3),
            round(usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10), 1),
        )


def _pass_on(source: IO[str], target: IO[str], label: str) -> None:
    """Print the lines of a child under its label as they come."""
    with source:
        for line in source:
            print(f"[{label}] {line}", end="", file=target, flush=True)


def _shown(python: str) -> str:
    """Return the interpreter relative to the working folder where it lies below it, and by name where PATH finds it."""
    path, here = Path(python), Path.cwd()
    if path.is_absolute() and path.is_relative_to(here):
        return str(path.relative_to(here))
    on_path = any(Path(folder, path.name) == path for folder in os.get_exec_path())
    return path.name if on_path else python
