"""Several ranks of one command on this machine: torchrun's launcher, with one sentence in place of its reports.

Run as `python -m pretrain.ranks COUNT ARGUMENT ...`; every rank is `python -m pretrain ARGUMENT ...`.
"""

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Iterator


def command(count: int, arguments: list[str]) -> list[str]:
    """Return the command line that starts `count` ranks of `python -m pretrain`."""
    return [sys.executable, "-m", __name__, str(count), *arguments]


def main(arguments: list[str]) -> int:
    """Start the ranks and wait for them; when one dies the others are ended.

    Returns:
        0, or 2 where a rank has told a mistake of the user; 128 and the number of the signal that ended this process; else 1.
    """
    count, *words = arguments
    with _quiet():
        from torch.distributed import run
        from torch.distributed.elastic.multiprocessing.api import SignalException
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    try:
        run.run(run.parse_args(["--standalone", f"--nproc_per_node={count}", "-m", "pretrain", *words]))
    except SignalException as stop:
        return 128 + stop.sigval
    except ChildFailedError as failed:
        rank, failure = min(failed.failures.items(), key=lambda item: (item[1].exitcode > 0, item[1].timestamp))
        if failure.exitcode == 2:
            return 2
        print(f"error: {_death(rank, failure.exitcode)}; the other ranks were ended.", file=sys.stderr)
        return 1
    return 0


def _death(rank: int, status: int) -> str:
    if status >= 0:
        return f"rank {rank} ended with status {status}, for the reason that stands above"
    hint = ", often for want of memory" if -status == signal.SIGKILL else ""
    return f"rank {rank} was killed by signal {-status} ({signal.Signals(-status).name}){hint}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Let the launcher's loggers, which take their level from the environment when they are made, keep to what is critical."""
    before = os.environ.get("LOGLEVEL")
    os.environ["LOGLEVEL"] = before or "CRITICAL"
    try:
        yield
        logging.getLogger("torch.distributed.elastic").setLevel(os.environ["LOGLEVEL"])
    finally:
        if before is None:
            del os.environ["LOGLEVEL"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
