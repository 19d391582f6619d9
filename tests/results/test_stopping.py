"""SIGTERM and Ctrl-C end a command with one sentence, and its worker processes with it."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

COMMAND = """
import sys, time
from pathlib import Path
from pretrain.processes import each
from results.errors import stoppable

def work(number):
    Path(sys.argv[1], str(number)).touch()
    time.sleep(0.5 if number < 2 else 1)
    return number

def command():
    print("ready", flush=True)
    for number in each(work, list(range(40)), 2):
        print("done", number, flush=True)
    return 0

if __name__ == "__main__":
    sys.exit(stoppable(command))
"""


def living(group):
    """Return the processes of a group that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, of = stat.read_text().rpartition(")")[2].split()[:3]
            found += [stat.parent.name] if int(of) == group and state != "Z" else []
    return found


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_command_with_workers_is_stopped_in_one_sentence(tmp_path, number, status):
    (tmp_path / "job.py").write_text(COMMAND)
    (tmp_path / "seen").mkdir()
    child = subprocess.Popen(
        [sys.executable, str(tmp_path / "job.py"), str(tmp_path / "seen")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    while not child.stdout.readline().startswith("done"):
        assert child.poll() is None
    # a terminal sends Ctrl-C to the whole group, SIGTERM goes to one process
    (os.killpg if number == signal.SIGINT else os.kill)(child.pid, number)
    _, told = child.communicate(timeout=60)
    assert child.returncode == status
    assert told == "stopped: nothing half-written; the same command goes on from here.\n"
    assert len(list((tmp_path / "seen").iterdir())) < 20
    deadline = time.monotonic() + 30
    while (alive := living(child.pid)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive
