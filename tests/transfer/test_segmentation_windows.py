import itertools
import tracemalloc

import numpy as np
import pytest
import torch
from bcss_toys import write_bcss

from results.settings import load_yaml
from transfer.engines.mmseg.crops import Crops, padded, starts
from transfer.engines.mmseg.schedule import Schedule
from transfer.engines.mmseg.stitch import confusion, enlarged, mean_iou, stitched
from transfer.tasks import bcss
from transfer.tasks.segmentation import IGNORE


@pytest.fixture
def task(tmp_path):
    settings = bcss.BcssSettings(**load_yaml(bcss.__file__.replace(".py", ".yaml")))
    return bcss.load(settings, write_bcss(tmp_path), 1, tmp_path / "cache")


@pytest.mark.parametrize("length", [1, 63, 64, 65, 100, 112, 113, 640])
@pytest.mark.parametrize("overlap", [0, 16, 32, 63])
def test_windows_cover_everything_and_none_is_small(length, overlap):
    begins = starts(length, 64, overlap)
    if length <= 64:
        assert begins == [0]
        return
    assert begins[-1] == length - 64
    assert all(0 < b - a <= 64 - overlap for a, b in itertools.pairwise(begins))


def test_small_pixels_are_filled_up_at_the_far_rims():
    pixels = padded(np.ones((3, 5), np.uint8), 5, IGNORE)
    assert pixels.shape == (5, 5)
    assert (pixels[:3] == 1).all()
    assert (pixels[3:] == IGNORE).all()
    assert padded(np.ones((7, 9, 3), np.uint8), 5, 0).shape == (7, 9, 3)


def field(windows):
    """Class scores that depend on the px and on its place in the window, so that overlaps matter."""
    batch = torch.from_numpy(windows).float().permute(0, 3, 1, 2)[:, :1] / 255
    side = batch.shape[-1]
    ramp = torch.linspace(0, 0.4, side)
    return torch.cat([batch + ramp, 1 - batch + ramp.view(-1, 1), 0.7 + 0 * batch], 1)


@pytest.mark.parametrize("size", [(20, 20), (32, 32), (33, 90), (75, 31), (101, 87)])
@pytest.mark.parametrize("overlap", [0, 8, 16, 31])
def test_stitching_by_bands_is_the_mean_over_all_windows(size, overlap):
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    total = np.zeros((3, max(32, size[0]), max(32, size[1])))
    count = np.zeros_like(total)
    for top in starts(size[0], 32, overlap):
        for left in starts(size[1], 32, overlap):
            window = padded(image[top : top + 32, left : left + 32], 32, 255)
            total[:, top : top + 32, left : left + 32] += field(window[None])[0].numpy()
            count[:, top : top + 32, left : left + 32] += 1
    expected = (total / count)[:, : size[0], : size[1]]
    found = stitched(field, image, 32, overlap)
    assert found.dtype == np.uint8
    best, second = np.sort(expected, axis=0)[[-1, -2]]
    sure = best - second > 1e-5
    assert sure.mean() > 0.9
    assert np.array_equal(found[sure], expected.argmax(axis=0)[sure])


def test_a_tall_region_is_held_a_band_at_a_time():
    image = np.zeros((8000, 200, 3), np.uint8)
    tracemalloc.start()
    try:
        answer = stitched(field, image, 64, 16)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    band = 3 * 64 * 200 * 4
    assert answer.nbytes + band < peak < answer.nbytes + 6 * band


def test_enlarging_takes_the_px_under_each_centre():
    labels = np.random.default_rng(0).integers(0, 5, (37, 61), np.uint8)
    for height, width in ((37, 61), (74, 122), (61, 102), (20, 30), (1200, 61)):
        rows = np.floor((np.arange(height) + 0.5) * 37 / height).astype(int)
        columns = np.floor((np.arange(width) + 0.5) * 61 / width).astype(int)
        assert np.array_equal(enlarged(labels, height, width), labels[np.ix_(rows, columns)])


def test_confusion_counts_every_px_once_and_none_that_is_ignored():
    random = np.random.default_rng(3)
    truth = random.integers(0, 4, (1100, 30)).astype(np.uint8)
    truth[truth == 3] = IGNORE
    predicted = random.integers(0, 3, truth.shape).astype(np.uint8)
    counts = confusion(truth, predicted, 3)
    assert counts.dtype == np.int64
    assert counts.sum() == (truth != IGNORE).sum()
    for i in range(3):
        for j in range(3):
            assert counts[i, j] == ((truth == i) & (predicted == j)).sum()


def test_mean_iou_leaves_out_what_never_occurs():
    assert mean_iou(np.diag([3, 5, 0])) == 1
    assert mean_iou(np.array([[2, 2, 0], [0, 0, 0], [0, 0, 0]])) == pytest.approx(0.25)
    assert np.isnan(mean_iou(np.zeros((2, 2), np.int64)))


def crops(task, seed=0, rows=(0, 1, 2), **changes):
    return Crops(task, rows, Schedule(**{"iterations": 8, "batch": 4, "crop": 32, "tile": 64, **changes}), seed)


def test_crops_are_functions_of_seed_and_number(task):
    one, two, other = crops(task), crops(task), crops(task, seed=1)
    assert len(one) == 32
    for number in (5, 0, 31):
        first, second = one.crop(number), two.crop(number)
        assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert not np.array_equal(one.crop(5)[0], other.crop(5)[0])
    assert not np.array_equal(one.crop(5)[0], one.crop(6)[0])


def test_crops_have_one_size_and_carry_their_classes(task):
    for crop in (32, 64):
        item = crops(task, crop=crop)[3]
        assert item["inputs"].shape == (3, crop, crop)
        assert item["inputs"].dtype == torch.uint8
        truth = item["data_samples"].gt_sem_seg.data
        assert truth.shape == (1, crop, crop)
        assert set(truth.unique().tolist()) <= {0, 1, 2, 3, 4, IGNORE}


def test_image_and_classes_of_a_crop_are_turned_together(task):
    """A region whose image is its mask: whatever is cut and turned, they stay the same picture."""

    class Same:
        regions, classes = task.regions, task.classes

        def resampled(self, region):
            _, labels = task.resampled(region)
            return np.repeat(np.where(labels == IGNORE, 200, labels * 40)[..., None], 3, 2).astype(np.uint8), labels

    schedule = Schedule(iterations=10, batch=4, crop=32, tile=48, colour=0.0)
    same = Crops(Same(), (0, 1), schedule, 0)
    seen = set()
    for number in range(len(same)):
        image, labels = same.crop(number)
        beyond = (image == 255).all(2)
        assert np.array_equal(image[..., 0], np.where(beyond, 255, np.where(labels == IGNORE, 200, labels * 40)))
        seen.add(labels.tobytes())
    assert len(seen) > len(same) // 2


def test_regions_smaller_than_a_crop_are_filled_with_what_does_not_count(task):
    image, labels = crops(task, crop=128, tile=128).crop(0)
    assert image.shape == (128, 128, 3)
    _, whole = task.resampled(task.regions[0])
    assert (labels != IGNORE).sum() == (whole != IGNORE).sum()


def test_tiles_without_px_that_count_are_never_drawn(task):
    blank = task.resampled(task.regions[0])[1].copy()
    blank[:] = IGNORE

    class Blank:
        regions, classes = task.regions, task.classes

        def resampled(self, region):
            return np.zeros((*blank.shape, 3), np.uint8), blank

    with pytest.raises(ValueError, match="no tile"):
        Crops(Blank(), (0,), Schedule(crop=32, tile=64), 0)
