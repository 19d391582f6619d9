import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmarks.speed import loss, shard
from benchmarks.speed.dense import dense_loss
from pretrain.neighbours.search import ExactSearch
from pretrain.randomness import key

TINY = loss.Settings(negatives=500, sample=900, nei_k=60)


def test_the_yardstick_computes_what_the_exact_form_does():
    method = loss.cohort(TINY, 5000)
    bank, backbone = method.banks["global"], method.banks["backbone"]
    method.sampled, method.exact = False, ExactSearch(bank, backbone, "fixed", 0)
    ids = torch.tensor([0, 17, 700, 2500, 4096, 4999])
    q, h = (F.normalize(b[ids] + 0.05 * torch.randn(6, b.dimension), dim=1).requires_grad_() for b in (bank, backbone))
    place = torch.stack([method.facts.slide, method.facts.x, method.facts.y], 1)
    ranks = method.exact.ranks.draw(method.nearest, np.random.default_rng(key(0, 4, "ranks")))
    dense, positive = dense_loss(
        q, h, ids, bank.rows, backbone.rows, place, method.cells.labels, torch.from_numpy(ranks),
        radius=3.0, nearest=method.nearest, tau=0.07,
    )  # fmt: skip
    exact, _ = method.neighbours(q, h.detach(), ids, 2, 4)
    sets, _ = method.positive_sets(q.detach(), ids, 2)
    assert [set(row[row >= 0].tolist()) for row in sets] == [set(row.nonzero()[:, 0].tolist()) for row in positive]
    torch.testing.assert_close(exact, dense, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(*(torch.autograd.grad(term, q)[0] for term in (exact, dense)), rtol=1e-3, atol=1e-5)


def test_every_form_is_measured_and_kept(tmp_path, capsys):
    out = tmp_path / "out.json"
    sizes = ["tiles=[3000]", "negatives=500", "sample=900", "nei_k=60", "steps=1", "agreement=1", "threads=1"]
    assert loss.main([*sizes, f"out={out}"]) == 0
    kept = json.loads(out.read_text())
    assert [row["form"] for row in kept["rows"]] == ["dense", "exact", "sampled"]
    found = kept["rows"][-1]["agreement"]
    assert found["exact_size"] > 20
    assert 0.3 < found["jaccard"] <= 1
    assert "jaccard" in capsys.readouterr().out
    assert kept["hardware"]


def test_a_shard_trains_and_is_kept(tmp_path):
    out = tmp_path / "out.json"
    assert shard.main(["tiles=2000", "batch=4", "size=32", "steps=2", "threads=1", f"out={out}"]) == 0
    kept = json.loads(out.read_text())
    assert len(kept["losses"]) == 2
    assert all(np.isfinite(kept["losses"]))
    assert kept["bank_gib"] == pytest.approx(2000 * (640 * 2 + 2) / 2**30)
