"""Ranks started by a command of ours: what is said when they are stopped, when one dies and when all refuse."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pretrain import ranks

pytestmark = pytest.mark.slow
LONG = ["parity", "tiles=3000", "steps=1000"]


def started() -> subprocess.Popen:
    return subprocess.Popen(ranks.command(2, LONG), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def children(launcher: subprocess.Popen) -> list[int]:
    """Wait until both ranks compute: their imports take less CPU time than this."""
    while True:
        assert launcher.poll() is None, launcher.stderr.read()
        found = [int(word) for word in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()]
        if len(found) == 2 and all(cpu_seconds(pid) > 10 for pid in found):
            return found
        time.sleep(0.2)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_sigterm_is_handed_on_and_told_once():
    launcher = started()
    ranks_of = children(launcher)
    launcher.send_signal(signal.SIGTERM)
    _, said = launcher.communicate(timeout=120)
    assert launcher.returncode == 143
    assert said.startswith("stopped: ")
    assert said.count("\n") == 1
    assert not [pid for pid in ranks_of if Path(f"/proc/{pid}").exists()]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_is_named_and_ends_the_others(rank):
    launcher = started()
    found = children(launcher)
    os.kill(found[rank], signal.SIGKILL)
    _, said = launcher.communicate(timeout=120)
    assert launcher.returncode == 1
    assert "was killed by signal 9 (SIGKILL), often for want of memory; the other ranks were ended." in said
    assert "Traceback" not in said
    assert not [pid for pid in found if Path(f"/proc/{pid}").exists()]


def test_a_mistake_is_told_by_one_rank_and_the_status_is_2():
    done = subprocess.run(ranks.command(2, ["parity", "batch=7"]), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: batch=7 cannot be shared by 2 ranks")
    assert done.stderr.count("\n") == 1


def test_what_a_rank_said_itself_is_pointed_at():
    assert ranks._death(3, 1) == "rank 3 ended with status 1, for the reason that stands above"
    assert ranks._death(1, -signal.SIGSEGV) == "rank 1 was killed by signal 11 (SIGSEGV)"


def test_the_launcher_needs_no_arguments_of_torchrun():
    assert ranks.command(4, ["train", "seed=1"]) == [sys.executable, "-m", "pretrain.ranks", "4", "train", "seed=1"]
