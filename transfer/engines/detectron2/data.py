"""Boxed images as Detectron2's plain dicts. A training sample is a function of (seed, trial, sample number), never of workers or ranks."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from transfer.engines.detectron2.schedules import Schedule
from transfer.tasks.boxes import IGNORED, BoxedImage

MIN_INSIDE = 0.25
"""Least share of a box's area in a crop, or the box is ignored there."""
CUTS = 20
"""Draws of a crop until one holds a nucleus."""


class Samples(Dataset):
    """Training samples 0, 1, ...: rounds over the images in drawn orders, each image cropped, turned and enlarged anew.

    Args:
        images: to draw from.
        schedule: says how they are cropped and changed.
        draw: whole numbers (seed, trial, purpose) that decide every sample with its number.
        count: of samples.
    """

    def __init__(self, images: Sequence[BoxedImage], schedule: Schedule, draw: Sequence[int], count: int) -> None:
        self._images, self._schedule, self._draw, self._count = images, schedule, tuple(draw), count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> dict[str, Any]:
        round_number, place = divmod(number, len(self._images))
        order = np.random.default_rng([*self._draw, 0, round_number]).permutation(len(self._images))
        image = self._images[order[place]]
        return training_sample(image, self._schedule, np.random.default_rng([*self._draw, 1, number]))


def training_sample(image: BoxedImage, schedule: Schedule, random: np.random.Generator) -> dict[str, Any]:
    """Crop, turn, colour and enlarge one image.

    Returns:
        `image` uint8 (3, H, W) RGB and `instances` with `gt_boxes` and `gt_classes`. An ignored box has class -1: the proposal
        network learns that there is a nucleus, the box head neither learns from it nor takes it for background.
    """
    from detectron2.structures import Boxes, Instances

    pixels, boxes, labels = image.pixels(), image.boxes.astype(np.float64), image.labels
    if schedule.crop is not None:
        pixels, boxes, labels = _crop(pixels, boxes, labels, schedule.crop, random)
    pixels, boxes = _turn(pixels, boxes, int(random.integers(8)))
    if schedule.colour:
        pixels = _colour(pixels, schedule.colour, random)
    pixels, factors = enlarge(pixels, schedule.scale * (1 + schedule.jitter * random.uniform(-1, 1)))
    instances = Instances(pixels.shape[:2])
    instances.gt_boxes = Boxes(torch.as_tensor(boxes * factors, dtype=torch.float32).reshape(-1, 4))
    instances.gt_classes = torch.as_tensor(labels, dtype=torch.int64)
    return {"image": _tensor(pixels), "instances": instances}


def test_sample(image: BoxedImage, number: int, scale: float) -> dict[str, Any]:
    """Enlarge one image for prediction; boxes come back in px of the annotated window.

    Args:
        image: to predict.
        number: its id in the COCO json of the part.
        scale: px of the network's input per px of the window.
    """
    pixels, _ = enlarge(image.pixels(), scale)
    width, height = image.size
    return {"image": _tensor(pixels), "height": height, "width": width, "image_id": number, "file_name": image.name}


def enlarge(pixels: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Resize uint8 (H, W, 3) to whole px (bilinear); also return the factors of x0, y0, x1, y1."""
    height, width = pixels.shape[:2]
    new = max(1, round(width * scale)), max(1, round(height * scale))
    if new != (width, height):
        pixels = np.asarray(Image.fromarray(pixels).resize(new, Image.Resampling.BILINEAR))
    return pixels, np.array([new[0] / width, new[1] / height] * 2)


def training_batches(samples: Samples, batch: int, rank: int, world: int, workers: int) -> DataLoader:
    """Batches of `batch` // `world` samples; ranks take samples in turn, so that together they see the same ones as one."""
    return DataLoader(
        samples,
        batch_size=batch // world,
        sampler=range(rank, len(samples), world),
        num_workers=workers,
        collate_fn=list,
        drop_last=True,
    )


class TestBatches:
    """One image a batch, in order; has the length that Detectron2's inference asks for."""

    __test__ = False

    def __init__(self, images: Sequence[BoxedImage], scale: float) -> None:
        self._images, self._scale = images, scale

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        for number, image in enumerate(self._images, start=1):
            yield [test_sample(image, number, self._scale)]


def _crop(
    pixels: np.ndarray, boxes: np.ndarray, labels: np.ndarray, side: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut a square of at most `side` px, one with a nucleus where a few draws find it."""
    height, width = pixels.shape[:2]
    wide, high = min(side, width), min(side, height)
    for _ in range(CUTS):
        left, top = int(random.integers(width - wide + 1)), int(random.integers(height - high + 1))
        cut, kept = _cut_boxes(boxes, labels, (left, top, left + wide, top + high))
        if (kept != IGNORED).any() or not (labels != IGNORED).any():
            break
    return pixels[top : top + high, left : left + wide], cut, kept


def _cut_boxes(
    boxes: np.ndarray, labels: np.ndarray, window: tuple[int, int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.array([*window[:2]] * 2), np.array([*window[2:]] * 2)
    cut = np.clip(boxes, low, high)
    area, whole = ((b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) for b in (cut, boxes))
    is_in = area > 0
    labels = np.where(area < MIN_INSIDE * whole, IGNORED, labels)
    return (cut - low)[is_in], labels[is_in]


def _turn(pixels: np.ndarray, boxes: np.ndarray, way: int) -> tuple[np.ndarray, np.ndarray]:
    """Mirror and turn in one of the eight ways: bit 0 mirrors x, bit 1 mirrors y, bit 2 swaps them."""
    height, width = pixels.shape[:2]
    x0, y0, x1, y1 = boxes.T
    if way & 1:
        pixels, x0, x1 = pixels[:, ::-1], width - x1, width - x0
    if way & 2:
        pixels, y0, y1 = pixels[::-1], height - y1, height - y0
    if way & 4:
        pixels, x0, y0, x1, y1 = pixels.transpose(1, 0, 2), y0, x0, y1, x1
    return pixels.copy(), np.stack([x0, y0, x1, y1], axis=1)


def _colour(pixels: np.ndarray, most: float, random: np.random.Generator) -> np.ndarray:
    gain = 1 + random.uniform(-most, most, 3)
    contrast = 1 + random.uniform(-most, most)
    middle = pixels.mean()
    return np.clip((pixels * gain - middle) * contrast + middle, 0, 255).round().astype(np.uint8)


def _tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.as_tensor(pixels.transpose(2, 0, 1).copy())
