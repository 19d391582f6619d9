"""How sure a mean over trials is, and which encoders cannot be told apart: one paired, slide-clustered bootstrap.

Three spreads are kept apart:

- `sd` is the spread between trials (folds, evaluation seeds and, when pooled, pretraining seeds). It is not a standard
  error: folds share training slides.
- `interval` is the sampling of the test set: which slides, and which tiles of them (regions, images: what
  one unit is). Training and pretraining stay as they were in every replicate, so their randomness is not in it.
- `difference` is the same sampling for two encoders at once. Both are scored on the same drawn slides and tiles, so
  what is hard for both cancels out.

The bootstrap is the two-stage one for clustered data (Davison & Hinkley, Bootstrap Methods, 1997, section 3.8; Field & Welsh, JRSS B
2007): slides with replacement, then as many tiles as the slide has, with replacement, inside every drawn slide.
"""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from results.errors import UserError
from results.kinds import KINDS
from results.metrics import answers_of, metrics_of
from results.weights import mean_defined

CHUNK_CELLS = 2**20
"""Weights (tiles x replicates) held at once: 8 MiB of float64, which stays near the cache."""

Row = TypeVar("Row", bound=Hashable)


@dataclass(frozen=True)
class Trial:
    """The scored units of one trial of one encoder.

    `number` says which trials of two encoders belong together, such as (evaluation seed, fold); `cluster` and `unit`
    are (N,) text: slide, and id within the task. `answers` is what the task's kind reads units as (`results.kinds`).
    """

    number: Hashable
    cluster: np.ndarray
    unit: np.ndarray
    answers: Any

    @classmethod
    def of(cls, number: Hashable, units: pa.Table) -> "Trial":
        """Take a canonical units table."""
        cluster = units["cluster"].to_numpy().astype(str)
        return cls(number, cluster, units["unit"].to_numpy().astype(str), answers_of(units))


class Resampling:
    """Draws of slides, and of tiles inside them, that every encoder of a table shares.

    The tiles are the union over all trials, each known by (slide, unit id). Replicate `r` is a function of (seed, r)
    and of that union alone, so neither the order of the encoders nor the size of a chunk changes it.
    """

    def __init__(self, trials: Iterable[Trial], replicates: int, seed: int):
        trials = list(trials)
        self.replicates, self.seed = replicates, seed
        counts = [len(trial.unit) for trial in trials]
        slides, slide = np.unique(np.concatenate([trial.cluster for trial in trials]), return_inverse=True)
        names, name = np.unique(np.concatenate([trial.unit for trial in trials]), return_inverse=True)
        tiles, position = np.unique(slide.astype(np.int64) * len(names) + name, return_inverse=True)
        self.positions = np.split(position, np.cumsum(counts)[:-1])
        """Per trial, (N,) rows of the weights."""
        self.slides, self.tiles = len(slides), len(tiles)
        self._sizes = np.bincount(tiles // len(names), minlength=len(slides))
        self._starts = np.cumsum(self._sizes) - self._sizes

    def _draw(self, replicate: int) -> np.ndarray:
        """Return how often each tile was drawn, (tiles,) int64."""
        generator = np.random.default_rng([self.seed, replicate])
        drawn = generator.integers(self.slides, size=self.slides)
        sizes = self._sizes[drawn]
        within = generator.random(sizes.sum()) * np.repeat(sizes, sizes)
        return np.bincount(np.repeat(self._starts[drawn], sizes) + within.astype(np.int64), minlength=self.tiles)

    def chunks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield replicates by the chunk: which ones, and their weights (tiles, chunk) float64."""
        step = max(1, min(self.replicates, CHUNK_CELLS // self.tiles))
        for first in range(0, self.replicates, step):
            last = min(first + step, self.replicates)
            draws = np.stack([self._draw(replicate) for replicate in range(first, last)])
            yield slice(first, last), np.ascontiguousarray(draws.T, dtype=np.float64)


@dataclass(frozen=True)
class Estimate:
    """One encoder's metric: per trial `numbers`, point `values` (T,) and bootstrap `replicates` (T, R).

    A trial of whose slides none was drawn is NaN in that replicate and left out of its mean. `slides` and `tiles` count
    what was scored (`tiles` are units of any kind); with one slide (`tiles_only`) the interval shows the sampling of its units
    only. `lower_is_better` turns comparisons around.
    """

    numbers: tuple[Hashable, ...]
    values: np.ndarray
    replicates: np.ndarray
    slides: int
    tiles: int
    lower_is_better: bool = False

    @property
    def tiles_only(self) -> bool:
        """Whether there was a single slide, so that slides could not be resampled."""
        return self.slides == 1

    def mean(self) -> float:
        """Return the mean over trials; NaN when the metric is defined in none."""
        return float(mean_defined(self.values))

    def goodness(self) -> float:
        """Return the mean, negative where lower is better: of two rows the better has the higher."""
        return -self.mean() if self.lower_is_better else self.mean()

    def sd(self) -> float:
        """Return the standard deviation between trials (ddof=1); NaN with fewer than two."""
        values = self.values[~np.isnan(self.values)]
        return float(values.std(ddof=1)) if len(values) > 1 else float("nan")

    def interval(self) -> tuple[float, float]:
        """Return the 95 % percentile interval of the mean over trials, over test slides and tiles."""
        return percentile_interval(mean_defined(self.replicates))


def percentile_interval(values: np.ndarray) -> tuple[float, float]:
    """Return the 2.5 and 97.5 percentiles of the (R,) values that are not NaN; (NaN, NaN) when none is."""
    values = values[~np.isnan(values)]
    if len(values) == 0:
        return float("nan"), float("nan")
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def paired_t_interval(differences: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of a mean difference over paired runs, such as one a pretraining seed: mean ± t(0.975, n - 1) sd / sqrt(n).

    It holds the randomness of training that `difference` leaves out. (NaN, NaN) with fewer than two, and where one is NaN.
    """
    from scipy.stats import t

    values = np.asarray(differences, dtype=np.float64)
    if len(values) < 2 or np.isnan(values).any():
        return float("nan"), float("nan")
    half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def bootstrap(
    rows: Mapping[Row, Sequence[Trial]], metrics: Sequence[str], replicates: int = 1000, seed: int = 0
) -> dict[tuple[Row, str], Estimate]:
    """Score every row on the same draws of slides and tiles.

    The time grows with trials x tiles x replicates x classes; memory stays at one chunk of weights.

    Args:
        rows: row -> its trials; all rows of one task split, so that equal (slide, unit) means the same tile.
        metrics: names in `results.metrics.METRICS` of the rows' kind, or of single classes.
        replicates: how many draws.
        seed: of the draws.

    Returns:
        (row, metric) -> estimate. Rows without trials are left out.

    Raises:
        UserError: when two trials give one unit different truth, or have other classes: not one split then.
    """
    flat = [(row, trial) for row, trials in rows.items() for trial in trials]
    if not flat:
        return {}
    resampling = Resampling([trial for _, trial in flat], replicates, seed)
    _check_truth(flat, resampling)
    known = metrics_of(flat[0][1].answers)
    scored = np.empty((len(metrics), len(flat), replicates))
    for part, weights in resampling.chunks():
        for index, (_, trial) in enumerate(flat):
            weight = weights[resampling.positions[index]]
            drawn = trial.answers.under(weight)
            for place, name in enumerate(metrics):
                scored[place, index, part] = known[name].of(drawn)
    estimates = {}
    for row, trials in rows.items():
        if not trials:
            continue
        own = [index for index, (owner, _) in enumerate(flat) if owner == row]
        numbers = tuple(trial.number for trial in trials)
        slides = len(np.unique(np.concatenate([trial.cluster for trial in trials])))
        tiles = len(np.unique(np.concatenate([resampling.positions[index] for index in own])))
        for place, name in enumerate(metrics):
            values = np.array([known[name](trial.answers) for trial in trials])
            better = known[name].lower_is_better
            estimates[row, name] = Estimate(numbers, values, scored[place, own], slides, tiles, better)
    return estimates


def _check_truth(flat: Sequence[tuple[Hashable, Trial]], resampling: Resampling) -> None:
    first = flat[0][1].answers
    truth, known = np.zeros(resampling.tiles, dtype=np.int64), np.zeros(resampling.tiles, dtype=bool)
    for (row, trial), positions in zip(flat, resampling.positions, strict=True):
        same_rules = (trial.answers.kind, trial.answers.rules) == (first.kind, first.rules)
        own = trial.answers.truth() if same_rules else truth[positions]
        if not same_rules or (known[positions] & (truth[positions] != own)).any():
            raise UserError(
                f"the units of {row}, trial {trial.number}, give other labels or classes to {KINDS[first.kind].units} than "
                f"those of {flat[0][0]} do, under the same split digest: one of them must be run again."
            )
        truth[positions], known[positions] = own, True


def difference(a: Estimate, b: Estimate) -> np.ndarray:
    """Return the paired replicates of a - b, (R,), over the trials that both have.

    Both estimates must come from one `bootstrap` call. All NaN when they share no trial.
    """
    shared = set(a.numbers) & set(b.numbers)
    parts = [mean_defined(e.replicates[[number in shared for number in e.numbers]]) for e in (a, b)]
    return parts[0] - parts[1]


def best_of(estimates: Mapping[Row, Estimate]) -> Row | None:
    """Return the row of the best mean (the first of equals), None when no mean is defined."""
    defined = [row for row in estimates if not np.isnan(estimates[row].mean())]
    return max(defined, key=lambda row: estimates[row].goodness()) if defined else None


def tied_with_best(estimates: Mapping[Row, Estimate]) -> set[Row]:
    """Return the best row and every row whose paired difference from it has 0 inside its 95 % interval.

    Each comparison stands alone: nothing is corrected for their number.
    """
    best = best_of(estimates)
    if best is None:
        return set()
    tied = {best}
    for row, estimate in estimates.items():
        low, high = percentile_interval(difference(estimates[best], estimate))
        if low <= 0 <= high:
            tied.add(row)
    return tied


def inside_floor(estimate: Estimate, floor: Estimate) -> bool:
    """Tell whether `estimate` is not shown to beat `floor`: the paired interval does not lie wholly on the better side of 0."""
    ahead = difference(floor, estimate) if estimate.lower_is_better else difference(estimate, floor)
    low, _ = percentile_interval(ahead)
    return not low > 0
