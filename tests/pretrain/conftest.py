import numpy as np
import pytest
import torch

from pretrain.distributed import World
from pretrain.methods.base import Facts


@pytest.fixture(autouse=True)
def _few_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def facts() -> Facts:
    """A random cohort of 400 tiles on 5 slides, with isolated tiles and a one-tile slide."""
    rng = np.random.default_rng(0)
    slide = np.sort(rng.integers(0, 4, 400))
    x, y = rng.integers(0, 14, (2, 400))
    slide[-1], x[7], y[7] = 4, 500, 500
    return Facts(*(torch.from_numpy(v.astype(np.int64)) for v in (slide, x, y)), seed=0, world=World())
