"""`python -m transfer segment`: segmentation of tissue by encoders trained further, one record a cell."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from results.files import value_digest
from transfer.dense import DenseSettings, open_dense, run_cells
from transfer.engines.mmseg import MmsegEngine
from transfer.engines.mmseg.engine import units
from transfer.recording import say
from transfer.settings import read_settings
from transfer.tasks.segmentation import SegmentationTask

HELP = """python -m transfer segment key=value ...

Trains a segmenter (mmsegmentation) on BCSS tissue on top of each encoder; one record a cell (task x encoder x engine x trial).

  encoder=latest      as 'python -m transfer --help' says; ResNets only
  task=bcss           bcss, bcss_reference (the research code's grouping of codes) or a YAML file in the form of these
  task.root=null      folder of the BCSS download; null takes the newest synthetic cohort under work/cohorts
  engine=fcn          fcn (output stride 8) or upernet
  schedule=smoke      smoke (does it run), short (does it learn), full (for a GPU)
  options={}          changes of the schedule, such as options={iterations: 500, crop: 256}
  check=false         true looks at data and encoders, counts the cells that have no record yet, and trains nothing
  trials=3            every trial has its own seed; folders without the official test institutes are tested in turn
  seed=0
  floors=true         adds the untrained network and the majority class
  device=auto  gpus=1 GPUs that train one segmenter together
  work=work  records=results/records  imagenet=null  download=false  allow_partial=false  backbone=resnet18 (of random)

Exit status: 0 done, 2 mistake in input or settings, 3 a cell crashed and left a record, 143 stopped; finished cells stay.
"""


@dataclass
class Settings(DenseSettings):
    """The settings of `python -m transfer segment`; `engine` is a head: `fcn` or `upernet`."""

    engine: str = "fcn"


def load(arguments: Sequence[str]) -> Settings:
    """Resolve `key=value` arguments; a UserError names what is unknown or does not fit."""
    return read_settings(Settings, arguments)


def segment(settings: Settings) -> int:
    """Score every encoder on every trial whose record is not there yet, and the majority class beside them.

    Returns:
        0, or 3 when a cell crashed (its record says how) while the others went on.

    Raises:
        UserError: for a mistake in settings, data or encoder, before the first cell.
    """
    task, engine, opened = open_dense(
        settings,
        "segmentation",
        "bcss",
        lambda: MmsegEngine(settings.engine, settings.schedule, settings.device, settings.gpus, settings.options),
    )
    for remark in task.remarks:
        say(remark)
    return run_cells(task, engine, settings, opened, [MajorityClass()] if settings.floors else [])


class MajorityClass:
    """The floor without an encoder: everything is the class with the most px in the training regions."""

    name, kind, coverage, card, feature_dim = "majority class", "floor", None, None, 0
    digest = value_digest({"encoder": "majority_class", "version": 1})

    def units(self, task: SegmentationTask, trial: int) -> pa.Table:
        """Return the units of the trial's test regions."""
        split = task.splits[trial]
        tested = [task.regions[row] for row in split.test]
        return units(task, tested, majority(task, split.train, tested))


def majority(task: SegmentationTask, train: Sequence[int], tested: Sequence[Any]) -> list[np.ndarray]:
    """Return the confusion, int64 (C, C), of each tested region when all is the class with the most px in training."""
    most = int(np.sum([task.regions[row].pixels for row in train], axis=0).argmax())
    found = []
    for region in tested:
        counts = np.zeros((len(task.classes), len(task.classes)), np.int64)
        counts[:, most] = region.pixels
        found.append(counts)
    return found
