import contextlib
import signal
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import TextIO


class UserError(Exception):
    """Something the person at the keyboard can mend.

    The message is one sentence that names the file, key or slide, says what was expected and what to do.
    Every command prints it as `error: <message>` on stderr and exits with status 2.
    """


def told_together(checks: Iterable[Callable[[], object]]) -> None:
    """Make cheap checks before a long step, all of them, so that no mistake waits behind another.

    Raises:
        UserError: with what every check that failed has to say.
    """
    mistakes = []
    for check in checks:
        try:
            check()
        except UserError as error:
            mistakes.append(str(error))
    if mistakes:
        raise UserError(" And: ".join(mistakes))


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


def _tell(message: str) -> None:
    print(printable(" ".join(message.split()), sys.stderr), file=sys.stderr)


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived: unwinds like Ctrl-C, so that processes are ended and temporary files go."""


def stoppable(
    command: Callable[[], int], left: str = "nothing half-written; the same command goes on from here."
) -> int:
    """Run a command and return its exit status; SIGTERM and Ctrl-C end it with one sentence, what is left, on stderr, and 143 or 130."""
    if threading.current_thread() is not threading.main_thread():
        return command()
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        return command()
    except KeyboardInterrupt as stop:
        print(f"stopped: {left}", file=sys.stderr, flush=True)
        return 128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # once is enough: a second must not cut the clearing up short
    raise Terminated


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
