import numpy as np
import pytest

from results import statistics
from results.errors import UserError
from results.metrics import METRICS, Predictions
from results.statistics import (
    Estimate,
    Resampling,
    Trial,
    best_of,
    bootstrap,
    difference,
    inside_floor,
    paired_t_interval,
    percentile_interval,
    tied_with_best,
)


def trial(number, cluster, hit, unit=None):
    """A two-class trial whose accuracy is the mean of `hit`."""
    hit = np.asarray(hit, dtype=bool)
    label = np.arange(len(hit)) % 2
    predicted = np.where(hit, label, 1 - label)
    unit = np.arange(len(hit)) if unit is None else unit
    scores = np.eye(2)[predicted]
    return Trial(
        number, np.asarray(cluster).astype(str), np.asarray(unit).astype(str), Predictions(label, predicted, scores)
    )


def clustered(generator, slides=30, tiles=20, mean=0.7, spread=0.12):
    """Hits whose rate differs by slide around a known mean."""
    rate = np.clip(generator.normal(mean, spread, slides), 0, 1)
    return np.repeat(np.arange(slides), tiles), generator.random(slides * tiles) < np.repeat(rate, tiles)


def coverage(sets, cluster_of):
    covered = 0
    for number in range(sets):
        generator = np.random.default_rng([11, number])
        cluster, hit = clustered(generator)
        rows = {"encoder": [trial(0, cluster_of(cluster), hit)]}
        low, high = bootstrap(rows, ["accuracy"], 200, seed=number)["encoder", "accuracy"].interval()
        covered += low <= 0.7 <= high
    return covered / sets


def test_interval_covers_the_truth_of_a_clustered_problem():
    assert 0.88 <= coverage(60, lambda cluster: cluster) <= 0.99


def test_tiles_taken_as_independent_would_cover_too_little():
    assert coverage(30, lambda cluster: np.arange(len(cluster))) < 0.85


def test_mean_and_sd_are_over_trials():
    cluster = np.zeros(4)
    trials = [trial(i, cluster + i, hit) for i, hit in enumerate(([1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]))]
    estimate = bootstrap({"a": trials}, ["accuracy"], 100)["a", "accuracy"]
    assert estimate.mean() == pytest.approx(np.mean([1, 0.5, 0.25]))
    assert estimate.sd() == pytest.approx(np.std([1, 0.5, 0.25], ddof=1))
    assert (estimate.slides, estimate.tiles) == (3, 12)
    assert np.isnan(bootstrap({"a": trials[:1]}, ["accuracy"], 100)["a", "accuracy"].sd())


def test_a_trial_without_a_drawn_slide_is_skipped():
    trials = [trial(0, [0, 0], [1, 1]), trial(1, [1, 1], [0, 0])]
    estimate = bootstrap({"a": trials}, ["accuracy"], 200)["a", "accuracy"]
    assert np.isnan(estimate.replicates).any()
    assert set(np.unique(np.nanmean(estimate.replicates, axis=0))) == {0.0, 0.5, 1.0}
    assert estimate.interval() == (0.0, 1.0)


def test_the_draw_keeps_the_size_of_every_drawn_slide():
    cluster = np.repeat([0, 1, 2, 3], [1, 2, 3, 4])
    resampling = Resampling([trial(0, cluster, np.ones(10))], 50, seed=3)
    weights = np.concatenate([part for _, part in resampling.chunks()], axis=1)
    per_slide = np.stack([weights[cluster == s].sum(0) / (cluster == s).sum() for s in range(4)])
    assert np.array_equal(per_slide, per_slide.round())
    assert (per_slide.sum(0) == 4).all()


def test_the_draw_does_not_depend_on_chunks_or_on_the_order_of_rows(monkeypatch):
    generator = np.random.default_rng(0)
    cluster, hit = clustered(generator, slides=6, tiles=8)
    _, other = clustered(generator, slides=6, tiles=8)
    shuffled = np.concatenate([np.arange(24, 48), np.arange(24)])
    rows = {"a": [trial(0, cluster, hit)], "b": [trial(0, cluster[shuffled], other, shuffled)]}
    once = bootstrap(rows, ["accuracy"], 100, seed=5)
    monkeypatch.setattr(statistics, "CHUNK_CELLS", 48 * 7)
    again = bootstrap(dict(reversed(rows.items())), ["accuracy"], 100, seed=5)
    for key in once:
        assert once[key].replicates == pytest.approx(again[key].replicates)
    assert not np.array_equal(
        once["a", "accuracy"].replicates, bootstrap(rows, ["accuracy"], 100, 6)["a", "accuracy"].replicates
    )


def test_pairing_sees_a_difference_that_two_intervals_hide():
    generator = np.random.default_rng(1)
    cluster, hit = clustered(generator, spread=0.25)
    worse = hit & (generator.random(len(hit)) > 0.06)
    rows = {"better": [trial(0, cluster, hit)], "worse": [trial(0, cluster, worse)], "same": [trial(0, cluster, hit)]}
    found = bootstrap(rows, ["accuracy"], 300)
    estimates = {row: found[row, "accuracy"] for row in rows}
    assert estimates["worse"].interval()[1] > estimates["better"].interval()[0]
    assert tied_with_best(estimates) == {"better", "same"}
    assert (difference(estimates["better"], estimates["same"]) == 0).all()
    assert inside_floor(estimates["same"], estimates["better"])
    assert inside_floor(estimates["worse"], estimates["better"])
    assert not inside_floor(estimates["better"], estimates["worse"])


def test_an_unsure_difference_is_a_tie():
    generator = np.random.default_rng(2)
    cluster, hit = clustered(generator)
    rows = {"a": [trial(0, cluster, hit)], "b": [trial(0, cluster, clustered(generator)[1])]}
    found = bootstrap(rows, ["accuracy"], 300)
    assert tied_with_best({row: found[row, "accuracy"] for row in rows}) == {"a", "b"}


def test_differences_are_over_the_trials_that_both_have():
    first, second = trial(0, [0, 0, 1, 1], [1, 1, 1, 1]), trial(1, [2, 2, 3, 3], [0, 0, 0, 0])
    found = bootstrap({"both": [first, second], "one": [first]}, ["accuracy"], 100)
    both, one = found["both", "accuracy"], found["one", "accuracy"]
    assert np.nanmax(np.abs(difference(both, one))) == 0
    apart = bootstrap({"a": [first], "b": [second]}, ["accuracy"], 100)
    assert np.isnan(difference(apart["a", "accuracy"], apart["b", "accuracy"])).all()
    assert inside_floor(apart["a", "accuracy"], apart["b", "accuracy"])


def test_one_slide_is_flagged_and_still_has_an_interval_over_tiles():
    hit = np.random.default_rng(3).random(200) < 0.6
    estimate = bootstrap({"a": [trial(0, np.zeros(200), hit)]}, ["accuracy"], 300)["a", "accuracy"]
    low, high = estimate.interval()
    assert estimate.tiles_only
    assert 0.05 < high - low < 0.25
    assert not bootstrap({"a": [trial(0, np.arange(200), hit)]}, ["accuracy"], 100)["a", "accuracy"].tiles_only


def test_undefined_metrics_stay_nan():
    one_class = Trial(
        "t",
        np.array(["s"] * 4),
        np.arange(4).astype(str),
        Predictions(np.zeros(4, int), np.zeros(4, int), np.ones((4, 2))),
    )
    estimate = bootstrap({"a": [one_class]}, ["macro_auroc"], 100)["a", "macro_auroc"]
    assert np.isnan([estimate.mean(), *estimate.interval()]).all()
    assert best_of({"a": estimate}) is None
    assert tied_with_best({"a": estimate}) == set()


def test_rows_that_disagree_on_a_label_are_refused():
    a, b = trial(0, [0, 0], [1, 1]), trial(0, [0, 0], [1, 1], unit=[1, 0])
    with pytest.raises(UserError, match="other labels"):
        bootstrap({"a": [a], "b": [b]}, ["accuracy"], 100)


def test_nothing_to_score():
    assert bootstrap({"a": []}, ["accuracy"], 100) == {}
    assert np.isnan(percentile_interval(np.array([np.nan]))).all()
    empty = Estimate((), np.array([]), np.empty((0, 5)), 0, 0)
    assert np.isnan(empty.mean())


def test_every_metric_runs():
    cluster, hit = clustered(np.random.default_rng(4), slides=5, tiles=10)
    found = bootstrap({"a": [trial(0, cluster, hit)]}, list(METRICS["classification"]), 100)
    for name in METRICS["classification"]:
        low, high = found["a", name].interval()
        assert low <= found["a", name].mean() <= high


def test_paired_t_of_three_seeds_by_hand():
    low, high = paired_t_interval([-0.08, -0.12, -0.14])  # mean -0.11333, sd 0.030551, t(0.975, 2) = 4.30265
    assert low == pytest.approx(-0.18923, abs=1e-5)
    assert high == pytest.approx(-0.03744, abs=1e-5)


@pytest.mark.parametrize("differences", [[], [0.1], [0.1, float("nan")]])
def test_paired_t_of_too_few_runs_is_not_a_number(differences):
    assert np.isnan(paired_t_interval(differences)).all()
