import contextlib
import difflib
import os
import signal
import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any, TextIO


def meant(word: str, known: Iterable[str], otherwise: str) -> str:
    """Return `did you mean 'X'?` with the name that is nearest to a word, or `otherwise` where none is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else otherwise


class UserError(Exception):
    """Something the person at the keyboard can mend.

    The message is one sentence that names the file, key or slide, says what was expected and what to do.
    Every command prints it as `error: <message>` on stderr and exits with status 2.
    """


def told_together(checks: Iterable[Callable[[], Any]]) -> list[Any]:
    """Make cheap checks before a long step, all of them, so that no mistake waits behind another; returns what they return.

    Raises:
        UserError: with what every check that failed has to say.
    """
    found, mistakes = [], []
    for check in checks:
        try:
            found.append(check())
        except UserError as error:
            mistakes.append(str(error))
    if mistakes:
        raise UserError(" And: ".join(dict.fromkeys(mistakes)))
    return found


def printable(text: str, stream: TextIO) -> str:
    """Return text as a terminal may have it: names hold any bytes, and control characters could move the cursor or hide a word."""
    shown = "".join(character for character in text if unicodedata.category(character) not in ("Cc", "Cf"))
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def told(command: Callable[[], int]) -> int:
    """Run a command and return its exit status; a mistake of the user, or of a path, is one sentence on stderr and 2."""
    try:
        return command()
    except UserError as error:
        _tell(f"error: {error}")
    except OSError as error:
        _tell(
            f"error: {error.filename or 'the system'}: {error.strerror or error}; mend the path, its permissions or the disk."
        )
    return 2


PATIENCE = 15.0
"""Seconds that another process of torchrun than the first waits before it tells a mistake too."""


def _tell(message: str) -> None:
    """Print a message; of the processes of torchrun the first one does, and ends them all: the others speak if it does not."""
    if os.environ.get("RANK", "0") != "0":
        time.sleep(PATIENCE)
    print(printable(" ".join(message.split()), sys.stderr), file=sys.stderr)


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived: unwinds like Ctrl-C, so that processes are ended and temporary files go."""


NOTHING_YET = "nothing was finished by this call, what earlier ones finished stays; the same command begins anew."
_finished = threading.Event()


def something_is_finished() -> None:
    """Say that a file stands in its place, or that a worker's does: from now on a stopped command has something to go on from."""
    _finished.set()


def stoppable(
    command: Callable[[], int], left: str = "nothing half-written; the same command goes on from here."
) -> int:
    """Run a command and return its exit status; SIGTERM and Ctrl-C end it with one sentence on stderr, and 143 or 130.

    Args:
        command: what is run.
        left: what to say of its work once something is finished; before that nothing is, and that is said. Of the processes
            of torchrun the first one speaks.
    """
    if threading.current_thread() is not threading.main_thread():
        return command()
    _finished.clear()
    asked: list[int] = []

    def terminate(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # once is enough: a second must not cut the clearing up short
        asked.append(number)
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        return command()
    except (KeyboardInterrupt, Exception) as stop:
        terminated = bool(asked) or isinstance(stop, Terminated)
        if not (terminated or isinstance(stop, KeyboardInterrupt)):
            raise  # after SIGTERM an error is its doing: a library that swallows it in the middle of an import is left half there
        if os.environ.get("RANK", "0") == "0":
            print(f"stopped: {left if _finished.is_set() else NOTHING_YET}", file=sys.stderr, flush=True)
        return 128 + (signal.SIGTERM if terminated else signal.SIGINT)
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def children_ignore_interrupts() -> Iterator[None]:
    """Start processes in this block: a terminal sends Ctrl-C to them as well, and only this process shall answer it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def leave_signals_to_parent() -> None:
    """In a worker process: Ctrl-C is the parent's to answer, and SIGTERM ends the worker at once."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
