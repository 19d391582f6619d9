"""The services as a user runs them: built, started and stopped through Compose, outputs looked at from outside."""

import json
import os
import re
import subprocess
import time
from pathlib import Path

import pytest
from compose_services import OWNER

ROOT = Path(__file__).parents[2]
# A rehearsal that is over in a minute on two cores.
REHEARSAL = ["recipe=smoke"]
TRANSFER = ["engines=[knn]", "trials=1"]
pytestmark = [pytest.mark.container, pytest.mark.slow, pytest.mark.timeout(2400)]


@pytest.fixture(scope="module")
def image(engine, services):
    return engine.images.get(services.compose("config", "--images", "pretrain").stdout.split()[0])


@pytest.fixture(scope="module")
def exported(services) -> Path:
    """Folder of the export that the reduced rehearsal made."""
    done = services.run("pretrain", *REHEARSAL)
    assert done.returncode == 0, done.stderr[-4000:]
    (export,) = services.work.glob("runs/*/export")
    return export


def assert_owned(folder: Path) -> None:
    strangers = [path for path in folder.rglob("*") if path.lstat().st_uid != OWNER]
    assert not strangers


def test_image_says_what_it_is(image, services):
    config = image.attrs["Config"]
    assert config["User"] == "1000:1000"
    assert config["Labels"]["org.opencontainers.image.revision"] == services.revision
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_image_holds_no_index_address(image):
    told = json.dumps([image.history(), image.attrs["Config"]["Env"]])
    assert not re.search(r"https?://", told)


def test_image_size(image, record_property):
    record_property("image_bytes", image.attrs["Size"])
    print(f"image: {image.attrs['Size'] / 1e9:.2f} GB")
    assert image.attrs["Size"] < 8e9


def test_service_is_locked_down(services):
    inside = services.python(
        """if True:
        import json, os
        def writable(folder):
            try:
                open(folder + '/.probe', 'w').close()
                os.remove(folder + '/.probe')
                return True
            except OSError:
                return False
        status = dict(line.split(':', 1) for line in open('/proc/self/status'))
        folders = '/ /app /app/results /app/pretrain /data /opt/venv /usr /tmp /dev/shm /app/work /app/results/records /app/results/tables'
        print(json.dumps({'uid': os.getuid(), 'rights': int(status['CapBnd'], 16), 'no_new': int(status['NoNewPrivs']),
                          'writable': [folder for folder in folders.split() if writable(folder)]}))
        """
    )
    assert inside == {
        "uid": OWNER,
        "rights": 0,
        "no_new": 1,
        "writable": ["/tmp", "/dev/shm", "/app/work", "/app/results/records", "/app/results/tables"],
    }


def test_libraries_and_revision_are_inside(services):
    inside = services.python(
        """if True:
        import getpass, json
        import dask.distributed, faiss, lightly, lmdb, openslide, sklearn, torch, torchvision
        import benchmarks, pretrain, results.provenance, transfer
        print(json.dumps({'torch': torch.__version__, 'revision': results.provenance.git_revision(), 'user': getpass.getuser()}))
        """
    )
    locked = re.search(r"^torch==(\S+)", (ROOT / "docker/requirements/torch-cu130.txt").read_text(), re.MULTILINE)
    assert inside["torch"].partition("+")[0] == locked[1]
    assert inside["revision"] == services.revision


def test_no_compiler_and_no_pip_inside(services):
    inside = services.python(
        """if True:
        import importlib.util, json, pathlib, shutil
        tools = [tool for tool in ('gcc', 'cc', 'g++', 'nvcc', 'pip', 'git', 'curl') if shutil.which(tool)]
        tools += ['pip'] if importlib.util.find_spec('pip') else []
        caches = [str(p) for p in pathlib.Path('/var/cache/apt').rglob('*.deb')]
        print(json.dumps({'tools': tools, 'caches': caches}))
        """
    )
    assert inside == {"tools": [], "caches": []}


def test_a_wrong_key_is_one_sentence_and_exit_2(services):
    done = services.run("pretrain", *REHEARSAL, "train.epoch=1")
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "train.epochs" in errors[0]
    assert "Traceback" not in done.stderr


def test_without_a_user_compose_says_what_to_do(services):
    environment = {key: value for key, value in services.environment.items() if key != "RUN_AS"}
    done = subprocess.run(
        ["docker", "compose", "--env-file", os.devnull, "-f", "docker-compose.yml", "run", "--rm", "pretrain"],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode != 0
    assert "make env" in done.stderr


def test_pretrain_exports_files_of_the_caller(services, exported):
    card = json.loads((exported / "card.json").read_text())
    assert card["git_revision"] == services.revision
    assert card["data"]["rehearsal"] is True
    assert (exported / "backbone.safetensors").stat().st_size > 1e6
    assert_owned(services.work)


def test_pretrain_again_does_no_work_twice(services, exported):
    before = (exported / "backbone.safetensors").stat().st_mtime_ns
    done = services.run("pretrain", *REHEARSAL)
    assert done.returncode == 0, done.stderr[-4000:]
    assert len(list(services.work.glob("runs/*"))) == 1
    assert (exported / "backbone.safetensors").stat().st_mtime_ns == before


def test_transfer_and_table_write_files_of_the_caller(services, exported):
    done = services.run("transfer-cls", *TRANSFER)
    assert done.returncode == 0, done.stderr[-4000:]
    records = [json.loads(path.read_text()) for path in (services.results / "records").glob("*.json")]
    assert any(record["encoder"]["kind"] == "run" and record["status"] == "ok" for record in records)
    done = services.run("table")
    assert done.returncode == 0, done.stderr[-4000:]
    assert list((services.results / "tables").glob("*.md"))
    assert_owned(services.results)


def test_slides_at_data_are_read_and_left_alone(services, exported):
    """The rehearsal's own slides, handed in as a user's folder."""
    (made,) = services.work.glob("cohorts/*")
    services.environment["DATA"] = str(made)
    try:
        done = services.run("pretrain", "tile", "cohort=/data", *REHEARSAL)
    finally:
        services.environment["DATA"] = str(services.slides)
    assert done.returncode == 0, done.stderr[-4000:]
    assert len(list(services.work.glob("tiles/*/store.json"))) == 2


def test_stop_leaves_a_checkpoint_and_the_same_command_goes_on(engine, services, exported):
    settings = [*REHEARSAL, "train.epochs=200", "run=stopped"]
    started = services.compose("run", "-d", "-T", "pretrain", *settings)
    assert started.returncode == 0, started.stderr
    container = engine.containers.get(started.stdout.strip().splitlines()[-1])
    run = services.work / "runs" / "stopped"
    try:
        deadline = time.monotonic() + 300
        while not (run / "metrics.jsonl").exists() and time.monotonic() < deadline:
            container.reload()
            assert container.status == "running", container.logs()[-4000:].decode()
            time.sleep(0.5)
        began = time.monotonic()
        container.stop(timeout=60)
        assert time.monotonic() - began < 50, "it was killed, not stopped"
        assert container.wait()["StatusCode"] == 143, container.logs()[-4000:].decode()
    finally:
        container.remove(force=True)
    assert (run / "checkpoints" / "last").resolve().is_file()
    assert not (run / "export").exists()
    assert_owned(run)
    reached = last_step(run)
    done = services.run("pretrain", "export", "run=stopped")
    assert done.returncode == 0, done.stderr[-4000:]
    assert json.loads((run / "export" / "card.json").read_text())["tiles_seen"] >= reached


def last_step(run: Path) -> int:
    return json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["step"]
