"""What holds for every test."""

import signal


def pytest_configure() -> None:
    """Take Ctrl-C as a terminal's shell does: a job in the background ignores it, and hands that on to what it starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
