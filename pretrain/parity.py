"""World-size parity: the same tiles on one rank and on several must give the same sets, rows, labels, losses and gradients.

Embeddings are fixed and synthetic, since batch norm would differ by itself. Every rank takes its share of each batch; rank 0
also does the whole batch alone, and compares.
"""

import dataclasses
import os
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain import distributed, ranks
from pretrain.distributed import World
from pretrain.methods.base import Facts, Step
from pretrain.methods.sgcl import SGCL, SGCLOptions
from pretrain.views import QUADRANTS, ViewSettings
from results.errors import UserError

TOLERANCE = 1e-6
MOST_PROCESSES = 256
LIMITS = {"tiles": (1000, 10**7), "batch": (2, 10**6), "steps": (1, 1000), "seed": (0, 2**32 - 1)}
FORMS = {
    "exact, fp32": {"form": "exact"},
    "exact, bf16": {"form": "exact", "bank": "bf16"},
    "sampled, dealt, fp32": {"form": "sampled", "shard": True},
    "sampled, dealt, bf16": {"form": "sampled", "shard": True, "bank": "bf16"},
    "sampled, dealt, int8": {"form": "sampled", "shard": True, "bank": "int8"},
}


@dataclasses.dataclass
class Settings:
    """What `python -m pretrain parity` may be told."""

    tiles: int = 3000
    batch: int = 48
    steps: int = 3
    seed: int = 0
    processes: list[int] = dataclasses.field(default_factory=lambda: [1, 2, 4])
    device: str = "auto"


@dataclasses.dataclass
class Finding:
    """One form on W ranks against one rank: largest differences, and whether sets, rows and labels are equal."""

    form: str
    ranks: int
    loss: float
    gradient: float
    sets: bool
    rows: bool
    labels: bool

    @property
    def holds(self) -> bool:
        """Whether everything is within the tolerance."""
        return self.sets and self.rows and self.labels and self.loss <= TOLERANCE and self.gradient <= TOLERANCE


def check(settings: Settings, world: World) -> list[Finding]:
    """Run every form on all ranks; the findings are rank 0's, empty elsewhere.

    Raises:
        UserError: when the batch cannot be shared out evenly.
    """
    if settings.batch % world.size:
        raise UserError(f"batch={settings.batch} cannot be shared by {world.size} ranks: give a multiple of it.")
    found = []
    for name, options in FORMS.items():
        together = _run(settings, world, options)
        alone = _run(settings, World(device=world.device), options) if world.rank == 0 else None
        if alone is not None:
            found.append(_compare(name, world.size, alone, together))
    return found


def _run(settings: Settings, world: World, options: dict[str, Any]) -> dict[str, Any]:
    """Losses, gradients, sets, labels and bank rows of `steps` steps, put together over the ranks."""
    rng = torch.Generator().manual_seed(settings.seed)
    number, side = torch.arange(settings.tiles), 20
    place = number % (side * side)
    facts = Facts(
        *(v.to(world.device) for v in (number // (side * side), place % side, place // side)), settings.seed, world
    )
    method = SGCL(
        SGCLOptions(dimension=32, negatives=512, nei_k=64, clusters=12, sample=1500, **options),
        facts, "resnet18", ViewSettings(),
    )  # fmt: skip
    clump = torch.randint(12, (settings.tiles,), generator=rng)
    centres = {d: torch.randn(12, d, generator=rng) for d in (32, method.dimension)}
    features = {
        name: F.normalize(torch.randn(settings.tiles, d, generator=rng) / d**0.5 + centres[d][clump] / d**0.5, dim=1)
        for name, d in (("global", 32), ("backbone", method.dimension), *((q, 32) for q in QUADRANTS))
    }
    everyone = torch.arange(settings.tiles, device=world.device)
    for name, bank in method.banks.items():
        bank.put(everyone, features[name].to(world.device))
    share = settings.batch // world.size
    losses, gradients, sets = [], [], []
    for step in range(settings.steps):
        method.start_epoch(step + 1)
        batch = torch.randperm(settings.tiles, generator=rng)[: settings.batch]
        ids = batch[world.rank * share : (world.rank + 1) * share]
        q, h, *p = (
            F.normalize(features[name][ids] + 0.2 * features[name][(ids + 1 + step) % settings.tiles], dim=1).to(
                world.device
            )
            for name in ("global", "backbone", *QUADRANTS)
        )
        q, p, ids = q.requires_grad_(), torch.stack(p).requires_grad_(), ids.to(world.device)
        drawn = torch.randint(settings.tiles, (method.negatives,), generator=rng).to(world.device)
        term, _ = method.neighbours(q, h, ids, step + 1, step)
        loss = method.self_invariance(q, ids, drawn) + term + method.inner_invariance(p, ids, drawn)
        gradients += [_together(world, g / world.size) for g in torch.autograd.grad(loss, (q, p))]
        losses.append(world.gather(loss.detach()[None]).mean())
        positives, _ = method.positive_sets(q.detach(), ids, step + 1, method.search(step))
        sets += [row for rows in world.gather_objects([r[r >= 0].tolist() for r in positives]) for row in rows]
        writes = dict(zip(("global", "backbone", *QUADRANTS), (q.detach(), h, *p.detach()), strict=True))
        method.remember(Step({}, q, ids, writes=writes))
    return {
        "losses": torch.stack(losses),
        "gradients": gradients,
        "sets": sets,
        "labels": method.cells.labels,
        "rows": {name: bank[everyone] for name, bank in method.banks.items()},
    }


def _together(world: World, gradient: Tensor) -> Tensor:
    """Put (B / W, D) or (4, B / W, D) gradients of all ranks in batch order."""
    if gradient.dim() == 2:
        return world.gather(gradient)
    return world.gather(gradient.transpose(0, 1).contiguous()).transpose(0, 1)


def _compare(name: str, ranks: int, alone: dict[str, Any], together: dict[str, Any]) -> Finding:
    scale = max(float(g.abs().max()) for g in alone["gradients"])
    apart = [float((a - b).abs().max()) for a, b in zip(alone["gradients"], together["gradients"], strict=True)]
    return Finding(
        name,
        ranks,
        float(((alone["losses"] - together["losses"]) / alone["losses"]).abs().max()),
        max(apart) / scale,
        alone["sets"] == together["sets"],
        all(torch.equal(rows, together["rows"][bank]) for bank, rows in alone["rows"].items()),
        torch.equal(alone["labels"], together["labels"]),
    )


def certificate(found: list[Finding], world: World) -> str:
    """The findings as lines for people."""
    backend = "one process" if world.size == 1 else ("nccl" if world.device.type == "cuda" else "gloo")
    lines = [f"parity of {world.size} rank(s) with one, {backend}, torch {torch.__version__}"]
    for finding in found:
        same = ", ".join(
            f"{what} {'equal' if equal else 'DIFFER'}"
            for what, equal in (("sets", finding.sets), ("bank rows", finding.rows), ("labels", finding.labels))
        )
        lines.append(
            f"  {finding.form:<22} {same}, loss {finding.loss:.1e}, gradient {finding.gradient:.1e}: "
            f"{'holds' if finding.holds else 'FAILS'}"
        )
    return "\n".join(lines)


def run(arguments: list[str]) -> int:
    """`python -m pretrain parity`: as one rank of torchrun's group, or start the groups of `processes=[1,2,4]` itself.

    Returns:
        0 when everything holds, 1 when not.
    """
    from omegaconf import OmegaConf

    from pretrain.job import launch
    from results.settings import compose, split_overrides

    settings: Settings = OmegaConf.to_object(compose(OmegaConf.structured(Settings), [], split_overrides(arguments)))
    _refuse(settings)
    if not distributed.under_torchrun():
        status = 0
        for count in settings.processes:
            status = max(status, launch(ranks.command(count, ["parity", *arguments])))
        return status
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with distributed.joined(settings.device) as world:
        found = check(settings, world)
        if world.rank == 0:
            print(certificate(found, world), flush=True)
        return 0 if world.share(all(finding.holds for finding in found)) else 1


def _refuse(settings: Settings) -> None:
    """Say what cannot be, before any process starts."""
    for key, (low, high) in LIMITS.items():
        if not low <= getattr(settings, key) <= high:
            raise UserError(f"{key}={getattr(settings, key)} does not fit: give a number from {low} to {high}.")
    if settings.batch > settings.tiles:
        raise UserError(f"batch={settings.batch} is more than tiles={settings.tiles}: give fewer, or more tiles.")
    counts = settings.processes
    if not counts or not all(1 <= count <= MOST_PROCESSES for count in counts):
        raise UserError(f"processes={counts} does not fit: give numbers from 1 to {MOST_PROCESSES}, such as [1,2,4].")
    together = distributed.under_torchrun()
    for count in [int(os.environ["WORLD_SIZE"])] if together else counts:
        if settings.batch % count:
            raise UserError(f"batch={settings.batch} cannot be shared by {count} ranks: give a multiple of it.")
    for count in () if together else counts:
        distributed.pick_device(settings.device, count - 1)
