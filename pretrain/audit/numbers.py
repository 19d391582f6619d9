"""What the sets hold, in numbers: sizes, shares against chance, histograms. Plain numpy on tile ids and codes."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

DIGITS = 6


@dataclass(frozen=True)
class Cohort:
    """Codes of every tile, -1 where unknown, and its grid coordinates; built from a tile store."""

    store: Any

    @cached_property
    def slides(self) -> np.ndarray:
        """(N,) int64 slide codes."""
        return np.asarray(self.store.slide_codes, np.int64)

    @cached_property
    def labels(self) -> np.ndarray:
        """(N,) int64 codes of `store.labels`."""
        return np.asarray(self.store.label_codes, np.int64)

    def group(self, column: str) -> np.ndarray:
        """(N,) int64 codes of a text column such as `hospital`; the empty text is unknown."""
        texts = self.store.index[column]
        codes = np.unique(texts, return_inverse=True)[1].astype(np.int64)
        return np.where(texts == "", -1, codes)

    def distance(self, anchors: np.ndarray, members: np.ndarray) -> np.ndarray:
        """(B, n) distance in grid units; meaningful on one slide only."""
        x, y = (self.store.index[name].astype(np.int64) for name in ("grid_x", "grid_y"))
        return np.hypot(x[members] - x[anchors][:, None], y[members] - y[anchors][:, None])


def agreement(
    codes: np.ndarray, slides: np.ndarray, anchors: np.ndarray, members: np.ndarray
) -> dict[str, dict[str, float] | None]:
    """How often a member has its anchor's code, beside what a tile drawn at random would give.

    Members without a code are left out, and so are anchors without one. A share is the mean over anchors of the anchor's
    share, since the loss is a mean over anchors. `by_chance` is the mean over the same anchors of the share among all
    tiles it could have had: all others, those of other slides, those of its slide.

    Args:
        codes: (N,) with -1 for unknown; slides: (N,); anchors: (B,); members: (B, n) padded by -1.

    Returns:
        `all`, `across_slides`, `within_slide`: {`share`, `by_chance`, `anchors`, `pairs`}, or None without a pair.
    """
    kinds = max(int(codes.max(initial=-1)), 0) + 1
    known = codes >= 0
    cell = slides * kinds + np.where(known, codes, 0)
    cells = np.bincount(cell[known], minlength=(int(slides.max(initial=0)) + 1) * kinds).reshape(-1, kinds)
    code, slide = codes[anchors], slides[anchors]
    alike_all, alike_here = cells.sum(0)[code] - 1, cells[slide, code] - 1
    other_all, other_here = cells.sum() - 1, cells[slide].sum(1) - 1
    counted = (members >= 0) & known[members] & (code >= 0)[:, None]
    hit, here = codes[members] == code[:, None], slides[members] == slide[:, None]
    return {
        "all": _shares(hit, counted, alike_all, np.broadcast_to(other_all, code.shape)),
        "across_slides": _shares(hit, counted & ~here, alike_all - alike_here, other_all - other_here),
        "within_slide": _shares(hit, counted & here, alike_here, other_here),
    }


def cross_slide(slides: np.ndarray, anchors: np.ndarray, members: np.ndarray) -> dict[str, float] | None:
    """Share of members on another slide than the anchor's, in the form of `agreement`."""
    here = np.bincount(slides)[slides[anchors]]
    apart = slides[members] != slides[anchors][:, None]
    return _shares(apart, members >= 0, len(slides) - here, np.broadcast_to(len(slides) - 1, here.shape))


def _shares(hit: np.ndarray, counted: np.ndarray, alike: np.ndarray, others: np.ndarray) -> dict[str, float] | None:
    asked = counted.any(1)
    if not asked.any():
        return None
    share = (hit & counted)[asked].sum(1) / counted[asked].sum(1)
    chance = alike[asked] / np.maximum(others[asked], 1)
    return {
        "share": round(float(share.mean()), DIGITS),
        "by_chance": round(float(chance.mean()), DIGITS),
        "anchors": int(asked.sum()),
        "pairs": int(counted.sum()),
    }


def per_class(cohort: Cohort, anchors: np.ndarray, members: np.ndarray) -> list[dict[str, Any]]:
    """Purity of the anchors of each label: `label`, and the entries of `agreement`'s `all` (absent without a pair)."""
    rows = []
    for code, name in enumerate(cohort.store.labels):
        chosen = cohort.labels[anchors] == code
        found = agreement(cohort.labels, cohort.slides, anchors[chosen], members[chosen])["all"]
        rows.append({"label": name} | (found or {}))
    return rows


def quantiles(values: np.ndarray) -> dict[str, float]:
    """Mean, smallest, quartiles, 5 and 95 %, largest of (B,) numbers."""
    names = {"least": 0, "q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95, "most": 1}
    found = {name: float(np.quantile(values, q)) for name, q in names.items()}
    return {name: round(value, DIGITS) for name, value in ({"mean": float(values.mean())} | found).items()}


def histogram(series: Mapping[str, np.ndarray], low: float, high: float, bins: int) -> dict[str, Any]:
    """Counts of every series in equal bins from `low` to `high`; values beyond are put into the outermost bin."""
    edges = np.linspace(low, high, bins + 1)
    counts = {}
    for name, values in series.items():
        values = values[np.isfinite(values)]
        counts[name] = np.histogram(np.clip(values, low, high), edges)[0].tolist()
    return {"edges": [round(float(edge), DIGITS) for edge in edges], "counts": counts}
