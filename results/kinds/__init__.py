"""The kinds of task: what one scored unit is, how its columns are checked, and which numbers it gives. One file a kind."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from results.kinds import classification, detection, segmentation
from results.weights import Metric


@dataclass(frozen=True)
class Kind:
    """All that is special to one kind of task.

    Attributes:
        unit: what one row of the units is, singular; `units` is its plural.
        canonical: (units, where) -> the units in their fixed form, or a UserError.
        answers: canonical units -> the object whose `under(weight)` the metrics read.
        metrics: name -> metric; the first orders a table.
        per_class: classes -> name -> metric, one a class.
        per_class_prefix: of those names; empty when there are none.
        remarks: the trials' answers -> notes under a table.
    """

    unit: str
    units: str
    canonical: Callable[[pa.Table, str], pa.Table]
    answers: Callable[[pa.Table], Any]
    metrics: dict[str, Metric]
    per_class: Callable[[Sequence[str]], dict[str, Metric]]
    per_class_prefix: str
    remarks: Callable[[Sequence[Any]], list[str]]

    def all_metrics(self, classes: Sequence[str]) -> dict[str, Metric]:
        """Return every metric of a task with these classes, those of single classes last."""
        return {**self.metrics, **self.per_class(classes)}


KINDS = {
    "classification": Kind(
        "tile",
        "tiles",
        classification.canonical,
        classification.Predictions.of,
        classification.METRICS,
        lambda classes: {},
        "",
        classification.remarks,
    ),
    "segmentation": Kind(
        "region",
        "regions",
        segmentation.canonical,
        segmentation.Pixels.of,
        segmentation.METRICS,
        segmentation.per_class,
        segmentation.PER_CLASS,
        segmentation.remarks,
    ),
    "detection": Kind(
        "image",
        "images",
        detection.canonical,
        detection.Boxes.of,
        detection.METRICS,
        detection.per_class,
        detection.PER_CLASS,
        detection.remarks,
    ),
}
