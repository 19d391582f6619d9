import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.plan import Settings, plan
from pretrain.distributed import World
from pretrain.methods.base import Facts
from pretrain.methods.sgcl import SGCL, SGCLOptions
from pretrain.views import ViewSettings


def size(*tensors):
    return sum(t.numel() * t.element_size() for t in tensors)


@pytest.mark.parametrize("bank", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("ranks", [1, 3])
def test_the_plan_is_what_a_rank_holds(bank, ranks):
    number = torch.arange(1000)
    facts = Facts(number // 100, number % 10, number % 100 // 10, 0, World(0, ranks))
    method = SGCL(SGCLOptions(form="sampled", shard=True, bank=bank), facts, "resnet18", ViewSettings())
    found = plan(Settings(tiles=1000, ranks=ranks, bank=bank))
    rows = {name: size(b.rows, b.scale) for name, b in method.banks.items()}
    assert found.banks["global"] == rows["global"]
    assert found.banks["backbone"] == rows["backbone"]
    assert found.banks["4 quadrants"] == sum(rows[name] for name in ("tl", "tr", "bl", "br"))
    assert found.written == sum(size(b.written) for b in method.banks.values())
    assert found.spatial == size(method.index.key, method.index.sorted_key, method.index.order)
    assert found.cells == size(method.cells.key, method.cells.sorted_key, method.cells.order)
    assert found.labels == size(method.cells.labels)


def test_the_plan_of_the_published_cohort(capsys):
    assert main(["plan", "tiles=681486", "ranks=4", "shard=false"]) == 0
    out = capsys.readouterr().out
    assert "681,486 tiles, 4 rank(s)" in out
    assert "every 5,325 steps" in out  # sgcl-method 1.1
    banks = plan(Settings(ranks=4, shard=False)).banks
    assert sum(banks.values()) == 4608 * 681_486  # sgcl-method 2.13


def test_counts_may_be_written_short(capsys):
    assert main(["plan", "tiles=1e8", "ranks=8", "bank=bf16", "steps_per_second=4"]) == 0
    assert "100,000,000 tiles" in capsys.readouterr().out


def test_no_more_rows_are_read_than_there_are_tiles():
    small, published = plan(Settings(tiles=1000, ranks=2)), plan(Settings(tiles=65_536, ranks=2))
    assert small.exchanged == (3 * 1000 * 128 + 1000 * 512) * 4 // 2
    assert published.exchanged == ((2 * 65_536 + 16_384) * 128 + 16_384 * 512) * 4 // 2
    without = plan(Settings(tiles=1000, ranks=2, quadrants=0))
    assert without.exchanged == (2 * 1000 * 128 + 1000 * 512) * 4 // 2


MISTAKES = (
    "tiles=0", "tiles=-1", "tiles=1e30", "tiles=nan", "tiles=many", "tiles=1exe", "tiles=1.5e0", "tiles=99999999999999999999",
    "bank=fp8", "tile=5", "ranks=0", "batch=99999999999999999999", "quadrants=-1", "clusterings=-1", "dimension=1e30",
    "sample=1e400", "steps_per_second=0", "steps_per_second=-1", "steps_per_second=nan", "steps_per_second=inf", "shard=2",
)  # fmt: skip


@pytest.mark.parametrize("argument", MISTAKES)
def test_mistakes_end_with_2(argument, capsys):
    assert main(["plan", argument]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
