import sys
from collections.abc import Callable


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
