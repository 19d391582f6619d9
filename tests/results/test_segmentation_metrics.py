import numpy as np
import pyarrow as pa
import pytest
from kind_toys import TISSUES, make_maps, make_pixels

from results.metrics import METRICS, Pixels, metrics_of, score_units
from results.units import canonical_units


def answers(units):
    return Pixels.of(canonical_units(units, "here"))


def counted(rows, classes=("a", "b", "c")):
    """Units from one confusion matrix a region."""
    columns = {"unit": [str(n) for n in range(len(rows))], "cluster": [str(n) for n in range(len(rows))]}
    return pa.table(columns | {f"pixels_{name}": [row[i] for row in rows] for i, name in enumerate(classes)})


def test_every_number_is_that_of_a_plain_look_at_the_pixels():
    maps = make_maps(0.6)
    truth = np.concatenate([t.ravel() for t, _ in maps])
    predicted = np.concatenate([p.ravel() for _, p in maps])
    predicted, truth = predicted[truth != 255], truth[truth != 255]
    iou, dice = [], []
    for i in range(len(TISSUES)):
        both = np.logical_and(truth == i, predicted == i).sum()
        iou.append(both / np.logical_or(truth == i, predicted == i).sum())
        dice.append(2 * both / ((truth == i).sum() + (predicted == i).sum()))
    scored = {metric["name"]: metric["value"] for metric in score_units(make_pixels(0.6))}
    expected = {"miou": np.mean(iou), "mdice": np.mean(dice), "pixel_accuracy": (truth == predicted).mean()}
    expected |= {f"iou_{name}": value for name, value in zip(TISSUES, iou, strict=True)}
    assert list(scored) == list(expected)
    assert scored == pytest.approx(expected)


def test_a_class_that_is_nowhere_is_left_out_and_one_wrongly_there_is_not():
    nowhere = answers(counted([[[6, 2, 0], [1, 3, 0], [0, 0, 0]]]))
    metrics = metrics_of(nowhere)
    assert metrics["miou"](nowhere) == pytest.approx((6 / 9 + 3 / 6) / 2)
    assert np.isnan(metrics["iou_c"](nowhere))
    false = answers(counted([[[6, 1, 1], [1, 3, 0], [0, 0, 0]]]))
    assert metrics["iou_c"](false) == 0
    assert metrics["miou"](false) == pytest.approx((6 / 9 + 3 / 5 + 0) / 3)
    missed = answers(counted([[[6, 0, 0], [0, 3, 0], [2, 0, 0]]]))
    assert metrics["iou_c"](missed) == 0
    assert metrics["mdice"](missed) == pytest.approx((12 / 14 + 1 + 0) / 3)
    assert np.isnan(metrics["miou"](answers(counted([[[0, 0, 0]] * 3]))))


def test_px_are_summed_before_they_are_divided():
    large, small = [[90, 10], [0, 100]], [[0, 1], [1, 0]]
    both = answers(counted([large, small], ("a", "b")))
    assert METRICS["segmentation"]["miou"](both) == pytest.approx((90 / 102 + 100 / 112) / 2)


@pytest.mark.parametrize("name", [*METRICS["segmentation"], "iou_stroma"])
def test_weights_repeat_regions_and_many_at_once_are_each_alone(name):
    whole = answers(make_pixels())
    metric = metrics_of(whole)[name]
    times = np.random.default_rng(0).integers(0, 3, (len(whole), 6))
    together = metric(whole, times)
    assert together.shape == (6,)
    for column in range(6):
        index = np.repeat(np.arange(len(whole)), times[:, column])
        assert together[column] == pytest.approx(metric(Pixels(whole.counts[index], whole.classes)))
        assert together[column] == pytest.approx(metric(whole, times[:, column] * 2.5))


def test_the_truth_is_what_was_there_and_not_what_was_said():
    first, second = answers(make_pixels(0.9)), answers(make_pixels(0.2))
    assert (first.truth() == second.truth()).all()
    assert not (first.counts == second.counts).all()
    moved = first.counts.copy()
    moved[0, 0, 0] += 1
    assert (Pixels(moved, first.classes).truth() == first.truth()).tolist() == [False] + [True] * 7


def test_counts_of_whole_slides_stay_exact():
    many = 2**40 + 1
    one = answers(counted([[[many, 0], [0, many]], [[0, 1], [0, 0]]], ("a", "b")))
    right = one.under(np.ones((2, 1))).right
    assert right[0, 0] == many
