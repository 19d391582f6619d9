import pytest
import torch
from nucls_toys import write_nucls
from transfer_toys import write_export, write_store

from pretrain.tiles import TileStore
from results.errors import UserError
from transfer.engines.detectron2 import compat
from transfer.tasks.nucls import NuclsSettings, load_nucls


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    return TileStore(write_store(tmp_path_factory.mktemp("work") / "tiles" / "toy-1"))


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    return write_export(tmp_path_factory.mktemp("one") / "runs" / "sgcl-toy-1")


@pytest.fixture
def nucls_folder(tmp_path):
    return write_nucls(tmp_path / "nucls")


@pytest.fixture(scope="session")
def nucls_task(tmp_path_factory):
    return load_nucls(NuclsSettings(), write_nucls(tmp_path_factory.mktemp("data") / "nucls"), 3, 0)


@pytest.fixture(scope="session")
def detectron2():
    """Detectron2, made to run; tests that use it are skipped where it is not installed."""
    try:
        compat.prepare()
    except UserError as error:
        pytest.skip(str(error))
