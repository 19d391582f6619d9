import numpy as np
import pytest
from sklearn.metrics import f1_score

from results.metrics import METRICS, Predictions, calibration_error, macro_f1


def probabilities(seed, count=300, classes=4):
    generator = np.random.default_rng(seed)
    label = generator.integers(classes, size=count)
    scores = generator.random((count, classes)) ** 3 + np.eye(classes)[label] * 0.3
    return label, scores / scores.sum(1, keepdims=True)


def plain_calibration_error(label, scores, weight):
    """Guo et al. (2017), equation 3, one bin and one unit after the other."""
    total = 0.0
    for number in range(15):
        right = confident = inside = 0.0
        for own, row, times in zip(label, scores, weight, strict=True):
            top = max(row)
            if number / 15 < top <= (number + 1) / 15:
                inside += times
                right += times * (list(row).index(top) == own)
                confident += times * top
        if inside:
            total += inside * abs(right / inside - confident / inside)
    return total / sum(weight)


@pytest.mark.parametrize("weighting", ["ones", "counts", "reals"])
def test_calibration_error_is_that_of_a_plain_loop(weighting):
    label, scores = probabilities(0)
    generator = np.random.default_rng(1)
    weight = {
        "ones": np.ones(len(label)),
        "counts": generator.integers(0, 4, len(label)),
        "reals": generator.random(len(label)),
    }[weighting]
    assert calibration_error(label, scores, weight) == pytest.approx(plain_calibration_error(label, scores, weight))


def test_calibration_error_knows_sure_and_wrong_answers():
    sure = np.eye(3)[[0, 1, 2, 0]]
    assert calibration_error(np.array([0, 1, 2, 0]), sure) == 0
    assert calibration_error(np.array([1, 2, 0, 1]), sure) == 1
    assert calibration_error(np.array([0, 1, 2, 1]), sure) == pytest.approx(0.25)


def test_calibration_error_counts_half_precision_and_refuses_what_is_no_probability():
    label, scores = probabilities(2)
    half = calibration_error(label, scores.astype(np.float16))
    assert half == pytest.approx(calibration_error(label, scores), abs=0.02)
    margins = scores.copy()
    margins[7] *= 2
    negative = scores.copy()
    negative[3] = [1.5, -0.5, 0, 0]
    assert np.isnan(calibration_error(label, margins))
    assert np.isnan(calibration_error(label, negative, np.ones((len(label), 3)))).all()


@pytest.mark.parametrize("missing", [None, 2])
def test_macro_f1_is_that_of_scikit_learn(missing):
    label, scores = probabilities(3)
    predicted = scores.argmax(1)
    label = np.where(label == missing, 0, label)
    weight = np.random.default_rng(4).random(len(label))
    assert macro_f1(label, predicted) == pytest.approx(f1_score(label, predicted, average="macro"))
    assert macro_f1(label, predicted, weight) == pytest.approx(
        f1_score(label, predicted, average="macro", sample_weight=weight)
    )


def test_macro_f1_leaves_out_classes_that_carry_no_weight():
    label, predicted = np.array([0, 1, 2]), np.array([0, 0, 2])
    assert macro_f1(label, predicted) == pytest.approx((2 / 3 + 0 + 1) / 3)
    assert macro_f1(label, predicted, np.array([1, 1, 0])) == pytest.approx((2 / 3 + 0) / 2)
    assert np.isnan(macro_f1(label, predicted, np.zeros(3)))


@pytest.mark.parametrize("name", METRICS["classification"])
def test_multiplicity_is_repetition_for_every_metric(name):
    label, scores = probabilities(5)
    times = np.random.default_rng(6).integers(0, 3, len(label))
    index = np.repeat(np.arange(len(label)), times)
    whole = Predictions(label, scores.argmax(1), scores)
    repeated = Predictions(label[index], scores.argmax(1)[index], scores[index])
    metric = METRICS["classification"][name]
    assert metric(whole, times) == pytest.approx(metric(repeated))


def test_only_the_calibration_error_is_better_when_lower():
    lower = {kind: [name for name in METRICS[kind] if METRICS[kind][name].lower_is_better] for kind in METRICS}
    assert lower == {"classification": ["calibration_error"], "segmentation": [], "detection": []}
