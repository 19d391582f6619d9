"""The training loop: batches in, optimiser steps and checkpoints out. It knows no method by name."""

import contextlib
import math
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

from pretrain import checkpoint, methods
from pretrain.audit import epoch_numbers
from pretrain.checkpoint import Progress
from pretrain.config import method_options, view_settings
from pretrain.distributed import World
from pretrain.methods.base import Facts, Method, Step
from pretrain.monitor import knn_accuracy, monitor_tiles
from pretrain.randomness import generator, key
from pretrain.runs import Run, append_line, truncate_metrics
from pretrain.views import make_views
from results.errors import UserError

COLLAPSED = 0.1
STOP, SAVE = 2, 1


class Stopped(Exception):
    """Training ended early on a signal, after a checkpoint. `number` is the signal's, SIGTERM where another rank had it."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number or int(signal.SIGTERM)


class Batches(Dataset):
    """Batch number -> (uint8 tiles (B, T, T, 3), ids (B,)) of one rank in one epoch; the last incomplete batch is dropped."""

    def __init__(self, store: Any, batch_size: int, world: World, seed: int, epoch: int, first: int):
        self.store, self.batch_size, self.world, self.first = store, batch_size, world, first
        self.order = torch.randperm(len(store), generator=generator(seed, epoch, "order")).numpy()
        self.total = len(store) // (batch_size * world.size)

    def __len__(self) -> int:
        return self.total - self.first

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        start = ((self.first + index) * self.world.size + self.world.rank) * self.batch_size
        ids = self.order[start : start + self.batch_size]
        return torch.from_numpy(np.stack([self.store.read(int(i)) for i in ids])), torch.from_numpy(ids)


def train(config: DictConfig, store: Any, run: Run, world: World) -> Progress:
    """Train, or go on training, the run until its epochs are done.

    Raises:
        Stopped: on SIGTERM or SIGINT, after a checkpoint was written.
        UserError: when the loss is no longer finite.
    """
    settings, device = config.train, world.device
    steps_per_epoch = count_steps(config, store, world.size)
    if settings.deterministic:
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid: a tenth of a step on a CPU
        torch.backends.cudnn.benchmark = False
    method = build(config, store, world)
    optimiser = make_optimiser(method, settings)
    steps = steps_per_epoch * settings.epochs
    progress = Progress()
    folder = run.root / "checkpoints"
    found = checkpoint.load(folder)
    if found is not None:
        progress = checkpoint.restore(found, method, optimiser, world.rank)
        checkpoint.load_banks(folder, progress.step, method.banks, world)
    model = method
    if world.size > 1:
        model = DistributedDataParallel(method, [device] if device.type == "cuda" else None, broadcast_buffers=False)
    log = Log(config, run, world, method, progress, steps_per_epoch)

    def save() -> None:
        checkpoint.save_banks(folder, progress.step, method.banks, world)
        buffers = world.gather_objects({name: value.cpu() for name, value in buffers_of(method).items()})
        if world.rank == 0:
            progress.device_seconds = log.device_seconds()
            checkpoint.save(folder, progress, method, optimiser, buffers)

    autocast = torch.autocast(device.type, torch.bfloat16, enabled=use_bf16(settings.amp, device))
    saved_at = time.monotonic()
    with stop_signals() as stop:
        for epoch in range(progress.epoch, settings.epochs):
            if progress.batch == 0:
                method.start_epoch(epoch)
            batches = Batches(store, settings.batch_size, world, config.seed, epoch, progress.batch)
            for tiles, ids in log.timed(load(batches, settings, device)):
                schedule(optimiser, settings, progress.step, steps_per_epoch)
                views = make_views(
                    tiles.to(device, non_blocking=True),
                    ids.numpy(),
                    method.views,
                    method.view_settings,
                    config.seed,
                    epoch,
                )
                views = {name: view.contiguous(memory_format=torch.channels_last) for name, view in views.items()}
                with autocast:
                    result = model.train()(views, ids.to(device), epoch, progress.step)
                loss = advance(method, optimiser, result, epoch, progress.step, steps, settings.clip)
                progress.step += 1
                progress.batch += 1
                progress.tiles_seen += settings.batch_size * world.size
                log.step(result, loss, optimiser.param_groups[0]["lr"])
                last = progress.batch == steps_per_epoch
                counted = settings.checkpoint_steps is not None and progress.step % settings.checkpoint_steps == 0
                late = time.monotonic() - saved_at > 60 * settings.checkpoint_minutes
                ask = world.size == 1 or device.type == "cpu" or progress.step % 10 == 0
                wish = world.max(STOP if stop.number else SAVE if late else 0) if ask else 0
                if last:
                    progress.epoch, progress.batch = epoch + 1, 0
                    log.epoch_end(store)
                if last or wish or counted:
                    require_finite(loss, progress, settings.lr)
                    save()
                    saved_at = time.monotonic()
                if wish == STOP and progress.epoch < settings.epochs:
                    log.close()
                    raise Stopped(stop.number)
    log.close()
    if world.rank == 0:
        run.update(state="trained", resolved=method.resolved(), label=method.label, **vars(progress))
    return progress


def advance(
    method: Method,
    optimiser: torch.optim.Optimizer,
    result: Step,
    epoch: int,
    step: int,
    steps: int,
    clip: float | None,
) -> Tensor:
    """Learn from one batch: gradient, clipping, optimiser, the method's hooks, memory; return the scalar loss."""
    loss = result.total()
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    method.before_step(epoch)
    if clip is not None:
        torch.nn.utils.clip_grad_norm_(method.parameters(), clip)
    optimiser.step()
    method.after_step(step, steps)
    method.remember(result)
    return loss


def buffers_of(method: Method) -> dict[str, Tensor]:
    """What a checkpoint keeps besides parameters and memory: batch norm statistics and a method's own, by name."""
    parameters = dict(method.named_parameters())
    return {name: value for name, value in method.state_dict().items() if name not in parameters}


def make_optimiser(method: Method, settings: Any) -> torch.optim.Optimizer:
    """SGD on all parameters alike, or LARS or AdamW that spare biases and norms weight decay (and LARS its adaptation).

    The published SGD recipes decay every parameter (sgcl-method.md 2.11); SimCLR, BYOL and DINO decay no vector.
    """
    trained = [p for p in method.parameters() if p.requires_grad]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(trained, lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay)
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr)
    from lightly.utils.lars import LARS

    return LARS(groups, lr=settings.lr, momentum=settings.momentum)


def count_steps(config: DictConfig, store: Any, processes: int) -> int:
    """Steps in an epoch; a UserError when the cohort is smaller than one batch."""
    batch = config.train.batch_size
    if len(store) < batch * processes:
        raise UserError(
            f"{len(store)} tiles are fewer than one batch of {batch} on {processes} process(es): set train.batch_size lower."
        )
    return len(store) // (batch * processes)


def build(config: DictConfig, store: Any, world: World) -> Method:
    """Make the method with seeded weights on its device."""
    torch.manual_seed(key(config.seed, "init") >> 1)
    facts = Facts(
        torch.from_numpy(np.asarray(store.slide_codes, np.int64)).to(world.device),
        torch.from_numpy(store.index["grid_x"].astype(np.int64)).to(world.device),
        torch.from_numpy(store.index["grid_y"].astype(np.int64)).to(world.device),
        config.seed,
        world,
    )
    method = methods.find(config.method)(method_options(config), facts, config.backbone, view_settings(config))
    if method.sync_batch_norm and world.size > 1 and world.device.type == "cuda":
        method = torch.nn.SyncBatchNorm.convert_sync_batchnorm(method)
    return method.to(world.device, memory_format=torch.channels_last)


def load(batches: Batches, settings: Any, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Iterate over batches, read by background processes where a GPU would wait for them."""
    loaders = settings.loaders if settings.loaders is not None else (8 if device.type == "cuda" else 0)
    return DataLoader(
        batches,
        batch_size=None,
        num_workers=loaders,
        pin_memory=device.type == "cuda",
        prefetch_factor=2 if loaders else None,
    )


def schedule(optimiser: torch.optim.Optimizer, settings: Any, step: int, steps_per_epoch: int) -> None:
    """Set the learning rate of a 0-based step and, with `weight_decay_end`, the weight decay of the groups that have one."""
    share = step / max(1, settings.epochs * steps_per_epoch)
    for group in optimiser.param_groups:
        group["lr"] = learning_rate(settings, step, steps_per_epoch)
        if settings.weight_decay_end is not None and group["weight_decay"] > 0:
            start, end = settings.weight_decay, settings.weight_decay_end
            group["weight_decay"] = end - (end - start) * 0.5 * (1 + math.cos(math.pi * share))


def learning_rate(settings: Any, step: int, steps_per_epoch: int) -> float:
    """Linear warm-up, then half a cosine to 0, per step."""
    warmup, total = settings.warmup_epochs * steps_per_epoch, settings.epochs * steps_per_epoch
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    return settings.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def use_bf16(amp: str, device: torch.device) -> bool:
    """`auto` means bf16 on a CUDA device that has it, fp32 elsewhere."""
    return amp == "bf16" or (amp == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported())


def spread_of(embedding: Tensor) -> float:
    """How far (B, D) unit features lie apart: 1 for even directions, 0 when all are alike."""
    return float(embedding.detach().float().std(0).mean()) * math.sqrt(embedding.shape[1])


def require_finite(loss: Tensor, progress: Progress, lr: float) -> None:
    """Refuse to save a broken state: the last good checkpoint stays."""
    if not bool(torch.isfinite(loss)):
        raise UserError(
            f"the loss is no longer finite at step {progress.step}: lower train.lr ({lr:g}) and run again; the last checkpoint is sound."
        )


class _Asked:
    number = 0


@contextlib.contextmanager
def stop_signals() -> Iterator[_Asked]:
    """Note SIGTERM and SIGINT by their number instead of dying; the old handlers come back afterwards."""
    stop = _Asked()

    def handler(number: int, _: Any) -> None:
        stop.number = number

    old = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, previous in old.items():
            signal.signal(number, previous)


class Log:
    """What rank 0 says while training: a line, metrics.jsonl, TensorBoard events, warnings."""

    def __init__(
        self, config: DictConfig, run: Run, world: World, method: Method, progress: Progress, steps_per_epoch: int
    ):
        self.config, self.run, self.world, self.method, self.progress = config, run, world, method, progress
        self.steps_per_epoch = steps_per_epoch
        self.before, self.started = progress.device_seconds, time.monotonic()
        self.mark, self.waited, self.tiles = time.monotonic(), 0.0, 0
        self.knn_tiles: np.ndarray | None = None
        self.events = None
        if world.rank == 0:
            from torch.utils.tensorboard import SummaryWriter

            truncate_metrics(run.root / "metrics.jsonl", progress.step)
            self.events = SummaryWriter(str(run.root), purge_step=progress.step + 1)
            done = f", going on after step {progress.step}" if progress.step else ""
            print(
                f"train: {run.root} ({method.label}, {world.size} process(es) on {world.device.type}{done})", flush=True
            )

    def device_seconds(self) -> float:
        """Seconds of all processes together since the run began."""
        return self.before + (time.monotonic() - self.started) * self.world.size

    def timed(self, batches: Any) -> Iterator[tuple[Tensor, Tensor]]:
        """Pass batches on and count the time spent waiting for them."""
        iterator = iter(batches)
        while True:
            start = time.monotonic()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self.waited += time.monotonic() - start
            yield batch

    def step(self, result: Step, loss: Tensor, lr: float) -> None:
        """Log one step in `train.log_every`, and the last of an epoch."""
        progress = self.progress
        self.tiles += len(result.tile_ids) * self.world.size
        if self.world.rank or (progress.step % self.config.train.log_every and progress.batch != self.steps_per_epoch):
            return
        require_finite(loss, progress, self.config.train.lr)
        spread = spread_of(result.embedding)
        now = time.monotonic()
        rate, wait = self.tiles / (now - self.mark), self.waited / (now - self.mark)
        self.mark, self.waited, self.tiles = now, 0.0, 0
        losses = {name: value.item() for name, value in result.losses.items()}
        numbers = {name: float(value) for name, value in result.numbers.items()}
        self._write({"loss": loss.item(), **{f"loss_{n}": v for n, v in losses.items()}, **numbers, "spread": spread, "lr": lr},
                    {"tiles_per_second": rate, "data_wait": wait})  # fmt: skip
        terms = " ".join(f"{name} {value:.3f}" for name, value in losses.items())
        total = self.config.train.epochs
        print(
            f"epoch {(progress.step - 1) // self.steps_per_epoch + 1}/{total} step {progress.step}/{total * self.steps_per_epoch}"
            f" | {rate:.0f} tiles/s | wait {wait:.0%} | loss {loss.item():.4f} ({terms}) | lr {lr:.2e}",
            flush=True,
        )
        if spread < COLLAPSED:
            print(
                f"warning: features are nearly all alike (spread {spread:.3f}, 1 is even): the encoder collapses",
                file=sys.stderr,
            )

    def epoch_end(self, store: Any) -> None:
        """Log how pure the positive sets are, and run the kNN monitor every `train.knn_every` epochs and at the end.

        Every rank calls it: reading a bank that is dealt to the ranks needs them all. By default the monitor runs five times.
        """
        numbers = epoch_numbers(self.method, store, self.config.seed, self.progress.epoch - 1)
        if numbers and not self.world.rank:
            self._write(numbers, {})
        epochs = self.config.train.epochs
        every = self.config.train.knn_every or max(1, epochs // 5)
        if self.world.rank or (self.progress.epoch % every and self.progress.epoch != epochs):
            return
        if self.knn_tiles is None:
            self.knn_tiles = monitor_tiles(store)
        if self.knn_tiles is None:
            return
        accuracy = knn_accuracy(self.method.backbone, store, self.knn_tiles, self.config.views.size, self.world.device)
        self._write({"knn_balanced_accuracy": accuracy}, {})
        self.progress.numbers["knn_balanced_accuracy"] = accuracy
        print(
            f"epoch {self.progress.epoch}/{epochs} | monitor: kNN balanced accuracy {accuracy:.3f} (slides apart, training tiles)",
            flush=True,
        )

    def _write(self, numbers: dict[str, float], speeds: dict[str, float]) -> None:
        step = self.progress.step
        append_line(self.run.root / "metrics.jsonl", {"step": step, **numbers, **speeds})
        for name, value in (numbers | speeds).items():
            self.events.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush the events and keep the device time."""
        self.progress.device_seconds = self.device_seconds()
        if self.events is not None:
            self.events.close()
