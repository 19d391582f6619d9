import pytest
import torch
from transfer_toys import write_export, write_store

from pretrain.tiles import TileStore


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    return TileStore(write_store(tmp_path_factory.mktemp("work") / "tiles" / "toy-1"))


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    return write_export(tmp_path_factory.mktemp("one") / "runs" / "sgcl-toy-1")
