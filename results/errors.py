import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType


class UserError(Exception):
    """Something the person at the keyboard can mend.

    The message is one sentence that names the file, key or slide, says what was expected and what to do.
    Every command prints it as `error: <message>` on stderr and exits with status 2.
    """


def told(command: Callable[[], int]) -> int:
    """Run a command and return its exit status; a mistake of the user, or of a path, is one sentence on stderr and 2."""
    try:
        return command()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        print(
            f"error: {error.filename or 'the system'}: {error.strerror or error}; mend the path, its permissions or the disk.",
            file=sys.stderr,
        )
    return 2


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived: unwinds like Ctrl-C, so that processes are ended and temporary files go."""


def stoppable(command: Callable[[], int]) -> int:
    """Run a command and return its exit status; SIGTERM and Ctrl-C end it with one sentence on stderr, and 143 or 130."""
    if threading.current_thread() is not threading.main_thread():
        return command()
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        return command()
    except KeyboardInterrupt as stop:
        print("stopped: nothing half-written; the same command goes on from here.", file=sys.stderr)
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
