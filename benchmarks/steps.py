"""Steps of a suite as child processes: shown, timed, weighed, and stopped with the parent."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

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
    """Starts `python -m PACKAGE ...` one after another and remembers whether someone asked to stop."""

    def __init__(self, python: Sequence[str] = (sys.executable,)) -> None:
        self._python = tuple(python)
        self._pid: int | None = None
        self.stopped_by = 0
        self.steps: list[Step] = []

    @contextmanager
    def forwarding(self) -> Iterator[None]:
        """Hand SIGTERM, SIGINT and SIGHUP on to the running step while the block lasts."""
        previous = {number: signal.signal(number, self._forward) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _forward(self, number: int, frame: FrameType | None) -> None:
        self.stopped_by = number
        if self._pid is not None:
            os.kill(self._pid, number)

    def run(self, package: str, arguments: Sequence[str]) -> Step:
        """Run one step to its end; its output goes where ours goes."""
        command = shlex.join([_shown(self._python[0]), *self._python[1:], "-m", package, *arguments])
        print(f"$ {command}", flush=True)
        start = time.perf_counter()
        # A session of its own keeps a terminal's Ctrl-C from reaching the child twice.
        child = subprocess.Popen([*self._python, "-m", package, *arguments], start_new_session=True)
        self._pid = child.pid
        if self.stopped_by:
            os.kill(self._pid, self.stopped_by)
        # wait4 gives the usage of this one child; until it returns the process id cannot belong to another process.
        _, waited, usage = os.wait4(self._pid, 0)
        self._pid = None
        code = child.returncode = os.waitstatus_to_exitcode(waited)
        step = Step(
            command,
            code if code >= 0 else 128 - code,
            round(time.perf_counter() - start, 3),
            round(usage.ru_utime + usage.ru_stime, 3),
            round(usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10), 1),
        )
        self.steps.append(step)
        return step


def _shown(python: str) -> str:
    """Return the interpreter relative to the working folder where it lies below it, and by name where PATH finds it."""
    path, here = Path(python), Path.cwd()
    if path.is_absolute() and path.is_relative_to(here):
        return str(path.relative_to(here))
    on_path = any(Path(folder, path.name) == path for folder in os.get_exec_path())
    return path.name if on_path else python
