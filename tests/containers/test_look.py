"""`make env`: what it finds out about a machine, tried on machines made of fake commands."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def machine(tmp_path):
    """Return a function that writes .env on a machine with these answers and returns it as a dict."""
    checkout, commands = tmp_path / "checkout", tmp_path / "commands"
    shutil.copytree(ROOT / "docker", checkout / "docker")
    commands.mkdir()

    def command(name: str, script: str) -> None:
        (commands / name).write_text(f"#!/bin/sh\n{script}\n")
        (commands / name).chmod(0o755)

    def look(driver=None, capability="9.0", runtimes="runc", security="", **answers) -> dict[str, str]:
        smi = f'case "$1" in *driver*) echo {driver};; *) echo "{capability}";; esac' if driver else "exit 9"
        command("nvidia-smi", smi)
        command("docker", f'case "$3" in *Runtimes*) echo "{runtimes}";; *) echo "{security}";; esac')
        environment = {"PATH": f"{commands}:/usr/bin:/bin"} | answers
        done = subprocess.run(
            ["bash", checkout / "docker/look.sh"], env=environment, cwd=tmp_path, capture_output=True, text=True
        )
        if done.returncode:
            raise ValueError(done.stderr)
        lines = (checkout / ".env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if not line.startswith("#"))

    look.checkout = checkout
    return look


CPU, BOTH = "docker-compose.yml", "docker-compose.yml:docker/gpu.yml"


@pytest.mark.parametrize(
    ("answers", "files", "cuda"),
    [
        ({}, CPU, "cu130"),
        ({"driver": "580.95.05", "runtimes": "nvidia runc"}, BOTH, "cu130"),
        ({"driver": "580.95.05"}, CPU, "cu130"),
        ({"driver": "550.54.14", "runtimes": "nvidia"}, BOTH, "cu128"),
        ({"driver": "590.1", "runtimes": "nvidia", "capability": "9.0\n7.0"}, BOTH, "cu128"),
        ({"driver": "590.1", "runtimes": "nvidia", "capability": "12.0"}, BOTH, "cu130"),
        ({"driver": "550.54.14", "runtimes": "nvidia", "GPU": "off", "CUDA": "cu130"}, CPU, "cu130"),
        ({"GPU": "on", "CUDA": "cu128"}, BOTH, "cu128"),
    ],
)
def test_gpu_switch_and_set_follow_the_machine(machine, answers, files, cuda):
    written = machine(**answers)
    assert (written["COMPOSE_FILE"], written["CUDA"]) == (files, cuda)


def test_outputs_belong_to_the_caller(machine):
    ids = [subprocess.run(["id", flag], capture_output=True, text=True).stdout.strip() for flag in ("-u", "-g")]
    assert machine()["RUN_AS"] == ":".join(ids)
    assert machine(security="[name=seccomp name=rootless]")["RUN_AS"] == "0:0"


def test_folders_that_compose_mounts_are_made(machine):
    machine()
    for folder in ("work/no-slides", "results/records", "results/tables"):
        assert (machine.checkout / folder).is_dir()


def test_slides_folder_stays_until_another_is_named(machine, tmp_path):
    first, second = tmp_path / "my slides", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    assert machine()["DATA"] == f"'{machine.checkout}/work/no-slides'"
    assert machine(DATA=str(first))["DATA"] == f"'{first}'"
    assert machine()["DATA"] == f"'{first}'"
    assert machine(DATA=str(second))["DATA"] == f"'{second}'"


def test_every_checkout_has_a_project_of_its_own(machine, tmp_path):
    project = machine()["COMPOSE_PROJECT_NAME"]
    assert re.fullmatch(r"sgcl-bench-[0-9a-f]{8}", project)
    assert machine()["COMPOSE_PROJECT_NAME"] == project
    shutil.copytree(ROOT / "docker", tmp_path / "elsewhere" / "docker")
    subprocess.run(["bash", tmp_path / "elsewhere/docker/look.sh"], check=True, capture_output=True)
    assert f"COMPOSE_PROJECT_NAME={project}" not in (tmp_path / "elsewhere/.env").read_text()


@pytest.mark.parametrize(
    ("line", "project"), [("", "sgcl-bench"), ("COMPOSE_PROJECT_NAME=sgcl-bench-0a1b2c3d", "sgcl-bench-0a1b2c3d")]
)
def test_images_and_containers_are_named_after_the_project(tmp_path, line, project):
    """Compose itself reads its file; no engine is asked."""
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode
    ):
        pytest.skip("the docker command or its compose plugin is missing")
    (tmp_path / "env").write_text(f"RUN_AS=1:1\n{line}\n")
    command = [
        "docker",
        "compose",
        "--env-file",
        tmp_path / "env",
        "-f",
        ROOT / "docker-compose.yml",
        "--profile",
        "test",
    ]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("COMPOSE_")}
    done = subprocess.run(
        [*command, "config", "--format", "json"], env=environment, capture_output=True, text=True, check=True
    )
    config = json.loads(done.stdout)
    assert config["name"] == project
    images = {service["image"].partition(":")[0] for service in config["services"].values()}
    assert images == {f"{project}/{name}" for name in ("pretrain", "transfer-det", "transfer-seg", "test")}


@pytest.mark.parametrize("answer", [{"DATA": "/no/such/folder"}, {"CUDA": "cu99"}, {"GPU": "perhaps"}])
def test_a_wrong_answer_is_one_sentence_and_writes_nothing(machine, answer):
    with pytest.raises(ValueError, match=rf"^error: {next(iter(answer))}=.*\.\n$"):
        machine(**answer)
    assert not (machine.checkout / ".env").exists()
