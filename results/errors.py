import sys
import unicodedata
from collections.abc import Callable
from typing import TextIO


class UserError(Exception):
    """Something the person at the keyboard can mend.

    The message is one sentence that names the file, key or slide, says what was expected and what to do.
    Every command prints it as `error: <message>` on stderr and exits with status 2.
    """


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
