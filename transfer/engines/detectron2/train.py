"""Train one detector and predict with it, in one process or in one of several ranks."""

import contextlib
import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from results.files import replacing, write_json
from transfer.encoders.network import Backbone
from transfer.engines.detectron2 import compat, model
from transfer.engines.detectron2.data import Samples, TestBatches, training_batches
from transfer.engines.detectron2.schedules import Schedule
from transfer.engines.detectron2.sheet import draw_sheet
from transfer.engines.detectron2.threshold import choose_threshold
from transfer.recording import Progress, say
from transfer.tasks.boxes import BoxedImage, DetectionTask, to_coco, units_table

UNITS = "units.parquet"
READERS = 4
"""Processes that read images beside each GPU."""
SHOWN = 4
"""Test images on the sheet of drawings."""


@dataclass(frozen=True)
class Job:
    """All that one rank needs to know; it is sent to spawned processes."""

    task: DetectionTask
    backbone: Backbone
    heads: str
    schedule: Schedule
    seed: int
    trial: int
    device: str
    folder: Path


def work(job: Job) -> None:
    """Train; the first rank then predicts, and leaves units, COCO files, Detectron2's own scores and drawings in the folder."""
    compat.prepare()
    from detectron2.utils import comm

    detector = train(job)
    if comm.is_main_process():
        predict(job, detector)
    comm.synchronize()


def train(job: Job) -> torch.nn.Module:
    """Train a detector on the train part of the job's trial and return it; training losses go to `training.jsonl`."""
    from detectron2.engine import SimpleTrainer, hooks
    from detectron2.engine.defaults import create_ddp_model
    from detectron2.solver import build_lr_scheduler, build_optimizer
    from detectron2.utils import comm
    from detectron2.utils.events import JSONWriter

    rank, world, schedule = comm.get_rank(), comm.get_world_size(), job.schedule
    on_gpu = job.device.startswith("cuda")
    norm = "BN" if world == 1 else "SyncBN" if on_gpu else "naiveSyncBN"
    backbone, classes = job.backbone, len(job.task.classes)
    cfg = model.configure(
        job.heads, backbone.architecture, classes, schedule, backbone.mean, backbone.std, job.device, norm
    )
    _seed(job, "layers", 0)
    detector = model.build(cfg, job.heads, backbone)
    _seed(job, "training", rank)
    whole = _Bfloat16(detector, torch.device(job.device).type) if schedule.bfloat16 and on_gpu else detector
    if world > 1:
        whole = create_ddp_model(whole, broadcast_buffers=False, device_ids=[comm.get_local_rank()] if on_gpu else None)
    optimiser = build_optimizer(cfg, whole)
    samples, last = _batches(job, rank, world, READERS if on_gpu else 0)
    trainer = SimpleTrainer(whole, samples, optimiser)
    used = [hooks.LRScheduler(optimiser, build_lr_scheduler(cfg, optimiser))]
    if schedule.precise_bn:
        used.append(hooks.PreciseBN(0, whole, last, schedule.precise_bn))
    if rank == 0:
        used.append(hooks.PeriodicWriter([JSONWriter(str(job.folder / "training.jsonl"))], period=20))
        used.append(_said(Progress(schedule.iterations)))
    trainer.register_hooks(used)
    trainer.train(0, schedule.iterations)
    return detector


def _said(progress: Progress) -> Any:
    """Return a hook that says how far the training is."""
    from detectron2.engine import HookBase

    class Said(HookBase):
        def after_step(self) -> None:
            loss, _ = self.trainer.storage.latest()["total_loss"]
            progress.step(self.trainer.iter + 1, loss)

    return Said()


def _batches(job: Job, rank: int, world: int, workers: int) -> tuple[Any, Any]:
    """Return the batches to learn from, and further ones to set the batch-norm statistics by."""
    schedule, images = job.schedule, job.task.part(job.trial, "train")
    loaders = []
    for purpose, steps in enumerate((schedule.iterations, schedule.precise_bn)):
        samples = Samples(images, schedule, (job.seed, job.trial, purpose), steps * schedule.batch)
        loaders.append(training_batches(samples, schedule.batch, rank, world, workers) if steps else [])
    return loaders[0], loaders[1]


class _Bfloat16(torch.nn.Module):
    """Runs the forward pass under autocast; bfloat16 has float32's range, so losses need no scaling."""

    def __init__(self, inner: torch.nn.Module, device: str) -> None:
        super().__init__()
        self.inner, self._device = inner, device

    def forward(self, batch: list[dict[str, Any]]) -> Any:
        with torch.autocast(self._device, torch.bfloat16):
            return self.inner(batch)


def predict(job: Job, detector: torch.nn.Module) -> None:
    """Predict validation and test part, choose the score threshold on the first, and write the units of the second.

    The units are the numbers of record; Detectron2's own evaluation of the same boxes is kept beside them for comparison.
    """
    task, test = job.task, job.task.part(job.trial, "test")
    held = task.part(job.trial, "validation")
    say(f"  predicting {len(held)} validation and {len(test)} test images")
    found, _ = infer(job, detector, held, "validation")
    threshold = choose_threshold(units_table(held, found, task.classes), task.match_px)
    found, scores = infer(job, detector, test, "test")
    write_json(job.folder / "detectron2.json", scores)
    units = units_table(test, found, task.classes)
    stated = {"score_threshold": repr(threshold), "match_px": repr(task.match_px)}
    with replacing(job.folder / UNITS) as temporary:
        pq.write_table(units.replace_schema_metadata(stated), temporary)
    draw_sheet(test[:SHOWN], found, task.classes, threshold, job.folder / "test.png")


def infer(
    job: Job, detector: torch.nn.Module, images: Sequence[BoxedImage], part: str
) -> tuple[dict[str, np.ndarray], dict[str, float | None]]:
    """Run Detectron2's inference and evaluation.

    Returns:
        Found boxes by image name, float32 (m, 6): x0, y0, x1, y1, score, class; and Detectron2's own scores in percent.
    """
    from detectron2.data import MetadataCatalog
    from detectron2.evaluation import COCOEvaluator, DatasetEvaluators, inference_on_dataset

    path = job.folder / f"{part}.coco.json"
    path.write_text(json.dumps(to_coco(images, job.task.classes)), encoding="utf-8")
    name = f"{job.folder} {part}"
    ids = {number: number - 1 for number in range(1, len(job.task.classes) + 1)}
    collector = _collector()
    try:
        MetadataCatalog.get(name).set(
            json_file=str(path), thing_dataset_id_to_contiguous_id=ids, thing_classes=list(job.task.classes)
        )
        with open(job.folder / f"{part}.log", "w", encoding="utf-8") as log, contextlib.redirect_stdout(log):
            official = COCOEvaluator(name, ("bbox",), False, max_dets_per_image=model.DETECTIONS, use_fast_impl=False)
            results = inference_on_dataset(
                detector, TestBatches(images, job.schedule.scale), DatasetEvaluators([collector, official])
            )
    finally:
        MetadataCatalog.pop(name, None)
    scores = {key: None if np.isnan(value) else float(value) for key, value in (results or {}).get("bbox", {}).items()}
    return collector.found, scores


def _collector() -> Any:
    from detectron2.evaluation import DatasetEvaluator

    class Collector(DatasetEvaluator):
        """Keeps the boxes that were found in every image."""

        def reset(self) -> None:
            self.found: dict[str, np.ndarray] = {}

        def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
            for given, answer in zip(inputs, outputs, strict=True):
                boxes = answer["instances"].to("cpu")
                columns = (boxes.pred_boxes.tensor, boxes.scores[:, None], boxes.pred_classes[:, None].float())
                self.found[given["file_name"]] = torch.cat(columns, dim=1).numpy()

        def evaluate(self) -> None:
            return None

    return Collector()


def _seed(job: Job, purpose: str, rank: int) -> None:
    mixed = hashlib.sha256(f"detection {purpose} {job.seed} {job.trial} {rank}".encode()).digest()
    number = int.from_bytes(mixed[:4], "little")
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)
