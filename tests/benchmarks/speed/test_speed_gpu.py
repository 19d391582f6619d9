"""The GPU check in its reduced form: it runs, it counts what it says it counts, and it refuses what cannot be."""

import json

import pytest
import torch

from benchmarks.speed import gpu
from results.errors import UserError

TINY = ["device=cpu", "tiles=3000", "batch=4", "tile=32", "size=32", "local_size=16", "steps=2", "warm=1", "amp=false"]


def test_the_reduced_form_measures_and_keeps(tmp_path):
    out = tmp_path / "gpu-here.json"
    assert gpu.main([*TINY, "parity=false", "dense=false", f"out={out}"]) == 0
    kept = json.loads(out.read_text())
    assert kept["reduced"]
    assert [row["method"] for row in kept["rows"]] == ["npid", "sgcl"]
    for row in kept["rows"]:
        assert row["images_per_second"] == pytest.approx(4 / (row["step_ms"] / 1000))
        assert row["share"] == pytest.approx(row["images_per_second"] / row["limit_per_second"])
        assert row["peak_gib"] > 0
    assert {"hardware", "versions", "git_revision"} <= set(kept)
    table = (tmp_path / "gpu.md").read_text()
    assert table.count("| CPU, ") == 2
    assert "(reduced) | sgcl | 3,000 | 4 |" in table


def test_bf16_steps_are_finite(tmp_path):
    words = [word for word in TINY if word != "amp=false"]
    assert gpu.main([*words, "methods=[sgcl]", "parity=false", "dense=false", "out=none"]) == 0


@pytest.mark.slow
def test_parity_is_part_of_it():
    found = gpu.parity(torch.device("cpu"))
    assert found["backend"] == "gloo"
    assert found["holds"], found["last"]


@pytest.mark.parametrize(
    ("words", "said"), [(["device=tpu"], "device=tpu"), (["device=cpu", "steps=0"], "steps=0 is too small")]
)
def test_what_cannot_be_is_refused(words, said):
    with pytest.raises(UserError, match=said):
        gpu.resolve(words)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_cuda_must_be_there():
    with pytest.raises(UserError, match="no CUDA device"):
        gpu.resolve(["device=cuda"])


def test_a_cpu_gets_the_reduced_sizes_and_the_command_line_wins():
    settings, device = gpu.resolve(["device=cpu", "batch=2"])
    assert (settings.tiles, settings.batch, device.type) == (20_000, 2, "cpu")


def test_a_failed_part_fails_the_check(monkeypatch, capsys):
    monkeypatch.setattr(gpu, "parity", lambda device: {"holds": False, "last": "differs"})
    assert gpu.main([*TINY, "methods=[npid]", "dense=false", "out=none"]) == 2
    assert "gpu-check failed in parity" in capsys.readouterr().err
