"""The segmentation engine: trains a segmenter on an encoder and returns what it saw in the test regions."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from PIL import Image

from results.errors import UserError
from results.files import replacing
from transfer.engines.base import check_gpus
from transfer.engines.mmseg.drawing import draw
from transfer.engines.mmseg.heads import DEPTHS, HEADS
from transfer.engines.mmseg.schedule import read_schedule
from transfer.recording import say
from transfer.tasks.segmentation import Region, SegmentationTask

if TYPE_CHECKING:
    from transfer.encoders.network import Backbone
    from transfer.engines.mmseg.segmenter import Job


class MmsegEngine:
    """A head of mmsegmentation on a ResNet, all layers trained; batch norm is synchronised where several GPUs train together.

    Of a training the weights that are best on the validation regions (mean IoU, taken together) are kept, the earlier among
    equals, and the last ones where there is nothing to validate on. The test regions are predicted once, by these.
    """

    kind = "segmentation"

    def __init__(
        self, name: str, schedule: str, device: str = "auto", gpus: int = 1, changes: Mapping[str, Any] | None = None
    ) -> None:
        if name not in HEADS:
            raise UserError(f"engine={name} is not known for segmentation: choose {', '.join(HEADS)}.")
        self.name, self._named, self._device, self._gpus = name, schedule, device, gpus
        self._schedule = read_schedule(schedule, changes)
        if gpus > 1:
            check_gpus(device, gpus)
        if self._schedule.batch % gpus:
            raise UserError(
                f"gpus={gpus} does not divide the batch of {self._schedule.batch} crops: take a divisor of it."
            )

    def settings(self) -> dict[str, Any]:
        return {
            "schedule": self._named,
            **self._schedule.settings(),
            "optimiser": "SGD",
            "chosen_by": "mean IoU on validation",
            "trained_layers": "all",
            "library": "mmsegmentation",
        }

    def check(self, backbone: "Backbone") -> None:
        if backbone.architecture not in DEPTHS:
            raise UserError(
                f"a {backbone.architecture} cannot be used for segmentation, which takes {' or '.join(DEPTHS)}: "
                "score it with 'python -m transfer classify' instead, or pretrain a ResNet."
            )

    def run(self, task: SegmentationTask, backbone: "Backbone", seed: int, trial: int, folder: Path) -> pa.Table:
        """Train on one trial's split and return the units of its test regions.

        `folder` holds afterwards: the kept weights, the losses (`training.json`), the library's log, `predictions/` (a palette
        PNG of classes for each test region, at the mask's own resolution) and `drawing.png`.
        """
        from transfer.engines.mmseg import training

        job = self._job(task, backbone, seed, trial, folder)
        if job.devices == 1:
            training.train(job)
        else:
            from transfer.engines.mmseg.launch import launch

            launch(job)
        model = training.trained(job)
        say(f"  predicting {len(job.split.test)} test regions")
        found = [self._test(task.regions[row], model, job) for row in job.split.test]
        draw(task, [task.regions[row] for row in job.split.test], folder)
        return units(task, [task.regions[row] for row in job.split.test], found)

    def _job(self, task: SegmentationTask, backbone: "Backbone", seed: int, trial: int, folder: Path) -> "Job":
        from transfer.encoders.network import choose_device
        from transfer.engines.mmseg import segmenter

        device, schedule = str(choose_device(self._device)), self._schedule
        if device == "cpu":
            schedule = replace(schedule, workers=0)
        split, mixed = task.splits[trial], segmenter.cell_seed(seed, trial)
        return segmenter.Job(task, split, backbone, self.name, schedule, mixed, device, folder.absolute(), self._gpus)

    def _test(self, region: Region, model: Any, job: "Job") -> np.ndarray:
        """Predict one region, write it down and return its confusion, int64 (C, C)."""
        from transfer.engines.mmseg import segmenter, stitch

        image, _ = job.task.resampled(region)
        seen = stitch.stitched(segmenter.Predictor(model), image, job.schedule.window, job.schedule.overlap)
        predicted = stitch.enlarged(seen, region.height, region.width)
        picture = Image.fromarray(predicted, "P")
        picture.putpalette([value for colour in job.task.colours for value in colour])
        with replacing(job.folder / "predictions" / f"{region.name}.png") as temporary:
            picture.save(temporary)
        return stitch.confusion(job.task.truth(region), predicted, len(job.task.classes))


def units(task: SegmentationTask, regions: list[Region], found: list[np.ndarray]) -> pa.Table:
    """Lay confusions out as a record's units: one row a region, `pixels_<class>` lists what its px were predicted as."""
    columns: dict[str, Any] = {"unit": [r.name for r in regions], "cluster": [r.slide for r in regions]}
    for index, name in enumerate(task.classes):
        rows = [counts[index].tolist() for counts in found]
        columns[f"pixels_{name}"] = pa.array(rows, pa.list_(pa.int64()))
    return pa.table(columns)
