"""The main job as real processes on a reduced rehearsal cohort."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

SETTINGS = ["recipe=smoke", "method=sgcl", "train.log_every=1"]
SPEEDS = ("tiles_per_second", "data_wait")


def command(work: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "pretrain", *arguments, *SETTINGS, f"work={work}"]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}


def job(work: Path, *arguments: str, status: int = 0) -> subprocess.CompletedProcess:
    """Run the job; a later key wins over an earlier one, so `arguments` are put last."""
    line = [sys.executable, "-m", "pretrain", *(a for a in arguments if "=" not in a), *SETTINGS, f"work={work}"]
    done = subprocess.run(
        [*line, *(a for a in arguments if "=" in a)], capture_output=True, text=True, env=environment(), check=False
    )
    assert done.returncode == status, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def only_run(work: Path) -> Path:
    (run,) = (work / "runs").iterdir()
    return run


def curve(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in SPEEDS} for line in lines]


def times(root: Path) -> dict[str, int]:
    return {
        str(p.relative_to(root)): p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file() and p.name != ".lock"
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """Work folder after one undisturbed job."""
    work = tmp_path_factory.mktemp("whole")
    job(work)
    return work


def copied(whole: Path, work: Path) -> Path:
    """A work folder with the same slides and tiles, but without runs."""
    shutil.copytree(whole, work, ignore=shutil.ignore_patterns("runs", "tiles"), symlinks=True)
    return work


def test_the_job_leaves_every_promised_file(whole):
    run = only_run(whole)
    assert run.name.startswith("sgcl-rehearsal-")
    present = {str(p.relative_to(run)).split("events.")[0] for p in run.rglob("*")}
    wanted = {
        "config.yaml",
        "run.json",
        "metrics.jsonl",
        "SUMMARY.md",
        "",
        "export/backbone.safetensors",
        "export/card.json",
        "checkpoints/last",
    }
    assert wanted <= present
    info = json.loads((run / "run.json").read_text())
    assert {"versions", "git_revision", "hardware", "seed", "store_digest"} <= set(info)
    assert "rehearsal" in (run / "SUMMARY.md").read_text()
    card = json.loads((run / "export/card.json").read_text())
    assert card["data"]["rehearsal"] is True
    assert card["finished"] is True
    assert {line["step"] for line in curve(run)} == set(range(1, card["step"] + 1))


def test_the_exported_backbone_is_the_trained_one(whole):
    from safetensors.torch import load_file

    from pretrain.backbones import build

    run = only_run(whole)
    tensors = load_file(run / "export/backbone.safetensors")
    network, _ = build("resnet18")
    network.load_state_dict(tensors, strict=True)
    content = torch.load(run / "checkpoints/last", weights_only=True)
    for name, value in tensors.items():
        trained = content["parameters"] | content["buffers"][0]
        assert torch.equal(value, trained[f"backbone.{name}"])


def test_the_same_command_again_does_no_work(whole):
    before = times(whole)
    done = job(whole)
    assert times(whole) == before
    assert "trained already" in done.stdout


def test_same_seed_gives_the_same_curve_and_the_same_file(whole, tmp_path):
    work = tmp_path / "again"
    job(work)
    a, b = only_run(whole), only_run(work)
    assert curve(a) == curve(b)
    assert (a / "export/backbone.safetensors").read_bytes() == (b / "export/backbone.safetensors").read_bytes()
    infos = [json.loads((r / "run.json").read_text())["store_digest"] for r in (a, b)]
    assert infos[0] == infos[1]


def test_another_seed_gives_another_run(whole):
    job(whole, "seed=1", "train.epochs=1")
    runs = sorted((whole / "runs").iterdir())
    assert len(runs) == 2
    other = next(r for r in runs if json.loads((r / "run.json").read_text())["seed"] == 1)
    first = next(r for r in runs if r != other)
    assert curve(other)[0] != curve(first)[0]
    shutil.rmtree(other)


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGTERM])
def test_a_stopped_run_goes_on_and_ends_as_if_undisturbed(whole, tmp_path, blow):
    work = copied(whole, tmp_path / "work")
    child = subprocess.Popen(
        [*command(work), "train.checkpoint_steps=4"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    deadline = time.monotonic() + 300
    lines: list = []
    while time.monotonic() < deadline and child.poll() is None and len(lines) < 6:
        time.sleep(0.05)
        found = list(work.glob("runs/*/metrics.jsonl"))
        lines = found[0].read_text().splitlines() if found else []
    assert child.poll() is None, child.stderr.read()
    child.send_signal(blow)
    _, errors = child.communicate(timeout=120)
    run = only_run(work)
    assert not (run / "export").exists()
    assert not list(work.rglob("*.tmp*"))
    saved = torch.load(run / "checkpoints/last", weights_only=True)["progress"]["step"]
    if blow == signal.SIGTERM:
        assert child.returncode == 143
        assert "a checkpoint is saved" in errors
        assert saved == curve(run)[-1]["step"]  # nothing is lost
    else:
        assert child.returncode == -signal.SIGKILL
        assert saved % 4 == 0
        assert saved >= 4
    job(work, "train.checkpoint_steps=4")
    undisturbed = only_run(whole)
    assert only_run(work) == run
    assert curve(run) == curve(undisturbed)
    assert (run / "export/backbone.safetensors").read_bytes() == (
        undisturbed / "export/backbone.safetensors"
    ).read_bytes()


def test_two_processes_train_and_hold_the_same_bank(whole, tmp_path):
    work = copied(whole, tmp_path / "work")
    job(work, "train.processes=2", "train.batch_size=16")
    run = only_run(work)
    content = torch.load(run / "checkpoints/last", weights_only=True)
    assert len(content["buffers"]) == 2
    assert json.loads((run / "run.json").read_text())["processes"] == 2
    card = json.loads((run / "export/card.json").read_text())
    assert card["finished"] is True
    # the number of tiles seen counts both processes
    assert card["tiles_seen"] == card["step"] * 32


def test_torchrun_starts_the_train_step(whole, tmp_path):
    work = copied(whole, tmp_path / "work")
    job(work, "tile")
    line = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        "-m",
        *command(work, "train")[2:],
    ]
    done = subprocess.run([*line, "train.epochs=1"], capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 0, done.stderr
    job(work, "export", "train.epochs=1")
    assert (only_run(work) / "export/backbone.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["sgcl.varint=1"], "did you mean 'sgcl.variant'"),
        (["train.epochs=many"], "a whole number is expected"),
        (["cohort=/no/such/folder"], "/no/such/folder"),
        (["method=sgkl"], "did you mean 'sgcl'"),
        (["train.batch_size=100000"], "set train.batch_size lower"),
        (["train", "tile=128"], "run `python -m pretrain tile`"),
        (["export", "run=nothing"], "run=nothing"),
        (["backbone=resnet19"], "choose one of"),
    ],
)
def test_mistakes_are_one_sentence_and_status_2(whole, arguments, sentence):
    before = times(whole)
    done = job(whole, *arguments, status=2)
    (line,) = [x for x in done.stderr.splitlines() if x.startswith("error: ")]
    assert sentence in line
    assert "Traceback" not in done.stderr
    grown = set(times(whole)) - set(before)
    assert not [name for name in grown if "tmp" in name or name.startswith("runs")]


def test_a_damaged_checkpoint_is_named(whole, tmp_path):
    work = tmp_path / "work"
    shutil.copytree(whole, work, symlinks=True)
    run = only_run(work)
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(info | {"state": "begun"}))
    (run / "checkpoints/last").resolve().write_bytes(b"not a checkpoint")
    done = job(work, "cohort=rehearsal", status=2)
    assert "is damaged" in done.stderr
    assert "step-" in done.stderr


def test_another_number_of_processes_is_another_run(whole, tmp_path):
    """Its batches and steps differ: it is not taken for done, not gone on with, and not begun over a named one."""
    work = copied(whole, tmp_path / "work")
    first = [sys.executable, "-m", "pretrain", *SETTINGS, f"work={work}", "train.processes=2", "train.batch_size=16"]
    child = subprocess.Popen(first, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    for line in child.stdout:
        if " step 2/" in line:
            break
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=120)
    assert child.returncode == 130
    two = only_run(work)
    done = job(work, f"run={two.name}", "train.batch_size=16", status=2)
    assert "was begun with 2 process(es), not 1" in done.stderr
    done = job(work, "train.batch_size=16")
    assert f"{two.name} has the same settings and 2" in done.stderr
    infos = [json.loads(path.read_text()) for path in (work / "runs").glob("*/run.json")]
    assert sorted((info["processes"], info["state"]) for info in infos) == [(1, "trained"), (2, "begun")]
