"""Colour floors: what a score is worth without looking at any structure (Ignatov & Malivenko, arXiv 2409.11546)."""

from typing import Self

import numpy as np

from results.files import value_digest


class _Colour:
    kind = "floor"
    coverage = None
    card = None

    def for_trial(self, trial: int) -> Self:
        return self


class MeanRgb(_Colour):
    """The mean of each channel over the tile, 0 to 1: 3 numbers."""

    name = "mean RGB"
    digest = value_digest({"encoder": "mean_rgb", "version": 1})
    feature_dim = 3

    def features(self, batch: np.ndarray) -> np.ndarray:
        """Turn uint8 tiles (B, T, T, 3) into float32 (B, 3)."""
        return (batch.mean(axis=(1, 2), dtype=np.float64) / 255).astype(np.float32)


class ColourHistogram(_Colour):
    """Joint RGB histogram of 8 x 8 x 8 bins, red slowest, as shares of the tile's pixels, square-rooted: 512 numbers of unit length."""

    name = "colour histogram"
    digest = value_digest({"encoder": "colour_histogram", "bins": 8, "version": 1})
    feature_dim = 512

    def features(self, batch: np.ndarray) -> np.ndarray:
        """Turn uint8 tiles (B, T, T, 3) into float32 (B, 512)."""
        pixels = (batch >> 5).reshape(len(batch), -1, 3).astype(np.int64)
        bins = pixels @ np.array([64, 8, 1])
        offsets = 512 * np.arange(len(batch))[:, None]
        counts = np.bincount((bins + offsets).ravel(), minlength=512 * len(batch)).reshape(len(batch), 512)
        return np.sqrt(counts / bins.shape[1]).astype(np.float32)
