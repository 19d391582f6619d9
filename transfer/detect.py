"""`python -m transfer detect`: fine-tune a detector on top of each encoder, one record a cell."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transfer.dense import DenseSettings, open_dense, run_cells
from transfer.engines.detectron2.engine import FasterRCNN
from transfer.recording import say
from transfer.settings import read_settings

HELP = """python -m transfer detect key=value ...

Fine-tunes Faster R-CNN (Detectron2) on NuCLS nuclei on top of each encoder; one record a cell (task x encoder x engine x trial).

  encoder=latest      as 'python -m transfer --help' says; ResNets only
  task=nucls          or a YAML file in the form of transfer/tasks/nucls.yaml
  task.root=null      folder of the NuCLS download; null takes the newest synthetic cohort under work/cohorts
  task.classes=null   super (4 classes), main (7) or one; null takes the task's own, super
  engine=faster_rcnn_fpn  or faster_rcnn_c4 (resnet50 only)
  schedule=smoke      smoke (does it run), short (does it learn), full (for a GPU)
  options=null        changes of the schedule, such as options={iterations: 500, scale: 2.0}
  check=false         true looks at data and encoders, counts the cells that have no record yet, and trains nothing
  trials=3            trial t tests on fold t, with its own seed
  seed=0
  floors=true         adds the untrained network
  device=auto  gpus=1 GPUs that train one detector together
  work=work  records=results/records  imagenet=null  download=false  allow_partial=false  backbone=resnet18 (of random)

Exit status: 0 done, 2 mistake in input or settings, 3 a cell crashed and left a record, 143 stopped; finished cells stay.
"""


@dataclass
class DetectSettings(DenseSettings):
    """The settings of `python -m transfer detect`; its help text says what they mean."""

    engine: str = "faster_rcnn_fpn"
    options: Any = None
    classes: str | None = None


def load(arguments: Sequence[str]) -> DetectSettings:
    """Resolve `key=value` arguments; a UserError names what is unknown or does not fit."""
    plain = [
        argument.removeprefix("task.") if argument.startswith("task.classes=") else argument for argument in arguments
    ]
    return read_settings(DetectSettings, plain)


def detect(settings: DetectSettings) -> int:
    """Account for the data, then run every cell whose record is not there; returns the exit status."""
    task, engine, opened = open_dense(
        settings,
        "detection",
        "nucls",
        lambda: FasterRCNN(settings.engine, settings.schedule, settings.options, settings.device, settings.gpus),
        {"classes": settings.classes},
    )
    for line in task.report:
        say(line)
    return run_cells(task, engine, settings, opened)
