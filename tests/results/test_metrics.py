import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score

from results.errors import UserError
from results.metrics import METRICS, Predictions, accuracy, balanced_accuracy, macro_auroc, score_units


def simulated(seed, ties, classes=4, count=200):
    generator = np.random.default_rng(seed)
    label = generator.integers(classes, size=count)
    scores = generator.random((count, classes)) + np.eye(classes)[label] * 0.4
    if ties:
        scores = np.round(scores * 5) / 5
    return label, scores.argmax(1), scores


WEIGHTS = {
    "none": lambda count: None,
    "counts": lambda count: np.random.default_rng(1).integers(0, 4, count),
    "reals": lambda count: np.random.default_rng(2).random(count),
}


@pytest.mark.parametrize("weighting", WEIGHTS)
@pytest.mark.parametrize("ties", [False, True])
def test_equal_to_scikit_learn(weighting, ties):
    label, predicted, scores = simulated(0, ties)
    weight = WEIGHTS[weighting](len(label))
    areas = [roc_auc_score(label == c, scores[:, c], sample_weight=weight) for c in range(scores.shape[1])]
    assert accuracy(label, predicted, weight) == pytest.approx(accuracy_score(label, predicted, sample_weight=weight))
    assert balanced_accuracy(label, predicted, weight) == pytest.approx(
        balanced_accuracy_score(label, predicted, sample_weight=weight)
    )
    assert macro_auroc(label, scores, weight) == pytest.approx(np.mean(areas), abs=1e-12)


def test_multiplicity_is_repetition():
    label, predicted, scores = simulated(3, ties=True)
    times = np.random.default_rng(4).integers(0, 3, len(label))
    index = np.repeat(np.arange(len(label)), times)
    assert macro_auroc(label, scores, times) == pytest.approx(macro_auroc(label[index], scores[index]))
    assert balanced_accuracy(label, predicted, times) == pytest.approx(
        balanced_accuracy(label[index], predicted[index])
    )


@pytest.mark.parametrize("name", METRICS["classification"])
def test_many_weightings_at_once_are_each_alone(name):
    answers = Predictions(*simulated(5, ties=True))
    weight = np.random.default_rng(6).integers(0, 3, (200, 7))
    metric = METRICS["classification"][name]
    together = metric(answers, weight)
    assert together.shape == (7,)
    assert together == pytest.approx([metric(answers, weight[:, r]) for r in range(7)], nan_ok=True)


def test_auroc_extremes_and_ties():
    label = np.array([0, 0, 1, 1])
    right = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.1, 0.9]])
    assert macro_auroc(label, right) == 1.0
    assert macro_auroc(label, -right) == 0.0
    assert macro_auroc(label, np.zeros((4, 2))) == 0.5


def test_auroc_skips_classes_without_positives():
    label = np.array([0, 1, 0, 1])
    scores = np.array([[0.9, 0.1, 5.0], [0.2, 0.8, 1.0], [0.6, 0.4, 0.0], [0.1, 0.9, 2.0]])
    assert macro_auroc(label, scores) == 1.0
    assert macro_auroc(label, scores, np.array([1, 0, 1, 1])) == 1.0


def test_not_defined_is_nan():
    label = np.zeros(3, int)
    assert np.isnan(macro_auroc(label, np.ones((3, 2))))
    assert np.isnan(accuracy(label, label, np.zeros(3)))
    assert np.isnan(balanced_accuracy(label, label, np.zeros(3)))


def test_balanced_accuracy_leaves_out_classes_without_weight():
    label, predicted = np.array([0, 0, 1]), np.array([0, 1, 0])
    assert balanced_accuracy(label, predicted, np.array([1, 1, 0])) == 0.5
    assert balanced_accuracy(label, predicted) == 0.25


def test_weight_of_another_length_is_refused():
    with pytest.raises(ValueError, match="weight"):
        accuracy(np.zeros(3, int), np.zeros(3, int), np.ones(2))


def test_score_units(units_of):
    scored = score_units(units_of(0.8))
    assert [metric["name"] for metric in scored] == list(METRICS["classification"])
    assert {metric["unit"] for metric in scored} == {"fraction"}
    assert all(0.5 < metric["value"] <= 1 for metric in scored[:-1])
    assert 0 < scored[-1]["value"] < 0.5


def test_score_units_with_one_class_gives_null(units_of):
    units = units_of(0.8)
    units = units.set_column(2, "label", pa.array(np.zeros(len(units), "i4")))
    assert {metric["name"]: metric["value"] for metric in score_units(units)}["macro_auroc"] is None


def test_score_units_refuses_what_breaks_the_contract(units_of):
    with pytest.raises(UserError, match="unit, cluster"):
        score_units(units_of().drop_columns(["label"]))
