import json
import time
from dataclasses import replace

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from transfer.engines import Fit, known_engines, logistic
from transfer.engines.knn import KNN
from transfer.engines.linear import Linear
from transfer.engines.semi import FewLabels

ON_FEATURES = {name: build("smoke") for name, build in known_engines().items() if not build("smoke").trains}
WHOLE = ["knn", "linear"]


def toy(train=60, validation=30, test=40, dims=8, classes=3, spread=1.0, seed=0):
    random = np.random.default_rng(seed)
    centres = random.normal(size=(classes, dims))
    labels = [random.integers(0, classes, n).astype(np.int32) for n in (train, validation, test)]
    rows = [(centres[y] + spread * random.normal(size=(len(y), dims))).astype(np.float32) for y in labels]
    return Fit(rows[0], labels[0], rows[1], labels[1], rows[2], classes), labels[2]


@pytest.mark.parametrize("name", WHOLE)
def test_every_engine_gives_classes_and_scores(name):
    fit, truth = toy()
    answer = ON_FEATURES[name].predict(fit)
    assert answer.predicted.shape == (40,)
    assert answer.predicted.dtype == np.int32
    assert answer.scores.shape == (40, 3)
    assert answer.scores.dtype == np.float32
    np.testing.assert_allclose(answer.scores.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(answer.predicted, answer.scores.argmax(axis=1))
    assert (answer.predicted == truth).mean() > 0.7


@pytest.mark.parametrize("name", sorted(ON_FEATURES))
def test_engines_are_deterministic_and_leave_their_input_alone(name):
    fit, _ = toy()
    before = fit.train.copy(), fit.test.copy()
    one, two = (ON_FEATURES[name].predict(fit) for _ in range(2))
    np.testing.assert_array_equal(one.scores, two.scores)
    np.testing.assert_array_equal(fit.train, before[0])
    np.testing.assert_array_equal(fit.test, before[1])


@pytest.mark.parametrize("name", sorted(ON_FEATURES))
def test_a_class_without_training_tiles_gets_no_score(name):
    fit, _ = toy()
    kept, held = fit.train_labels != 1, fit.validation_labels != 1
    fit = Fit(fit.train[kept], fit.train_labels[kept], fit.validation[held], fit.validation_labels[held], fit.test, 3)
    answer = ON_FEATURES[name].predict(fit)
    assert (answer.scores[:, 1] == 0).all()
    assert 1 not in answer.predicted


@pytest.mark.parametrize("name", sorted(ON_FEATURES))
def test_one_test_row_is_scored_alone_as_among_others(name):
    fit, _ = toy()
    alone = Fit(fit.train, fit.train_labels, fit.validation, fit.validation_labels, fit.test[7:8], 3)
    np.testing.assert_allclose(
        ON_FEATURES[name].predict(alone).scores[0], ON_FEATURES[name].predict(fit).scores[7], rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("k", [1, 5, 20, 500])
def test_neighbours_match_a_brute_force(k):
    fit, _ = toy()
    reference = np.concatenate([fit.train, fit.validation]).astype(np.float64)
    labels = np.concatenate([fit.train_labels, fit.validation_labels])
    scores = KNN(k=k).predict(fit).scores
    for row, got in zip(fit.test.astype(np.float64), scores, strict=True):
        similarity = reference @ row / np.linalg.norm(reference, axis=1) / np.linalg.norm(row)
        near = np.argsort(-similarity)[:k]
        votes = np.array([np.exp(similarity[near][labels[near] == c] / 0.07).sum() for c in range(3)])
        np.testing.assert_allclose(got, votes / votes.sum(), rtol=1e-4, atol=1e-6)


def test_equal_neighbours_are_taken_in_order():
    ones = np.ones((6, 2), np.float32)
    labels = np.array([0, 1, 1, 0, 0, 0], np.int32)
    fit = Fit(ones, labels, ones[:1], labels[:1], ones[:2], 2)
    np.testing.assert_allclose(KNN(k=3).predict(fit).scores, [[1 / 3, 2 / 3]] * 2, rtol=1e-6)


def test_zero_features_do_not_break_neighbours():
    fit, _ = toy()
    fit.test[0] = 0
    assert np.isfinite(KNN().predict(fit).scores).all()


@pytest.mark.parametrize("spread", [0.01, 1.0, 3.0])
def test_the_strength_is_the_smallest_of_the_best_on_validation(spread):
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.preprocessing import StandardScaler

    fit, _ = toy(spread=spread)
    scaler = StandardScaler().fit(fit.train.astype(np.float64))
    train, validation = (scaler.transform(rows.astype(np.float64)) for rows in (fit.train, fit.validation))
    quality = {}
    for strength in Linear.strengths:
        model = LogisticRegression(C=strength, max_iter=1000).fit(train, fit.train_labels)
        quality[strength] = balanced_accuracy_score(fit.validation_labels, model.predict(validation))
    assert Linear()._choose(fit) == max(quality, key=quality.get)


@pytest.mark.parametrize("strength", [1e-3, 1.0, 100.0])
def test_the_model_is_scikit_learns_at_its_optimum(strength):
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    fit, _ = toy(spread=2.0)
    answer = Linear(strengths=(strength,)).predict(fit)
    features = np.concatenate([fit.train, fit.validation]).astype(np.float64)
    labels = np.concatenate([fit.train_labels, fit.validation_labels])
    scaler = StandardScaler().fit(features)
    model = LogisticRegression(C=strength, max_iter=10000, tol=1e-8).fit(scaler.transform(features), labels)
    expected = model.predict_proba(scaler.transform(fit.test.astype(np.float64)))
    np.testing.assert_allclose(answer.scores, expected, atol=2e-3)
    assert answer.remark == f"C={strength:g}"


def test_collinear_features_are_solved_to_the_optimum():
    """Condition number 10^6, as untrained networks have: a plain solver would stop on the way."""
    from sklearn.linear_model import LogisticRegression

    fit, _ = toy(train=200, dims=20, spread=2.0)
    random = np.random.default_rng(1)
    mix = random.normal(size=(20, 1)) @ np.ones((1, 20)) + 1e-3 * random.normal(size=(20, 20))
    axes, turned = logistic.Axes.of(fit.train @ mix)
    standard = (fit.train @ mix - axes.mean) / axes.scale
    model = logistic.fit(turned, axes, fit.train_labels, 1.0)
    assert model.converged
    reference = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-10, max_iter=1000).fit(
        standard, fit.train_labels
    )
    np.testing.assert_allclose(model.probabilities(turned), reference.predict_proba(standard), atol=2e-3)


def test_constant_features_are_harmless():
    fit, truth = toy()
    wide = [
        np.concatenate([rows, np.full((len(rows), 3), 7, np.float32)], axis=1)
        for rows in (fit.train, fit.validation, fit.test)
    ]
    answer = Linear().predict(Fit(wide[0], fit.train_labels, wide[1], fit.validation_labels, wide[2], 3))
    assert (answer.predicted == truth).mean() > 0.7


def test_a_trial_of_4000_tiles_stays_cheap():
    fit, _ = toy(train=1800, validation=900, test=1300, dims=512, classes=5, spread=6.0)
    with threadpool_limits(1):
        start = time.perf_counter()
        for name in WHOLE:
            ON_FEATURES[name].predict(fit)
    assert time.perf_counter() - start < 8


def test_the_engines_are_those_of_the_docs():
    assert list(known_engines()) == [
        "finetune", "finetune_10pct", "finetune_1pct", "knn", "linear", "linear_10pct", "linear_1pct",
    ]  # fmt: skip
    for build in known_engines().values():
        assert json.loads(json.dumps(build("smoke").settings())) == build("smoke").settings()


def test_linear_without_validation_takes_the_stated_strength():
    fit, truth = toy()
    alone = fit.few(np.arange(60), np.arange(0))
    answer = Linear().predict(alone)
    assert answer.remark == "C=1, not chosen: no validation tiles"
    np.testing.assert_array_equal(answer.scores, Linear(strengths=(1.0,)).predict(alone).scores)
    assert (answer.predicted == truth).mean() > 0.7


def test_without_refit_validation_only_chooses():
    fit, _ = toy(spread=2.0)
    strength = Linear()._choose(fit)
    expected = Linear(strengths=(strength,)).predict(fit.few(np.arange(60), np.arange(0)))
    one = Linear(strengths=(strength,), unchosen=strength).predict(fit.few(np.arange(60), np.arange(0)))
    np.testing.assert_array_equal(Linear(refit=False).predict(fit).scores, one.scores)
    assert (Linear().predict(fit).scores != expected.scores).any()


@pytest.mark.parametrize("share", [0.01, 0.1, 1.0])
def test_few_labels_are_a_share_of_each_class(share):
    fit, _ = toy(train=500, validation=300)
    labelled, held = FewLabels(Linear(), share).draw(fit)
    for code in range(3):
        own = int((fit.train_labels == code).sum())
        count = int((fit.train_labels[labelled] == code).sum())
        assert count == max(1, int(share * own + 0.5))
        assert (fit.validation_labels[held] == code).sum() == min(count, (fit.validation_labels == code).sum())
    assert len(held) <= len(labelled)
    for positions in (labelled, held):
        assert (np.diff(positions) > 0).all()


def test_few_labels_follow_seed_and_trial_and_are_nested():
    fit, _ = toy(train=500, validation=300)
    draws = {share: FewLabels(Linear(), share).draw(fit)[0] for share in (0.01, 0.1)}
    assert set(draws[0.01]) < set(draws[0.1])
    np.testing.assert_array_equal(FewLabels(KNN(), 0.1).draw(fit)[0], draws[0.1])
    assert set(FewLabels(Linear(), 0.1).draw(replace(fit, seed=1))[0]) != set(draws[0.1])


def test_tiles_that_were_not_drawn_change_nothing():
    fit, _ = toy(train=200, validation=100)
    engine = FewLabels(Linear(refit=False), 0.1)
    labelled, held = engine.draw(fit)
    before = engine.predict(fit)
    for rows, kept in ((fit.train, labelled), (fit.validation, held)):
        rows[np.setdiff1d(np.arange(len(rows)), kept)] = 99
    after = engine.predict(fit)
    np.testing.assert_array_equal(before.scores, after.scores)
    assert before.remark.startswith(f"{len(labelled)} labelled, {len(held)} to choose on, C=")
