class UserError(Exception):
    """Something the person at the keyboard can mend.

    The message is one sentence that names the file, key or slide, says what was expected and what to do.
    Every command prints it as `error: <message>` on stderr and exits with status 2.
    """
