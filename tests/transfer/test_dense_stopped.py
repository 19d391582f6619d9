"""A signal in the middle of a real training, in each engine's own process."""

import signal
import subprocess
import sys

import pytest
from bcss_toys import write_bcss
from nucls_toys import write_nucls

ENDLESS = {
    "detect": "{iterations: 100000, batch: 1, scale: 1, crop: 64, warmup: 0}",
    "segment": "{iterations: 100000, batch: 2, crop: 32, tile: 64, warmup: 0, validate_every: 100000}",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "write", "number", "status"),
    [("detect", write_nucls, signal.SIGTERM, 143), ("segment", write_bcss, signal.SIGINT, 130)],
)
def test_a_signal_in_training_ends_in_one_sentence(tmp_path, command, write, number, status):
    write(tmp_path / "data")
    child = subprocess.Popen(
        [sys.executable, "-m", "transfer", command, f"task.root={tmp_path / 'data'}", "encoder=random", "trials=1",
         "device=cpu", "schedule=smoke", f"options={ENDLESS[command]}", f"work={tmp_path / 'work'}",
         f"records={tmp_path / 'records'}"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    for line in child.stdout:
        if "iteration" in line and "loss" in line:
            break
    child.send_signal(number)
    _, said = child.communicate(timeout=120)
    assert child.returncode == status, said
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("stopped: ")
    assert not list((tmp_path / "records").glob("*"))
