"""Schedules, and the images and boxes that a detector is shown."""

import numpy as np
import pytest
import torch

from results.errors import UserError
from transfer.engines.detectron2.schedules import Schedule, read_schedule
from transfer.tasks.boxes import IGNORED, BoxedImage

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("detectron2")]
OUTSIDE = [
    *((key, float("nan")) for key in ("scale", "jitter", "colour", "lr", "momentum", "weight_decay", "clip")),
    ("iterations", 0), ("iterations", 10_000_001), ("batch", 0), ("batch", 4097), ("crop", 8), ("crop", 5000),
    ("scale", 0.1), ("scale", 9.0), ("lr", 0.0), ("lr", 10.0), ("momentum", 1.0), ("weight_decay", -1.0), ("weight_decay", 2.0),
    ("clip", 0.0), ("jitter", 1.5), ("colour", -0.1), ("warmup", -1), ("precise_bn", -1),
]  # fmt: skip


def test_schedules_are_read_and_checked():
    lengths = [read_schedule(name).iterations for name in ("smoke", "short", "full")]
    assert lengths == sorted(lengths)
    assert read_schedule("smoke", {"iterations": 7}).iterations == 7
    for changes, message in [
        ({"iteration": 7}, "did you mean 'iterations'"),
        ({"proposals": "many"}, "light, default"),
        *(({key: value}, f"{key}=.* must lie from") for key, value in OUTSIDE),
        *(({"decay_at": value}, "decay_at") for value in ([0.9, 0.7], [0.5, 0.5], [1.5], [float("nan")], [[0.5]], 0.5)),
        *(({key: float("inf")}, key) for key in ("iterations", "batch", "lr", "scale", "clip")),
        ({"lr": 10**400}, "does not fit"),
        ({"bfloat16": 1}, "bfloat16=1 from options must be true or false"),
        ({"bfloat16": "yes"}, "true or false"),
        ({"batch": True}, "batch"),
        ({"iterations": 5, "warmup": 5}, "less than iterations=5"),
    ]:
        with pytest.raises(UserError, match=message):
            read_schedule("smoke", changes)
    with pytest.raises(UserError, match="full, short, smoke"):
        read_schedule("long")


@pytest.fixture
def marked(tmp_path):
    """An image that is white inside its boxes and black elsewhere; the second box is ignored."""
    from PIL import Image

    boxes = np.array([[10, 20, 26, 40], [50, 8, 62, 16], [60, 50, 80, 60]], np.float32)
    pixels = np.zeros((70, 90, 3), np.uint8)
    for x0, y0, x1, y1 in boxes.astype(int):
        pixels[y0:y1, x0:x1] = 255
    Image.fromarray(pixels).save(tmp_path / "marked.png")
    return BoxedImage(
        "marked", tmp_path / "marked.png", "s", "p", "h", (0, 0, 90, 70), boxes, np.array([0, IGNORED, 1])
    )


@pytest.mark.parametrize("crop", [None, 48])
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_boxes_follow_the_pixels(marked, crop, scale):
    from transfer.engines.detectron2.data import training_sample

    schedule, shapes = Schedule(crop=crop, scale=scale), set()
    for number in range(40):
        sample = training_sample(marked, schedule, np.random.default_rng(number))
        image, boxes = sample["image"][0].numpy() > 127, sample["instances"].gt_boxes.tensor.numpy()
        drawn = np.zeros_like(image)
        for x0, y0, x1, y1 in boxes.round().astype(int):
            drawn[y0:y1, x0:x1] = True
        assert (drawn != image).mean() < 0.03 * (scale > 1) + 1e-9
        assert (sample["instances"].gt_classes != IGNORED).any()
        shapes.add((image.shape, tuple(boxes[0].round())))
    assert len(shapes) > 7


def test_samples_do_not_depend_on_the_number_of_ranks(nucls_task):
    from transfer.engines.detectron2.data import Samples, training_batches

    schedule = Schedule(crop=48, jitter=0.2, colour=0.1, scale=1.0)
    samples = Samples(nucls_task.part(0, "train"), schedule, (0, 0, 0), 8)

    def steps(world):
        loaders = [training_batches(samples, 4, rank, world, 0) for rank in range(world)]
        return [sorted(float(s["image"].double().sum()) for batch in step for s in batch) for step in zip(*loaders, strict=True)]  # fmt: skip

    assert steps(1) == steps(2)
    assert len(steps(1)) == 2
    other = Samples(nucls_task.part(0, "train"), schedule, (1, 0, 0), 8)
    assert not torch.equal(samples[0]["image"], other[0]["image"])


def test_colour_changes_pixels_and_no_box(marked):
    from transfer.engines.detectron2.data import training_sample

    plain, coloured = (training_sample(marked, Schedule(colour=c), np.random.default_rng(1)) for c in (0.0, 0.2))
    assert not torch.equal(plain["image"], coloured["image"])
    assert plain["image"].shape == coloured["image"].shape
    assert torch.equal(plain["instances"].gt_boxes.tensor, coloured["instances"].gt_boxes.tensor)


@pytest.mark.parametrize("shape", [(1, 9, 3), (9, 1, 3), (1, 1, 3)])
def test_images_one_px_wide_turn_in_every_way(shape):
    from transfer.engines.detectron2.data import _tensor, _turn

    pixels = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    for way in range(8):
        turned, _ = _turn(pixels, np.zeros((0, 4)), way)
        assert sorted(_tensor(turned).flatten().tolist()) == sorted(pixels.ravel().tolist())
    _tensor(pixels[::-1, ::-1])
