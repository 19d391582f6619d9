"""Banks dealt to the ranks against whole ones: the same losses, gradients and rows, bit for bit."""

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import nn

from pretrain import backbones, checkpoint
from pretrain.distributed import World
from pretrain.methods import find
from pretrain.methods.base import Facts, Method
from pretrain.views import ViewSettings

TILES, BATCH, STEPS, WIDTH = 900, 6, 4, 16
OPTIONS = {
    "npid": {"negatives": 200},
    "npid_mcrop": {"negatives": 200},
    "pirl": {"negatives": 200},
    "sslp": {"form": "sampled", "sample": 300, "nei_k": 40, "clusters": 8},
    "sgcl": {"form": "sampled", "sample": 300, "nei_k": 40, "clusters": 8, "negatives": 200},
}
STORAGES = ("fp32", "bf16", "int8")
CASES = [*((name, "fp32") for name in OPTIONS), ("npid_mcrop", "int8"), ("pirl", "bf16"), ("sslp", "int8")]


class Small(nn.Module):
    """Colours of four quarters as features: what a backbone is, is not what is tested."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(12, WIDTH)

    def forward(self, images):
        return self.layer(F.adaptive_avg_pool2d(images, 2).flatten(1))


def make(name: str, storage: str, shard: bool, world: World) -> Method:
    place = torch.arange(TILES)
    facts = Facts(place // 300, place % 20, place % 300 // 20, seed=0, world=world)
    torch.manual_seed(0)
    cls = find(name)
    options = cls.Options(dimension=8, bank=storage, shard=shard, **OPTIONS[name])
    cls.check(options)
    return cls(options, facts, "resnet18", ViewSettings(size=16, local_size=16))


def train(name: str, storage: str, shard: bool, world: World, folder: Path) -> dict[str, object]:
    """Losses, gradients and rows of a few steps in the second epoch, where semantic positives are in use."""
    method = make(name, storage, shard, world)
    everyone = torch.arange(TILES)
    clump = torch.eye(8)[everyone % 8]
    for bank in method.banks.values():
        rows = torch.randn(TILES, bank.dimension, generator=torch.Generator().manual_seed(1)) * 0.2
        bank.put(everyone, F.normalize(rows + clump.repeat(1, bank.dimension // 8), dim=1))
    method.start_epoch(1)
    rng = torch.Generator().manual_seed(2 + world.rank)
    losses, gradients = [], []
    for step in range(STEPS):
        ids = torch.randint(TILES, (BATCH,), generator=rng)
        views = {v.name: torch.randn(BATCH, 3, v.size, v.size, generator=rng) for v in method.views}
        result = method(views, ids, 10, step)
        gradients.append(torch.autograd.grad(result.total(), method.backbone.layer.weight)[0])
        losses.append({key: value.item() for key, value in result.losses.items()})
        method.remember(result)
    if shard:
        checkpoint.save_banks(folder, 7, method.banks, world)
    sharded = [bank.sharded for bank in method.banks.values()]
    return {"losses": losses, "gradients": gradients, "sharded": sharded,
            "rows": {key: bank[everyone] for key, bank in method.banks.items()}}  # fmt: skip


def _both(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    backbones.build = lambda _: (Small(), WIDTH)
    found = {}
    for name, storage in CASES:
        place = Path(folder) / f"{name}-{storage}"
        place.mkdir(exist_ok=True)
        found[name, storage] = [train(name, storage, shard, World(rank, 2), place) for shard in (False, True)]
    torch.save(found, Path(folder) / f"rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, list[dict]]:
    """What two gloo ranks found with whole and with dealt banks."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    folder = tmp_path_factory.mktemp("dealt")
    mp.spawn(_both, (str(folder),), nprocs=2)
    return folder, [torch.load(folder / f"rank{rank}.pt") for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "storage"), CASES)
def test_dealt_banks_train_as_whole_ones_do(trained, name, storage):
    _, ranks = trained
    for rank in ranks:
        whole, dealt = rank[name, storage]
        assert not any(whole["sharded"])
        assert all(dealt["sharded"])
        assert dealt["losses"] == whole["losses"]
        assert all(torch.equal(a, b) for a, b in zip(dealt["gradients"], whole["gradients"], strict=True))
        assert all(torch.equal(dealt["rows"][key], rows) for key, rows in whole["rows"].items())
    assert ranks[0][name, storage][1]["losses"] != ranks[1][name, storage][1]["losses"]
    first, second = (rank[name, storage][1]["rows"] for rank in ranks)
    assert all(torch.equal(rows, second[key]) for key, rows in first.items())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "storage"), CASES)
def test_their_files_are_read_back_by_one_rank(trained, monkeypatch, name, storage):
    folder, ranks = trained
    monkeypatch.setattr(backbones, "build", lambda _: (Small(), WIDTH))
    alone = make(name, storage, True, World())
    checkpoint.load_banks(folder / f"{name}-{storage}", 7, alone.banks, World())
    for key, rows in ranks[0][name, storage][1]["rows"].items():
        assert torch.equal(alone.banks[key][torch.arange(TILES)], rows)
