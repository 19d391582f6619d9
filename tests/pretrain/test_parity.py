import subprocess
import sys

import pytest

from pretrain import parity
from pretrain.distributed import World
from results.errors import UserError

SMALL = parity.Settings(tiles=1000, batch=8, steps=2)


@pytest.fixture(scope="module")
def alone():
    return parity._run(SMALL, World(), {"form": "sampled", "shard": True})


def test_what_is_compared_is_not_empty(alone):
    assert len(alone["sets"]) == 16
    assert all(len(members) > 20 for members in alone["sets"])
    assert max(max(members) - min(members) for members in alone["sets"]) > 400  # another slide
    assert min(float(g.abs().max()) for g in alone["gradients"]) > 1e-4
    assert len(alone["labels"].unique()) > 6
    assert set(alone["rows"]) == {"global", "backbone", "tl", "tr", "bl", "br"}


def spoil_loss(result):
    result["losses"] = result["losses"] * (1 + 1e-5)


def spoil_gradient(result):
    result["gradients"][1] = result["gradients"][1] + 1e-3


def spoil_sets(result):
    result["sets"] = [*result["sets"][:-1], result["sets"][-1][1:]]


def spoil_rows(result):
    result["rows"]["tl"] = result["rows"]["tl"].clone()
    result["rows"]["tl"][3, 0] += 1e-7


def spoil_labels(result):
    result["labels"] = result["labels"].roll(1, 1)


@pytest.mark.parametrize("spoil", [None, spoil_loss, spoil_gradient, spoil_sets, spoil_rows, spoil_labels])
def test_every_difference_is_seen(alone, spoil):
    other = dict(alone, gradients=list(alone["gradients"]), rows=dict(alone["rows"]))
    if spoil:
        spoil(other)
    finding = parity._compare("x", 2, alone, other)
    assert finding.holds is (spoil is None)
    assert ("FAILS" in parity.certificate([finding], World())) is (spoil is not None)


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(UserError, match="batch=7"):
        parity.check(parity.Settings(batch=7), World(size=2))


@pytest.mark.slow
def test_several_ranks_compute_what_one_does():
    command = [sys.executable, "-m", "pretrain", "parity", "processes=[2,4]", "tiles=1500", "steps=2", "device=cpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": holds") == 2 * len(parity.FORMS)
    assert "parity of 4 rank(s) with one, gloo" in done.stdout


MISTAKES = (
    "processes=[5]", "processes=[0]", "processes=[-1]", "processes=[]", "processes=[1000000] batch=1000000", "processes=2", "tiels=3",
    "tiles=3", "tiles=99999999999999999999", "tiles=nan", "steps=0", "steps=99999999999", "seed=-1", "seed=99999999999999999999",
    "batch=5000", "batch=0", "device=tpu",
)  # fmt: skip


def test_under_torchrun_a_batch_is_refused_before_the_group_meets(capsys, monkeypatch):
    from pretrain import distributed
    from pretrain.__main__ import main

    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setattr(distributed, "joined", lambda device: pytest.fail("the group was joined"))
    assert main(["parity", "batch=7"]) == 2
    assert capsys.readouterr().err == "error: batch=7 cannot be shared by 3 ranks: give a multiple of it.\n"


@pytest.mark.parametrize("arguments", MISTAKES)
def test_mistakes_end_with_2_before_a_process_starts(arguments, capsys, monkeypatch):
    from pretrain import job
    from pretrain.__main__ import main

    monkeypatch.setattr(job, "launch", lambda command: pytest.fail(f"{command} was started"))
    assert main(["parity", *arguments.split()]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
