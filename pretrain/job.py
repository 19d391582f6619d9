"""The main job: tile -> train -> export, each step skipped when its result is there."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from pretrain import distributed, ranks
from pretrain.config import load
from pretrain.runs import Run, find_run, list_runs, open_run
from pretrain.stores import existing_store, make_store, with_manifest, with_store, without_coordinates
from pretrain.tiles import TileStore
from results.errors import UserError, printable
from results.settings import split_overrides

STEPS = ("tile", "train", "export")
SOME_FAILED = 3


def run(arguments: list[str]) -> int:
    """Run the steps the command line asks for and return the exit status.

    Raises:
        UserError: for every mistake of input or settings.
    """
    step = arguments[0] if arguments and arguments[0] in (*STEPS, "audit", "parity", "quality") else None
    settings = arguments[1:] if step else arguments
    if step == "parity":
        from pretrain import parity

        return parity.run(settings)
    if distributed.under_torchrun() and step != "train":
        raise UserError(
            "under torchrun only the train step can run: `torchrun ... -m pretrain train ...`, after `python -m pretrain tile ...`."
        )
    if step == "quality":
        from pretrain.quality.command import command

        return command(settings)
    if step == "audit":
        from pretrain.audit import report

        return report.command(settings)
    given = split_overrides(settings)
    config = with_store(with_manifest(load(settings), given), given)
    if config.store and step == "tile":
        raise UserError(f"store={config.store} is finished tiles: there is nothing to tile, use train or no step.")
    if distributed.under_torchrun():
        return train_here(config)
    if step in (None, "train"):
        distributed.pick_device(config.device)  # before hours of tiling
    if step == "train":
        store = existing_store(config)
        return train(without_coordinates(config, store), store, settings)
    if step == "export":
        if config.run:
            return export(named_run(config), config)
        store = existing_store(config)
        return export(find_run(without_coordinates(config, store, tell=False), store), config)
    store = make_store(config)
    status = SOME_FAILED if store.failed else 0
    print(printable(made(store, config), sys.stdout), flush=True)
    if step == "tile":
        return status
    config = without_coordinates(config, store)
    status = train(config, store, settings) or status
    if status not in (0, SOME_FAILED):
        return status
    status = export(find_run(config, store, count_processes(config)), config) or status
    if store.failed:
        names = ", ".join(name for name, _ in store.failed[:10]) + (", ..." if len(store.failed) > 10 else "")
        print(
            f"{len(store.failed)} slide(s) failed and were left out: {names}; exit status {SOME_FAILED}.",
            file=sys.stderr,
        )
    return status


def made(store: TileStore, config: DictConfig) -> str:
    """Say where the tiles lie, and how many; `store=` names its own place."""
    place = config.store or Path(config.work) / "tiles" / store.root.name
    failed = f", {len(store.failed)} slide(s) failed" if store.failed else ""
    return f"tile: {place}, {len(store):,} tiles of {len(store.slide_names):,} slides{failed}"


def train(config: DictConfig, store: TileStore, settings: list[str]) -> int:
    """Train in this process, or in one process per GPU (or `train.processes`) under torchrun."""
    from pretrain import loop

    count = count_processes(config)
    found = find_run(config, store, count)
    if found is not None and found.finished:
        print(f"train: {found.root} is trained already")
        return 0
    loop.count_steps(config, store, count)
    if count == 1:
        return train_here(config)
    run = open_run(config, store, count)
    settings = [s for s in settings if not s.startswith("run=")] + [f"run={run.root.name}"]
    return launch(ranks.command(count, ["train", *settings]))


def count_processes(config: DictConfig) -> int:
    """Return how many processes train: `train.processes`, else one a GPU, else one."""
    import torch

    if config.train.processes is not None:
        return config.train.processes
    return max(1, torch.cuda.device_count()) if distributed.pick_device(config.device).type == "cuda" else 1


def launch(command: list[str]) -> int:
    """Start a command, hand SIGTERM and SIGINT on to it, and return an exit status of ours."""
    environment = {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // 2))} | os.environ
    child = subprocess.Popen(command, env=environment)
    stopped = []

    def forward(number: int, _: Any) -> None:
        stopped.append(number)
        child.send_signal(signal.SIGTERM)

    old = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        status = child.wait()
    finally:
        for number, previous in old.items():
            signal.signal(number, previous)
    if stopped:
        return 128 + stopped[0]
    return status if status in (0, 2) else 1


def train_here(config: DictConfig) -> int:
    """Train as this process: alone, or as one rank of torchrun's group; of these the first one speaks."""
    from pretrain import loop

    try:
        with distributed.joined(config.device) as world:
            return _train_as(world, config)
    except loop.Stopped as stop:
        if os.environ.get("RANK", "0") == "0":
            print("stopped: a checkpoint is saved; the same command goes on from here.", file=sys.stderr)
        return 128 + stop.number


def _train_as(world: distributed.World, config: DictConfig) -> int:
    from pretrain import loop

    store = existing_store(config)
    config = without_coordinates(config, store, tell=world.rank == 0 and distributed.under_torchrun())
    name = None
    if world.rank == 0:
        try:
            name = open_run(config, store, world.size).root.name
        except UserError as error:
            name = error
    name = world.share(name)
    if isinstance(name, UserError):
        raise name
    run = Run(Path(config.work) / "runs" / name)
    if run.finished:
        if world.rank == 0:
            print(f"train: {run.root} is trained already")
        return 0
    with run.lock() if world.rank == 0 else contextlib.nullcontext():
        loop.train(config, store, run, world)
    return 0


def named_run(config: DictConfig) -> Run:
    """The run that `run=` names, whatever its settings."""
    root = Path(config.work) / "runs" / config.run
    if not (root / "run.json").exists():
        known = ", ".join(r.name for r in list_runs(Path(config.work))[-3:]) or "none"
        raise UserError(f"run={config.run} is not under {config.work}/runs (newest there: {known}).")
    return Run(root)


def export(found: Run | None, config: DictConfig) -> int:
    """Export a run, finished or not."""
    from pretrain.export import export as write

    if found is None:
        raise UserError(f"no run of these settings under {config.work}/runs: train it first, or name one with run=.")
    print(f"export: {write(found)}")
    return 0
