import contextlib
import io

import numpy as np
import pyarrow as pa
import pytest
from kind_toys import NUCLEI, boxes_table, make_boxes

from results.kinds import matching
from results.metrics import METRICS, Boxes, metrics_of, score_units
from results.units import canonical_units

BOX = (10, 10, 30, 30)


def answers(units):
    return Boxes.of(canonical_units(units, "here"))


def coco_numbers(boxes, images=None, limit=300):
    """The whole of pycocotools on the same boxes: JSON-like annotations, evaluate, accumulate, summarize."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    images = range(len(boxes)) if images is None else images
    names = [{"id": place + 1, "name": name} for place, name in enumerate(boxes.classes)]
    sides = []
    for own, image in ((boxes.true, boxes.true_image), (boxes.found, boxes.found_image)):
        marks = []
        for new, old in enumerate(images, 1):
            for place in range(len(boxes.classes)):
                for box in own[place][image[place] == old].astype(np.float64).tolist():
                    x0, y0, x1, y1, last = box
                    note = {
                        "id": len(marks) + 1,
                        "image_id": new,
                        "category_id": place + 1,
                        "area": (x1 - x0) * (y1 - y0),
                    }
                    note |= {"bbox": [x0, y0, x1 - x0, y1 - y0]}
                    note |= {"iscrowd": int(last)} if own is boxes.true else {"iscrowd": 0, "score": last}
                    marks.append(note)
        side = COCO()
        side.dataset = {
            "images": [{"id": n} for n in range(1, len(images) + 1)],
            "categories": names,
            "annotations": marks,
        }
        with contextlib.redirect_stdout(io.StringIO()):
            side.createIndex()
        sides.append(side)
    evaluator = COCOeval(*sides, iouType="bbox")
    evaluator.params.maxDets = [1, 2, limit]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    precision = evaluator.eval["precision"][:, :, :, 0, -1]
    numbers = {
        "ap": np.mean(precision[precision > -1]) if (precision > -1).any() else np.nan,
        "ap50": evaluator.stats[1],
        "ap75": evaluator.stats[2],
    }
    for place, name in enumerate(boxes.classes):
        own = precision[:, :, place]
        numbers[f"ap_{name}"] = own.mean() if (own > -1).all() else np.nan
    return {name: np.nan if value == -1 else value for name, value in numbers.items()}


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_ap_is_that_of_pycocotools(seed, ties):
    boxes = answers(make_boxes(0.5 + 0.08 * seed, images=14, noise_seed=seed, ties=ties))
    assert any(own[:, 4].any() for own in boxes.true)
    assert 3 not in np.concatenate([*boxes.found_image, *boxes.true_image])
    assert 4 in np.concatenate(boxes.true_image)
    assert 4 not in np.concatenate(boxes.found_image)
    expected = coco_numbers(boxes)
    assert 0.05 < expected["ap"] < 1
    for name, value in expected.items():
        assert metrics_of(boxes)[name](boxes) == pytest.approx(value, abs=1e-9)


def test_ap_of_a_class_without_truth_or_without_answers():
    units = make_boxes(0.9, classes=("here", "unseen", "false"))
    empty = pa.array([[]] * len(units), pa.list_(pa.float32()))
    for name in ("found_unseen", "truth_false"):
        units = units.set_column(units.column_names.index(name), name, empty)
    boxes = answers(units)
    expected = coco_numbers(boxes)
    assert (expected["ap_unseen"], np.isnan(expected["ap_false"])) == (0, True)
    for name, value in expected.items():
        assert metrics_of(boxes)[name](boxes) == pytest.approx(value, abs=1e-9, nan_ok=True)


def test_more_boxes_than_the_limit_are_cut_as_pycocotools_cuts_them(monkeypatch):
    monkeypatch.setattr(matching, "MAX_DETECTIONS", 4)
    boxes = answers(make_boxes(0.9, images=12, ties=True))
    assert max(np.bincount(image).max() for image in boxes.found_image) > 4
    for name, value in coco_numbers(boxes, limit=4).items():
        assert metrics_of(boxes)[name](boxes) == pytest.approx(value, abs=1e-9)


def test_a_drawn_image_counts_as_often_as_it_was_drawn():
    boxes = answers(make_boxes(0.7, images=12))
    weight = np.random.default_rng(0).integers(0, 3, (12, 5))
    for name in ("ap", "ap50", "ap75", "ap_tumour"):
        together = metrics_of(boxes)[name](boxes, weight)
        assert together.shape == (5,)
        for column in range(5):
            repeated = np.repeat(np.arange(12), weight[:, column])
            assert together[column] == pytest.approx(coco_numbers(boxes, repeated)[name], abs=1e-9)
            assert together[column] == pytest.approx(metrics_of(boxes)[name](boxes, weight[:, column] * 4), abs=1e-9)


def test_a_draw_without_truth_is_not_defined():
    boxes = answers(boxes_table([{"a": ([(*BOX, 0)], [(*BOX, 0.9)])}, {"a": ([], [(*BOX, 0.9)])}]))
    weight = np.array([[1, 0, 0], [0, 1, 0]])
    assert METRICS["detection"]["ap"](boxes, weight).tolist() == pytest.approx([1, np.nan, np.nan], nan_ok=True)
    assert METRICS["detection"]["f1_iou50"](boxes, weight).tolist() == pytest.approx([1, 0, np.nan], nan_ok=True)


def moved(by, score=0.9):
    return (BOX[0] + by, BOX[1], BOX[2] + by, BOX[3], score)


@pytest.mark.parametrize(
    ("truth", "found", "iou", "distance"),
    [
        ([(*BOX, 0)], [moved(0)], 1, 1),
        ([(*BOX, 0)], [moved(5)], 1, 1),
        ([(*BOX, 0)], [moved(12)], 0, 1),
        ([(*BOX, 0)], [moved(13)], 0, 0),
        ([(*BOX, 0)], [moved(0, 0.4)], 0, 0),
        ([(*BOX, 0)], [moved(0, 0.5)], 1, 1),
        ([(*BOX, 0)], [moved(0), moved(1, 0.8)], 2 / 3, 2 / 3),
        ([(*BOX, 0), (*BOX, 1)], [moved(0), moved(1, 0.8), moved(2, 0.7)], 1, 1),
        ([(*BOX, 1)], [moved(0)], np.nan, np.nan),
        ([(*BOX, 1)], [moved(100)], 0, 0),
        ([], [], np.nan, np.nan),
        ([(*BOX, 0)], [], 0, 0),
    ],
)
def test_f1_of_small_cases(truth, found, iou, distance):
    boxes = answers(boxes_table([{"a": (truth, found)}]))
    scored = [METRICS["detection"][name](boxes) for name in ("f1_iou50", "f1_distance")]
    assert scored == pytest.approx([iou, distance], nan_ok=True)


def test_the_better_scored_box_chooses_first_and_takes_the_nearest():
    truth = [(0, 0, 10, 10, 0), (10, 0, 20, 10, 0)]
    greedy = [(4, 0, 14, 10, 0.9), (2, 0, 8, 10, 0.8)]  # centres 9 and 5; truth at 5 and 15
    boxes = answers(boxes_table([{"a": (truth, greedy)}], {"match_px": "6"}))
    assert METRICS["detection"]["f1_distance"](boxes) == pytest.approx(2 / 4)
    boxes = answers(boxes_table([{"a": (truth, [greedy[1], (6, 0, 14, 10, 0.7)])}], {"match_px": "6"}))
    assert METRICS["detection"]["f1_distance"](boxes) == 1


def test_what_lies_inside_a_large_ignored_box_is_not_counted():
    region = (0, 0, 200, 200, 1)
    boxes = answers(
        boxes_table([{"a": ([region, (300, 0, 320, 20, 0)], [moved(0), moved(100), (300, 0, 320, 20, 0.9)])}])
    )
    assert METRICS["detection"]["f1_distance"](boxes) == METRICS["detection"]["f1_iou50"](boxes) == 1


def test_metadata_decide_threshold_and_distance():
    rows = [{"a": ([(*BOX, 0)], [moved(0, 0.4), moved(60, 0.3)])}]
    assert [m["value"] for m in score_units(boxes_table(rows)) if m["name"].startswith("f1")] == [0, 0]
    low = score_units(boxes_table(rows, {"score_threshold": "0.4"}))
    assert [m["value"] for m in low if m["name"].startswith("f1")] == [1, 1]
    lower = score_units(boxes_table(rows, {"score_threshold": "0.3", "match_px": "60"}))
    assert [m["value"] for m in lower if m["name"].startswith("f1")] == pytest.approx([2 / 3, 2 / 3])


def test_f1_is_over_all_classes_together_and_matches_within_one():
    row = {"a": ([(*BOX, 0)], [moved(0)]), "b": ([(*BOX, 0), (50, 50, 70, 70, 0)], [])}
    swapped = {"a": ([(*BOX, 0)], []), "b": ([], [moved(0)])}
    boxes = answers(boxes_table([row, swapped], classes=("a", "b")))
    for name in ("f1_iou50", "f1_distance"):
        assert METRICS["detection"][name](boxes) == pytest.approx(2 / (2 + 1 + 3))
        assert METRICS["detection"][name](boxes, np.array([1, 0])) == pytest.approx(2 / 4)
        assert METRICS["detection"][name](boxes, np.array([2, 1])) == pytest.approx(4 / (4 + 1 + 5))


def test_f1_at_iou_agrees_with_a_plain_matching():
    boxes = answers(make_boxes(0.8, images=12, metadata={"score_threshold": "0.3"}))
    right = wrong = missed = 0
    for place in range(len(boxes.classes)):
        for image in range(12):
            true = boxes.true[place][boxes.true_image[place] == image].astype(float)
            found = boxes.found[place][boxes.found_image[place] == image].astype(float)
            free = [box for box in true if box[4] == 0]
            missed += len(free)
            for box in sorted(found[found[:, 4] >= 0.3].tolist(), key=lambda box: -box[4]):
                ious = [overlap(box, other) for other in free]
                if ious and max(ious) >= 0.5:
                    free.pop(int(np.argmax(ious)))
                    right, missed = right + 1, missed - 1
                elif not any(overlap(box, other, crowd=True) >= 0.5 for other in true[true[:, 4] == 1]):
                    wrong += 1
    assert right > 10
    assert wrong > 10
    assert METRICS["detection"]["f1_iou50"](boxes) == pytest.approx(2 * right / (2 * right + wrong + missed))


def overlap(box, other, crowd=False):
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    both = max(width, 0) * max(height, 0)
    own, its = ((b[2] - b[0]) * (b[3] - b[1]) for b in (box, other))
    return both / own if crowd else both / (own + its - both)


def test_the_truth_knows_no_order_of_boxes():
    rows = [{"a": ([(*BOX, 0), (1, 1, 5, 5, 1)], [])}, {"a": ([], [])}]
    turned = [{"a": ([(1, 1, 5, 5, 1), (*BOX, 0)], [(*BOX, 0.5)])}, {"a": ([], [])}]
    other = [{"a": ([(*BOX, 1), (1, 1, 5, 5, 1)], [])}, {"a": ([], [])}]
    first = answers(boxes_table(rows)).truth()
    assert (first == answers(boxes_table(turned)).truth()).all()
    assert (first == answers(boxes_table(other)).truth()).tolist() == [False, True]
    one, two = ([{"a": (t, []), "b": (f, [])}] for t, f in (([(*BOX, 0)], []), ([], [(*BOX, 0)])))
    assert (
        answers(boxes_table(one, classes=("a", "b"))).truth() != answers(boxes_table(two, classes=("a", "b"))).truth()
    )


def test_score_units_gives_every_metric():
    names = [metric["name"] for metric in score_units(make_boxes())]
    assert names == [*METRICS["detection"], *(f"ap_{name}" for name in NUCLEI)]
