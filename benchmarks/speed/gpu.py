"""`make gpu-check`: does pretraining keep a GPU busy, in bf16, at the size of Camelyon16, and do two of them agree?

A step is what the training loop does with a batch that is already on the device: views, forward, losses, gradient, optimiser,
banks. Beside it stands the same backbone on views of the same sizes with nothing around it: the most that this device can give.
Tiles are random pixels in memory, banks are random: the numbers are of speed alone. Without CUDA a reduced form runs on the CPU,
which shows that the script works and nothing else.
"""

import dataclasses
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf

from benchmarks.speed.measuring import keep, peak, reset_peak
from pretrain import methods
from pretrain.config import load
from pretrain.distributed import World
from pretrain.loop import advance, make_optimiser
from pretrain.methods.base import Facts, Method
from pretrain.views import ViewSettings, make_views
from results.errors import UserError, told
from results.provenance import short_revision
from results.settings import compose, split_overrides

MEASURED = Path(__file__).parent / "measured"
POOL = 2048
"""Different tiles in memory; ids of the whole cohort take turns through them."""


@dataclasses.dataclass
class Settings:
    """The published sizes on CUDA; `reduced` gives those for a CPU.

    Attributes:
        methods: what to train; tiles: N; batch: tiles a step; tile, size, local_size: px; steps: measured after `warm` others.
        parity: also compare ranks (NCCL where there are two GPUs, else gloo on the CPU).
        dense: also train the detector and the segmenter for some steps on synthetic images.
        out: JSON file; null names it after the hardware in `benchmarks/speed/measured`, `none` writes nothing.
    """

    device: str = "auto"
    methods: list[str] = dataclasses.field(default_factory=lambda: ["npid", "sgcl"])
    tiles: int = 681_486
    batch: int = 128
    tile: int = 256
    size: int = 224
    local_size: int = 96
    steps: int = 200
    warm: int = 20
    bank: str = "fp32"
    amp: bool = True
    parity: bool = True
    dense: bool = True
    out: str | None = None


REDUCED = {"tiles": 20_000, "batch": 8, "tile": 64, "size": 32, "local_size": 16, "steps": 4, "warm": 1}
"""What a CPU gets unless it is told otherwise."""


def main(arguments: list[str]) -> int:
    """Measure, print a table, and write JSON and a row named after the hardware."""
    return told(lambda: _run(arguments))


def resolve(arguments: list[str]) -> tuple[Settings, torch.device]:
    """Return settings and device; a UserError where CUDA is asked for and absent."""
    overrides = split_overrides(arguments)
    name = overrides.get("device", "auto")
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"device={name} is not known: choose auto, cpu or cuda.")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda, but no CUDA device is usable here: see docs/install.md, or give device=cpu.")
    device = torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
    layers = [] if device.type == "cuda" else [("the reduced form", dict(REDUCED))]
    settings: Settings = OmegaConf.to_object(compose(OmegaConf.structured(Settings), layers, overrides))
    for key in ("tiles", "batch", "steps"):
        if getattr(settings, key) < 1:
            raise UserError(f"{key}={getattr(settings, key)} is too small: give 1 or more.")
    return settings, device


def _run(arguments: list[str]) -> int:
    settings, device = resolve(arguments)
    rows = [measure(settings, device, name) for name in settings.methods]
    found: dict[str, Any] = {"device": describe(device), "reduced": device.type != "cuda", "rows": rows}
    print(f"{found['device']}, {settings.tiles:,} tiles, batch {settings.batch}, {'bf16' if settings.amp else 'fp32'}")
    for row in rows:
        print(
            f"  {row['method']:<6} {row['images_per_second']:>9.1f} tiles/s, backbone alone {row['limit_per_second']:>9.1f}, "
            f"share {row['share']:.2f}, peak {row['peak_gib']:.2f} GiB, loss {row['losses'][0]:.3f} -> {row['losses'][-1]:.3f}"
        )
    failed = []
    if settings.parity:
        found["parity"] = parity(device)
        failed += [] if found["parity"]["holds"] else ["parity"]
        print(f"  parity: {found['parity']['last']}")
    if settings.dense:
        found["dense"] = dense(device)
        failed += [name for name, step in found["dense"].items() if step["status"]]
        for name, step in found["dense"].items():
            print(f"  {name}: exit {step['status']} after {step['seconds']:.0f} s")
    if settings.out != "none":
        out = Path(settings.out) if settings.out else MEASURED / f"gpu-{slug(found['device'])}.json"
        keep(str(out), settings, **found)
        table = out.with_name("gpu.md")
        table.write_text(as_table(sorted(out.parent.glob("gpu-*.json"))), encoding="utf-8")
        print(f"kept in {out} and {table}")
    if failed:
        raise UserError(f"gpu-check failed in {', '.join(failed)}: the lines above and the JSON say how.")
    return 0


def describe(device: torch.device) -> str:
    """Return the name of the hardware, with how many of it there are."""
    if device.type == "cuda":
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(device)}"
    return f"CPU, {torch.get_num_threads()} threads"


def slug(text: str) -> str:
    """Return a file-name piece."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def cohort(tiles: int, device: torch.device) -> Facts:
    """Slides of 4,096 tiles on a square grid."""
    number = torch.arange(tiles, device=device)
    return Facts(number // 4096, number % 64, (number // 64) % 64, 0, World(device=device))


def measure(settings: Settings, device: torch.device, name: str) -> dict[str, Any]:
    """Time one method's steps, and its backbone alone on views of the same sizes."""
    views = ViewSettings(size=settings.size, local_size=settings.local_size)
    config = load([f"method={name}", f"{name}.bank={settings.bank}"])
    torch.manual_seed(0)
    method = methods.find(name)(
        OmegaConf.to_object(config[name]), cohort(settings.tiles, device), "resnet18", views
    ).to(device, memory_format=torch.channels_last)  # fmt: skip
    optimiser = make_optimiser(method, config.train)
    rng = torch.Generator().manual_seed(1)
    pool = torch.randint(
        256, (min(POOL, settings.tiles), settings.tile, settings.tile, 3), generator=rng, dtype=torch.uint8
    )
    pool = pool.to(device)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=settings.amp)
    method.start_epoch(1)
    forget_peak(device)
    losses: list[torch.Tensor] = []

    def step(number: int) -> None:
        ids = torch.randint(settings.tiles, (settings.batch,), generator=rng)
        made = make_views(pool[(ids % len(pool)).to(device)], ids.numpy(), method.views, views, 0, 1)
        made = {key: view.contiguous(memory_format=torch.channels_last) for key, view in made.items()}
        with autocast:
            result = method.train()(made, ids.to(device), 1, number)
        losses.append(advance(method, optimiser, result, 1, number, settings.steps, None).detach())

    seconds = clock(step, settings, device)
    peak_gib = peak_memory(device)
    limit = clock(alone(method, settings, device, autocast), settings, device)
    told = [loss.item() for loss in losses[settings.warm :]]
    if not np.isfinite(told).all():
        raise UserError(f"{name}: the loss is not finite after {settings.steps} steps in this precision.")
    return {
        "method": name,
        "images_per_second": settings.batch * settings.steps / seconds,
        "limit_per_second": settings.batch * settings.steps / limit,
        "share": limit / seconds,
        "step_ms": 1000 * seconds / settings.steps,
        "peak_gib": peak_gib,
        "losses": [told[0], told[-1]],
    }


def alone(method: Method, settings: Settings, device: torch.device, autocast: torch.autocast) -> Any:
    """Return a step of the backbone on fixed views of the method's sizes: forward, gradient, optimiser."""
    optimiser = torch.optim.SGD(method.backbone.parameters(), lr=1e-4, momentum=0.9)
    sizes = [view.size for view in method.views]
    inputs = [
        torch.randn(settings.batch * sizes.count(size), 3, size, size, device=device).contiguous(
            memory_format=torch.channels_last
        )
        for size in sorted(set(sizes))
    ]

    def step(_: int) -> None:
        optimiser.zero_grad(set_to_none=True)
        with autocast:
            loss = torch.stack([method.backbone(views).float().square().mean() for views in inputs]).sum()
        loss.backward()
        optimiser.step()

    return step


def clock(step: Any, settings: Settings, device: torch.device) -> float:
    """Seconds of `steps` steps after `warm` others, the device's queue emptied on both sides."""
    for number in range(settings.warm):
        step(number)
    wait(device)
    start = time.perf_counter()
    for number in range(settings.warm, settings.warm + settings.steps):
        step(number)
    wait(device)
    return time.perf_counter() - start


def wait(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def forget_peak(device: torch.device) -> None:
    """Start the peak of memory anew."""
    torch.cuda.reset_peak_memory_stats(device) if device.type == "cuda" else reset_peak()


def peak_memory(device: torch.device) -> float:
    """Peak of the device's memory in GiB; of the process on a CPU."""
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else peak() / 1024


def parity(device: torch.device) -> dict[str, Any]:
    """Run `pretrain parity` over all GPUs with NCCL, or over two CPU ranks with gloo where there are fewer than two."""
    gpus = torch.cuda.device_count() if device.type == "cuda" else 0
    if gpus >= 2:
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={gpus}"]
        command = [*launch, "-m", "pretrain", "parity"]
    else:
        command = [
            sys.executable,
            "-m",
            "pretrain",
            "parity",
            "device=cpu",
            "processes=[1,2]",
            "tiles=1000",
            "batch=16",
        ]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return {
        "backend": "nccl" if gpus >= 2 else "gloo",
        "ranks": max(2, gpus),
        "holds": done.returncode == 0,
        "last": lines[-1] if lines else "",
    }


def dense(device: torch.device) -> dict[str, dict[str, float]]:
    """Train the smoke schedules of detector and segmenter from untrained weights on a small synthetic cohort."""
    import tempfile

    found = {}
    with tempfile.TemporaryDirectory() as folder:
        tile = ["tile", f"work={folder}", "recipe=smoke"]
        common = [f"work={folder}", f"records={folder}/records", "encoder=random", "floors=false", "trials=1"]
        commands = {
            "slides": ["pretrain", *tile],
            "detection": ["transfer", "detect", *common, f"device={device.type}"],
            "segmentation": ["transfer", "segment", *common, f"device={device.type}"],
        }
        for name, words in commands.items():
            start = time.perf_counter()
            done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, check=False)
            found[name] = {"status": done.returncode, "seconds": time.perf_counter() - start}
            if done.returncode:
                print(done.stdout[-2000:] + done.stderr[-2000:], file=sys.stderr)
    return found


def as_table(files: list[Path]) -> str:
    """Return the Markdown table over all measured hardware."""
    import json

    lines = [
        "Made by `make gpu-check`; one row a method and machine. A reduced row (CPU) shows that the script runs, and no speed.",
        "",
        "| hardware | method | tiles | batch | tiles/s | backbone alone | share | peak GiB | commit |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for path in files:
        kept = json.loads(path.read_text(encoding="utf-8"))
        settings = kept["settings"]
        where = kept["device"] + (" (reduced)" if kept["reduced"] else "")
        lines += [
            f"| {where} | {row['method']} | {settings['tiles']:,} | {settings['batch']} | {row['images_per_second']:.1f} | "
            f"{row['limit_per_second']:.1f} | {row['share']:.2f} | {row['peak_gib']:.2f} | {short_revision(kept['git_revision'])} |"
            for row in kept["rows"]
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
