"""The score from which boxes count for F1, chosen on the validation part."""

from dataclasses import replace

import numpy as np
import pyarrow as pa

from results.metrics import METRICS, Boxes
from results.units import canonical_units

STEPS = np.round(np.arange(0.02, 1.0, 0.02), 2)
FALLBACK = 0.5
"""Where no threshold finds any nucleus."""


def choose_threshold(units: pa.Table, match_px: float) -> float:
    """Return the threshold of `STEPS` with the best F1 by centres, the lowest of equals.

    Args:
        units: of detection, of the validation part.
        match_px: how far a found centre may lie from a true one, px.
    """
    stated = units.replace_schema_metadata({"match_px": repr(match_px)})
    boxes = Boxes.of(canonical_units(stated, "the validation units"))
    metric = METRICS["detection"]["f1_distance"]
    scores = [float(metric(replace(boxes, score_threshold=float(step)))) for step in STEPS]
    best = float(np.nanmax(scores)) if not np.isnan(scores).all() else 0.0
    return float(STEPS[scores.index(best)]) if best > 0 else FALLBACK
