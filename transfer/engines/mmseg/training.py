"""Training a segmenter with mmengine's runner, which is kept quiet and off the network."""

import math
import uuid
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader

from results.files import replacing, write_json
from transfer.dialects.mmseg import to_mmseg
from transfer.engines.mmseg.crops import Crops
from transfer.engines.mmseg.library import (
    Hook,
    MMDistributedDataParallel,
    MMLogger,
    Runner,
    get_dist_info,
    pseudo_collate,
)
from transfer.engines.mmseg.segmenter import Job, Predictor, build, file_logger
from transfer.engines.mmseg.stitch import confusion, mean_iou, stitched
from transfer.recording import Progress

WEIGHTS = "weights.safetensors"


def quality(model: torch.nn.Module, job: Job) -> float | None:
    """Mean IoU over the validation regions taken together, at the task's um/px; None without any, or with nothing to choose."""
    classes, total = len(job.task.classes), 0
    if not job.split.validation or job.schedule.validate_every >= job.schedule.iterations:
        return None
    for row in job.split.validation:
        image, labels = job.task.resampled(job.task.regions[row])
        total = total + confusion(
            labels, stitched(Predictor(model), image, job.schedule.window, job.schedule.overlap), classes
        )
    return mean_iou(total)


class Keeper(Hook):
    """Checks the start, writes the losses down, and keeps the weights that are best on validation (the last ones without any)."""

    priority = "VERY_LOW"

    def __init__(self, job: Job) -> None:
        self._job, self._best, self._log, self._progress = job, -math.inf, [], Progress(job.schedule.iterations)

    def before_train(self, runner: Runner) -> None:
        """Make sure that nothing touched the encoder's weights since they were loaded."""
        state = _plain(runner.model).backbone.state_dict()
        for name, value in to_mmseg(self._job.backbone.state, self._job.backbone.architecture).items():
            if not torch.equal(state[name].cpu(), value):
                raise RuntimeError(f"{name} of the encoder was overwritten before training began")

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, torch.Tensor] | None = None
    ) -> None:
        """Note the loss; look at the validation regions where the schedule says so."""
        step, schedule, loss = runner.iter + 1, self._job.schedule, float(outputs["loss"].detach())
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} in iteration {step}")
        if runner.rank == 0:
            self._progress.step(step, loss)
        if step % schedule.validate_every and step != schedule.iterations:
            self._log.append({"iteration": step, "loss": round(loss, 5)})
            return
        if runner.rank == 0:
            self._look(_plain(runner.model), step, loss)
        if self._job.devices > 1:
            torch.distributed.barrier()

    def _look(self, model: torch.nn.Module, step: int, loss: float) -> None:
        model.eval()
        found = quality(model, self._job)
        model.train()
        self._log.append({"iteration": step, "loss": round(loss, 5), "validation_mean_iou": found})
        if found is None or found > self._best:
            self._best = -math.inf if found is None else found
            with replacing(self._job.folder / WEIGHTS) as temporary:
                save_file({name: value.contiguous() for name, value in model.state_dict().items()}, temporary)
            self._log[-1]["kept"] = True
        write_json(self._job.folder / "training.json", self._log)


class QuietRunner(Runner):
    """mmengine's training loop without its surroundings: no look at git, compilers or the network, no console, no pickled checkpoints.

    The model is given whole, so nothing is initialised again; the process's environment and start method stay as they are.
    """

    def __init__(self, job: Job, **settings: Any) -> None:
        self._job = job
        super().__init__(**settings)

    def setup_env(self, env_cfg: dict[str, Any]) -> None:
        self._rank, self._world_size = get_dist_info()
        self._timestamp = ""
        self._distributed = self._job.devices > 1

    def build_logger(self, log_level: int | str = "INFO", log_file: str | None = None, **settings: Any) -> MMLogger:
        return file_logger(self._job, "training")

    def build_visualizer(self, visualizer: Any = None) -> SimpleNamespace:
        return SimpleNamespace()  # the library's own one searches for fonts with a command

    def wrap_model(self, model_wrapper_cfg: Any, model: torch.nn.Module) -> torch.nn.Module:
        model = model.to(self._job.device)
        if self._job.devices == 1:
            return model
        cards = [torch.device(self._job.device).index] if self._job.device.startswith("cuda") else None
        return MMDistributedDataParallel(model, device_ids=cards, broadcast_buffers=False)

    def _init_model_weights(self) -> None:
        """The weights are there already."""

    def _log_env(self, env_cfg: dict[str, Any]) -> None:
        """The record names versions and hardware."""

    def dump_config(self) -> None:
        """The record names the settings."""


def train(job: Job, rank: int = 0) -> None:
    """Train; leaves `weights.safetensors`, `training.json` and mmengine's log in the job's folder."""
    schedule = job.schedule
    crops = Crops(job.task, job.split.train, schedule, job.seed)
    order = [n for n in range(len(crops)) if n % schedule.batch % job.devices == rank]
    loader = DataLoader(
        crops, schedule.batch // job.devices, sampler=order, num_workers=schedule.workers, collate_fn=pseudo_collate
    )
    optimiser = {
        "type": "SGD",
        "lr": schedule.learning_rate,
        "momentum": schedule.momentum,
        "weight_decay": schedule.weight_decay,
    }
    rates = [{"type": "PolyLR", "eta_min": schedule.learning_rate / 100, "power": 0.9, "begin": schedule.warmup, "end": schedule.iterations, "by_epoch": False}]  # fmt: skip
    if schedule.warmup:
        rates.insert(
            0, {"type": "LinearLR", "start_factor": 0.1, "begin": 0, "end": schedule.warmup, "by_epoch": False}
        )
    runner = QuietRunner(
        job,
        model=build(job),
        work_dir=str(job.folder),
        train_dataloader=loader,
        train_cfg={
            "type": "IterBasedTrainLoop",
            "max_iters": schedule.iterations,
            "val_interval": schedule.iterations + 1,
        },
        optim_wrapper={"type": "OptimWrapper", "optimizer": optimiser},
        param_scheduler=rates,
        default_hooks=dict.fromkeys(("runtime_info", "timer", "sampler_seed", "logger", "checkpoint")),
        custom_hooks=[Keeper(job)],
        default_scope="mmseg",
        randomness={"seed": job.seed + rank},
        experiment_name=f"segmentation-{uuid.uuid4().hex}",
    )
    runner.train()


def trained(job: Job) -> torch.nn.Module:
    """Return the kept segmenter of a finished training, on the job's device and in inference mode."""
    model = build(job)
    model.load_state_dict(load_file(job.folder / WEIGHTS), strict=True)
    return model.to(job.device).eval()


def _plain(model: torch.nn.Module) -> torch.nn.Module:
    return model.module if hasattr(model, "module") else model
