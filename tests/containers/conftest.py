import subprocess

import pytest
from compose_services import Services
from docker.errors import DockerException

import docker


@pytest.fixture(scope="session")
def engine():
    """Client of the Docker engine; without engine or Compose every test here skips."""
    try:
        client = docker.from_env(timeout=600)
        client.ping()
    except DockerException as error:
        pytest.skip(f"no Docker engine answers ({error})")
    if subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        pytest.skip("the docker command or its compose plugin is missing")
    yield client
    client.close()


@pytest.fixture(scope="session")
def services(engine, tmp_path_factory):
    services = Services(tmp_path_factory.mktemp("containers"))
    built = services.compose("build", "pretrain")
    assert built.returncode == 0, built.stderr[-4000:]
    yield services
    services.compose("down", "--remove-orphans")
