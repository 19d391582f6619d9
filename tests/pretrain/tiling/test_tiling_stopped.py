"""Tiling that is stopped says so and keeps what is finished."""

import os
import signal
import subprocess
import sys

import pytest

from pretrain.cohorts import rehearsal

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_is_one_sentence_without_a_trace_of_dask(tmp_path, number, status):
    cohort = rehearsal.generate(tmp_path / "slides", slides=3, size_px=1024)
    command = [
        sys.executable,
        "-m",
        "pretrain",
        "tile",
        f"cohort={cohort}",
        f"work={tmp_path / 'work'}",
        "tiling.workers=1",
        "tile=64",
    ]
    child = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    said = child.stderr.readline()
    assert said.startswith("tiling 1/3"), said
    (os.killpg if number == signal.SIGINT else os.kill)(child.pid, number)
    _, told = child.communicate(timeout=600)
    if child.returncode == 0:
        pytest.skip("the three slides were tiled before the signal came")
    assert child.returncode == status
    lines = told.splitlines()
    assert lines[-1] == "stopped: nothing half-written; the same command goes on from here."
    assert all(line.startswith("tiling ") for line in lines[:-1]), told
    assert list((tmp_path / "work").glob("tiles/*/shards/*.lmdb"))
