"""Faster R-CNN as an engine of dense cells: Detectron2 trains it on top of an encoder's ResNet."""

import contextlib
import logging
import multiprocessing
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from results.errors import UserError
from transfer.dialects.detectron2 import require_head
from transfer.engines.base import check_gpus
from transfer.engines.detectron2 import compat
from transfer.engines.detectron2.schedules import PROPOSALS, read_schedule
from transfer.tasks.boxes import DetectionTask

if TYPE_CHECKING:
    from transfer.encoders.network import Backbone
    from transfer.engines.detectron2 import train

ENGINES = {"faster_rcnn_fpn": "fpn", "faster_rcnn_c4": "c4"}


class FasterRCNN:
    """Faster R-CNN (Ren et al., NeurIPS 2015) on a feature pyramid, or with res5 as the box head (C4).

    Args:
        name: a key of `ENGINES`.
        schedule: `smoke`, `short` or `full`.
        changes: keys of the schedule that take the place of its own.
        device: of torch, or `auto`.
        gpus: GPUs that train one detector; Detectron2's launcher starts a process for each.

    Raises:
        UserError: for an unknown engine or schedule, or GPUs that are not there.
    """

    kind = "detection"

    def __init__(
        self,
        name: str = "faster_rcnn_fpn",
        schedule: str = "smoke",
        changes: Mapping[str, Any] | None = None,
        device: str = "auto",
        gpus: int = 1,
    ) -> None:
        if name not in ENGINES:
            raise UserError(f"engine={name} is not known for detection: choose {', '.join(ENGINES)}.")
        compat.installed()
        self.name, self._heads, self._wanted, self._gpus = name, ENGINES[name], device, gpus
        self._named, self._schedule = schedule, read_schedule(schedule, changes)
        if gpus > 1:
            check_gpus(device, gpus)
        if self._schedule.batch % gpus:
            raise UserError(f"batch={self._schedule.batch} of schedule {schedule} does not divide among gpus={gpus}.")

    @property
    def _device(self) -> str:
        from transfer.encoders.network import choose_device

        return "cuda" if self._gpus > 1 else str(choose_device(self._wanted))

    def settings(self) -> dict[str, Any]:
        """All that changes a number: the resolved schedule, the detector's constants, the version of Detectron2."""
        from transfer.engines.detectron2 import model

        half = self._schedule.bfloat16 and self._device != "cpu"
        return {
            "schedule": self._named,
            **asdict(self._schedule),
            "bfloat16": half,
            "proposals": asdict(PROPOSALS[self._schedule.proposals]),
            "anchors_px": list(model.ANCHORS),
            "detections": model.DETECTIONS,
            "least_score": model.LEAST_SCORE,
            "gpus": self._gpus,
            "detectron2": compat.version(),
        }

    def check(self, backbone: "Backbone") -> None:
        """Raise a UserError for an encoder that this detector cannot hold."""
        if backbone.architecture not in ("resnet18", "resnet50"):
            raise UserError(
                f"{backbone.architecture} cannot become a detector, which takes resnet18 and resnet50 only: score this encoder with "
                "'python -m transfer classify' instead."
            )
        require_head(backbone.architecture, self._heads)

    def run(self, task: DetectionTask, backbone: "Backbone", seed: int, trial: int, folder: Path) -> pa.Table:
        """Train on the trial's train part, choose the score threshold on its validation part, predict its test part.

        Returns:
            Units of detection; metadata `score_threshold` and `match_px`.
        """
        from transfer.engines.detectron2 import train

        self.check(backbone)
        job = train.Job(task, backbone, self._heads, self._schedule, seed, trial, self._device, folder)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", module=r"torch\.(functional|jit)", category=Warning)  # of Detectron2
                compat.prepare()
                from detectron2.engine import launch

                launch(work, self._gpus, dist_url="auto", args=(job,))
        finally:
            for child in multiprocessing.active_children() if self._gpus > 1 else ():
                child.terminate()
        return pq.read_table(folder / train.UNITS)


def work(job: "train.Job") -> None:
    """Do the work of one rank; what goes wrong is raised, and Detectron2 does not print its trace as well."""
    from transfer.engines.detectron2 import train

    with _without_traces("detectron2.engine.train_loop"):
        train.work(job)


@contextlib.contextmanager
def _without_traces(name: str) -> Iterator[None]:
    """Drop what a logger says of exceptions, inside the block."""
    logger = logging.getLogger(name)
    logger.addFilter(_no_exception)
    try:
        yield
    finally:
        logger.removeFilter(_no_exception)


def _no_exception(record: logging.LogRecord) -> bool:
    return not record.exc_info
