"""Tiles over regions, and the training crops that are cut from them."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from transfer.engines.mmseg.library import PixelData, SegDataSample
from transfer.engines.mmseg.schedule import Schedule
from transfer.tasks.segmentation import IGNORE, SegmentationTask

GLASS = 255
"""What lies beyond the border of a region smaller than a tile; its class is `IGNORE`."""


def starts(length: int, side: int, overlap: int) -> list[int]:
    """Return where windows of `side` begin along `length` px: `overlap` px in common, the last one moved back to end at the border."""
    if length <= side:
        return [0]
    return [*range(0, length - side, side - overlap), length - side]


def padded(pixels: NDArray[np.uint8], side: int, fill: int) -> NDArray[np.uint8]:
    """Return (h, w, ...) filled up at right and bottom to `side` px where it is smaller; whole windows stay as they are."""
    height, width = pixels.shape[:2]
    missing = ((0, max(0, side - height)), (0, max(0, side - width)), *((0, 0),) * (pixels.ndim - 2))
    return np.pad(pixels, missing, constant_values=fill) if any(map(sum, missing)) else pixels


class Crops(Dataset):
    """Training crops in the order of their use: crop number n is a function of (seed, n) alone, so that workers change nothing.

    Every tile of every training region that has px that count is equally likely. A crop is turned and mirrored in one of eight
    ways, and its colours are changed a little.
    """

    def __init__(self, task: SegmentationTask, rows: tuple[int, ...], schedule: Schedule, seed: int) -> None:
        self._task, self._schedule, self._seed = task, schedule, seed
        self.metainfo = {"classes": task.classes}
        self._tiles = [tile for row in rows for tile in self._grid(row)]
        if not self._tiles:
            raise ValueError("no tile of the training regions has px that count")

    def _grid(self, row: int) -> list[tuple[int, int, int]]:
        """Return (region, top, left) of the tiles of a region."""
        side = self._schedule.tile
        _, labels = self._task.resampled(self._task.regions[row])
        tops, lefts = (starts(length, side, side // 2) for length in labels.shape)
        places = [(row, top, left) for top in tops for left in lefts]
        return [
            place
            for place in places
            if (labels[place[1] : place[1] + side, place[2] : place[2] + side] != IGNORE).any()
        ]

    def __len__(self) -> int:
        return self._schedule.iterations * self._schedule.batch

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Return `inputs` uint8 (3, S, S), RGB, and `data_samples` with the classes int64 (1, S, S)."""
        image, labels = self.crop(number)
        truth = torch.from_numpy(labels.astype(np.int64))[None]
        sample = SegDataSample(gt_sem_seg=PixelData(data=truth), metainfo={"img_shape": labels.shape})
        return {"inputs": torch.from_numpy(image.transpose(2, 0, 1).copy()), "data_samples": sample}

    def crop(self, number: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return image (S, S, 3) and classes (S, S) of one crop, uint8."""
        random = np.random.default_rng([self._seed, number])
        for _ in range(10):
            image, labels = self._cut(random)
            count = np.bincount(labels.ravel(), minlength=256)[:IGNORE]
            if count.sum() and count.max() <= self._schedule.most_of_one_class * count.sum():
                break
        turns, mirrored = random.integers(4), random.integers(2)
        image, labels = np.rot90(image, turns), np.rot90(labels, turns)
        if mirrored:
            image, labels = image[:, ::-1], labels[:, ::-1]
        return _recoloured(image, random, self._schedule.colour), np.ascontiguousarray(labels)

    def _cut(self, random: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        row, top, left = self._tiles[random.integers(len(self._tiles))]
        side, tile = self._schedule.crop, self._schedule.tile
        image, labels = self._task.resampled(self._task.regions[row])
        height, width = (max(side, min(tile, length)) for length in labels.shape)
        top += int(random.integers(height - side + 1))
        left += int(random.integers(width - side + 1))
        window = slice(top, top + side), slice(left, left + side)
        return padded(image[window], side, GLASS), padded(labels[window], side, IGNORE)


def _recoloured(image: NDArray[np.uint8], random: np.random.Generator, most: float) -> NDArray[np.uint8]:
    """Change brightness, contrast and saturation by factors drawn from 1 - most to 1 + most."""
    brightness, contrast, saturation = random.uniform(1 - most, 1 + most, 3)
    pixels = image.astype(np.float32) * np.float32(brightness)
    pixels = (pixels - pixels.mean()) * np.float32(contrast) + pixels.mean()
    grey = pixels.mean(axis=2, keepdims=True)
    return np.clip(np.rint((pixels - grey) * np.float32(saturation) + grey), 0, 255).astype(np.uint8)
