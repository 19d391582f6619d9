"""`python -m benchmarks.speed.loss`: what the self, spatial and semantic terms cost, dense, exact and sampled, in one run.

Rows, queries and labels are synthetic: N / 680 clumps of unit vectors, three clusterings that know the clump of three rows
in four. A step is the loss, its gradient with respect to the queries, and the bank update. The quadrant term is the same in every
form and left out.
"""

import dataclasses
import math
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import Tensor

from benchmarks.speed.dense import dense_loss
from benchmarks.speed.measuring import keep, timed
from pretrain.backbones import build
from pretrain.distributed import World
from pretrain.losses import info_nce
from pretrain.methods.base import Facts
from pretrain.methods.sgcl import SGCL, SGCLOptions
from pretrain.neighbours import sizes
from pretrain.neighbours.clusters import Cells
from pretrain.neighbours.search import ExactSearch
from pretrain.views import ViewSettings
from results.errors import told
from results.settings import compose, split_overrides

IDS_PER_SLIDE = 4096


@dataclasses.dataclass
class Settings:
    """Defaults are the published sizes.

    Attributes:
        forms: of dense, exact, sampled; tiles: N, one measurement each; steps: of which the median is told.
        backbone_step: also time one training step of ResNet-18 on 1 x 224 and 4 x 96 px; out: JSON file.
    """

    forms: list[str] = dataclasses.field(default_factory=lambda: ["dense", "exact", "sampled"])
    tiles: list[int] = dataclasses.field(default_factory=lambda: [681_486])
    batch: int = 32
    negatives: int = 65_536
    sample: int = 16_384
    nei_k: int = 4096
    bank: str = "fp32"
    steps: int = 5
    agreement: int = 0
    backbone_step: bool = False
    threads: int = 2
    seed: int = 0
    out: str | None = None


def main(arguments: list[str]) -> int:
    """Measure, print a table, and write JSON where `out=` says."""
    return told(lambda: _run(arguments))


def _run(arguments: list[str]) -> int:
    settings: Settings = OmegaConf.to_object(compose(OmegaConf.structured(Settings), [], split_overrides(arguments)))
    torch.set_num_threads(settings.threads)
    rows = [row for tiles in settings.tiles for row in measure(settings, tiles)]
    if settings.backbone_step:
        rows.append({"form": "backbone 1 x 224 + 4 x 96", "tiles": 0, **timed(backbone_step(settings.batch), 2)})
    columns = ("seconds", "ratio", "cpu_seconds", "cpu_ratio", "branch_seconds", "transient_mib")
    print(f"{'form':<28} {'tiles':>10} " + " ".join(f"{name:>14}" for name in columns))
    for row in rows:
        values = " ".join(f"{row[name]:>14.3f}" if name in row else f"{'':>14}" for name in columns)
        print(f"{row['form']:<28} {row['tiles']:>10} {values}")
        if "agreement" in row:
            print("  " + ", ".join(f"{name} {value:.4g}" for name, value in row["agreement"].items()))
    keep(settings.out, settings, rows=rows)
    return 0


def cohort(settings: Settings, tiles: int) -> SGCL:
    """A method with clumped banks, and labels that know the clumps."""
    rng = torch.Generator().manual_seed(settings.seed)
    number = torch.arange(tiles)
    side = int(math.sqrt(IDS_PER_SLIDE))
    place = number % IDS_PER_SLIDE
    facts = Facts(number // IDS_PER_SLIDE, place % side, place // side, settings.seed, World())
    options = SGCLOptions(
        inner=False,
        form="sampled",
        negatives=settings.negatives,
        sample=settings.sample,
        nei_k=settings.nei_k,
        bank=settings.bank,
    )
    method = SGCL(options, facts, "resnet18", ViewSettings())
    clumps = max(1, tiles // 680)
    clump = torch.randint(clumps, (tiles,), generator=rng)
    for bank in method.banks.values():
        centre = F.normalize(torch.randn(clumps, bank.dimension, generator=rng), dim=1)
        for chunk in number.split(1 << 18):
            bank.put(chunk, F.normalize(bank[chunk] + 1.2 * centre[clump[chunk]], dim=1))
    labels = torch.stack(
        [
            torch.where(torch.rand(tiles, generator=rng) < 0.75, clump, torch.randint(clumps, (tiles,), generator=rng))
            for _ in range(options.clusterings)
        ]
    ).int()
    method.cells = Cells(labels)
    return method


def measure(settings: Settings, tiles: int) -> list[dict[str, Any]]:
    """Time the forms on one synthetic cohort; the ratio is against the first of them."""
    method = cohort(settings, tiles)
    rng = torch.Generator().manual_seed(settings.seed + 1)
    ids = torch.randperm(tiles, generator=rng)[: settings.batch]
    bank, backbone = method.banks["global"], method.banks["backbone"]
    q = F.normalize(bank[ids] + 0.05 * torch.randn(len(ids), bank.dimension, generator=rng), dim=1).requires_grad_()
    h = F.normalize(backbone[ids] + 0.03 * torch.randn(len(ids), backbone.dimension, generator=rng), dim=1)
    exact = ExactSearch(bank, backbone, "fixed", settings.seed)
    place = torch.stack([method.facts.slide, method.facts.x, method.facts.y], 1)
    found = []
    for form in settings.forms:
        method.sampled, method.exact = form == "sampled", exact
        branch: list[float] = []

        def step(number: int, form: str = form, branch: list[float] = branch) -> None:
            drawn = method.draw_negatives(number)
            own = (q * bank[ids]).sum(1)
            torch.autograd.grad(info_nce(own, q @ bank[drawn].T, 0.2, drawn == ids[:, None]), q)
            start = time.perf_counter()
            if form == "dense":
                ranks = torch.from_numpy(exact.ranks.draw(method.nearest, np.random.default_rng(number)))
                loss, _ = dense_loss(
                    q, h, ids, bank.rows, backbone.rows, place, method.cells.labels, ranks,
                    radius=3.0, nearest=method.nearest, tau=0.07,
                )  # fmt: skip
            else:
                loss, _ = method.neighbours(q, h, ids, 2, number)
            torch.autograd.grad(loss, q)
            branch.append(time.perf_counter() - start)
            for name, features in (("global", q), ("backbone", h)):
                method.banks[name].update(ids, features.detach())

        row = {"form": form, "tiles": tiles, **timed(step, settings.steps)}
        row["branch_seconds"] = statistics.median(branch[1:])
        if found:
            row["ratio"] = found[0]["seconds"] / row["seconds"]
            row["cpu_ratio"] = found[0]["cpu_seconds"] / row["cpu_seconds"]
        found.append(row)
    if settings.agreement:
        found[-1]["agreement"] = agreement(method, q, h, ids, settings.agreement)
    return found


def agreement(method: SGCL, q: Tensor, h: Tensor, ids: Tensor, steps: int) -> dict[str, float]:
    """Compare the sampled form with the exact one on the same queries of the tiles `ids`, over `steps` draws of the sample.

    Returns:
        mean Jaccard index of the semantic sets of anchors where either has one; of both forms the mean size of the sets, the mean
        rank of the mined negatives as a share of N, and the mean loss.
    """
    q = q.detach()
    rank = (-method.banks["backbone"].similarity(h)).argsort(1).argsort(1)
    jaccard, numbers = [], {"exact": [], "sampled": []}
    count = {"exact": [], "sampled": []}
    losses = {"exact": [], "sampled": []}
    for number in range(steps):
        sets = {}
        for form in numbers:
            method.sampled = form == "sampled"
            search = method.search(number)
            spatial = method.index.positives(ids)
            sets[form] = method.semantic_sets(q, ids, spatial, 2, search)
            count[form].append(sizes(sets[form]).float().mean().item())
            _, _, mined = search.mined(q, h, ids[:, None], method.nearest, np.random.default_rng(number))
            numbers[form].append(rank.gather(1, mined).float().mean().item() / method.facts.tiles)
            losses[form].append(method.neighbours(q, h, ids, 2, number)[0].item())
        for a, b in zip(*sets.values(), strict=True):
            a, b = set(a[a >= 0].tolist()), set(b[b >= 0].tolist())
            if a or b:
                jaccard.append(len(a & b) / len(a | b))
    return {
        "jaccard": statistics.mean(jaccard),
        "exact_size": statistics.mean(count["exact"]),
        "sampled_size": statistics.mean(count["sampled"]),
        "exact_rank": statistics.mean(numbers["exact"]),
        "sampled_rank": statistics.mean(numbers["sampled"]),
        "exact_loss": statistics.mean(losses["exact"]),
        "sampled_loss": statistics.mean(losses["sampled"]),
    }


def backbone_step(batch: int) -> Callable[[int], None]:
    """One training step of ResNet-18 on a batch of 1 x 224 and 4 x 96 px views, without data, loss or bank."""
    network, _ = build("resnet18")
    network = network.to(memory_format=torch.channels_last)
    whole, parts = torch.randn(batch, 3, 224, 224), torch.randn(4 * batch, 3, 96, 96)

    def step(_: int) -> None:
        network.zero_grad()
        for view in (whole, parts):
            network(view.contiguous(memory_format=torch.channels_last)).square().mean().backward()

    return step


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
