"""Views of a tile, made for a whole batch on the training device (design: sgcl-method.md 2.1).

Every random number comes from `randomness.uniform`, so a tile's views depend on (seed, epoch, tile id, view) alone.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.randomness import uniform
from pretrain.schema import ViewSettings

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
GREY = (0.2989, 0.587, 0.114)
QUADRANTS = {
    "tl": (0.0, 0.0, 0.5, 0.5),
    "tr": (0.5, 0.0, 1.0, 0.5),
    "bl": (0.0, 0.5, 0.5, 1.0),
    "br": (0.5, 0.5, 1.0, 1.0),
}
ATTEMPTS = 10


@dataclass(frozen=True)
class View:
    """One view: where it may be cropped from (left, top, right, bottom as shares of the tile) and its size in px.

    `blur` (null: as the settings say) and `solarise` are probabilities.
    """

    name: str
    size: int
    scale: tuple[float, float]
    region: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    blur: float | None = None
    solarise: float = 0.0


def global_view(settings: ViewSettings, name: str = "global") -> View:
    """The view of the whole tile."""
    return View(name, settings.size, tuple(settings.scale))


def two_views(settings: ViewSettings) -> tuple[View, View]:
    """Two views of the whole tile, "global" and "second", drawn independently."""
    second = replace(global_view(settings, "second"), blur=settings.second_blur, solarise=settings.solarise)
    return global_view(settings), second


def local_views(settings: ViewSettings, count: int) -> tuple[View, ...]:
    """Small views from anywhere in the tile: "local0", "local1", ... (multi-crop)."""
    scale = tuple(settings.local_scale)
    return tuple(View(f"local{i}", settings.local_size, scale, blur=settings.local_blur) for i in range(count))


def quadrant_views(settings: ViewSettings) -> tuple[View, ...]:
    """The four quadrant views in the fixed order top left, top right, bottom left, bottom right."""
    return tuple(View(name, settings.local_size, tuple(settings.local_scale), box) for name, box in QUADRANTS.items())


def make_views(
    tiles: Tensor, tile_ids: np.ndarray, views: tuple[View, ...], settings: ViewSettings, seed: int, epoch: int
) -> dict[str, Tensor]:
    """Crop, flip, grey, jitter, blur, solarise and normalise a batch of tiles.

    Args:
        tiles: (B, T, T, 3) uint8 on the training device.
        tile_ids: (B,) integers.
        views: what to make of every tile.

    Returns:
        view name -> (B, 3, size, size) float32 with ImageNet mean and standard deviation.
    """
    images = tiles.permute(0, 3, 1, 2).float().div_(255)
    mean, std = (torch.tensor(v, device=images.device).view(1, 3, 1, 1) for v in (MEAN, STD))
    made = {}
    for view in views:
        boxes = crop_boxes(tile_ids, view, settings.ratio, tiles.shape[1], seed, epoch)
        draws = uniform(tile_ids, 10, seed, epoch, view.name, "colour")
        boxes[draws[:, 0] < settings.flip] = boxes[draws[:, 0] < settings.flip][:, [2, 1, 0, 3]]
        x = sample(images, torch.from_numpy(boxes).to(images), view.size)
        x = grey_some(x, draws[:, 1] < settings.grey)
        x = jitter_some(x, draws[:, 2:10], settings, tile_ids, (seed, epoch, view.name))
        x = blur_some(x, view, settings, tile_ids, (seed, epoch, view.name))
        if view.solarise > 0:
            chosen = uniform(tile_ids, 1, seed, epoch, view.name, "solarise")[:, 0] < view.solarise
            x = torch.where(_mask(chosen, x) & (x >= 0.5), 1 - x, x)
        made[view.name] = (x - mean) / std
    return made


def crop_boxes(
    tile_ids: np.ndarray, view: View, ratio: tuple[float, float], tile: int, seed: int, epoch: int
) -> np.ndarray:
    """Draw random resized crops inside the view's region, by the law of torchvision's RandomResizedCrop.

    Up to ten tries of (area share, log aspect ratio); where none fits, the largest centred crop whose ratio is allowed.

    Returns:
        (B, 4) float64 left, top, right, bottom in px of a `tile` x `tile` image.
    """
    left, top, right, bottom = (share * tile for share in view.region)
    width, height = right - left, bottom - top
    draws = uniform(tile_ids, 2 * ATTEMPTS + 2, seed, epoch, view.name, "crop")
    area = width * height * (view.scale[0] + (view.scale[1] - view.scale[0]) * draws[:, :ATTEMPTS])
    low, high = np.log(ratio[0]), np.log(ratio[1])
    aspect = np.exp(low + (high - low) * draws[:, ATTEMPTS : 2 * ATTEMPTS])
    w, h = np.sqrt(area * aspect), np.sqrt(area / aspect)
    fits = (w <= width) & (h <= height)
    rows, first = np.arange(len(w)), fits.argmax(1)
    w, h, fits = w[rows, first], h[rows, first], fits.any(1)
    shape = np.clip(width / height, *ratio)
    w = np.where(fits, w, min(width, height * shape))
    h = np.where(fits, h, min(height, width / shape))
    u = np.where(fits[:, None], draws[:, -2:], 0.5)
    x, y = left + u[:, 0] * (width - w), top + u[:, 1] * (height - h)
    return np.stack([x, y, x + w, y + h], 1)


def sample(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Resize boxes of (B, 3, T, T) images to (B, 3, size, size), bilinear; left > right mirrors the box."""
    scale = 2 / torch.tensor([images.shape[3], images.shape[2]], dtype=boxes.dtype, device=boxes.device)
    start, end = boxes[:, :2] * scale - 1, boxes[:, 2:] * scale - 1
    steps = (torch.arange(size, device=boxes.device, dtype=boxes.dtype) + 0.5) / size
    x = start[:, 0, None] + (end - start)[:, 0, None] * steps
    y = start[:, 1, None] + (end - start)[:, 1, None] * steps
    grid = torch.stack([x[:, None, :].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)], -1)
    return F.grid_sample(images, grid.to(images.dtype), mode="bilinear", padding_mode="border", align_corners=False)


def to_grey(x: Tensor) -> Tensor:
    """(B, 3, H, W) to (B, 1, H, W) by the ITU-R 601 weights that torchvision uses."""
    return (x * torch.tensor(GREY, device=x.device, dtype=x.dtype).view(1, 3, 1, 1)).sum(1, keepdim=True)


def grey_some(x: Tensor, chosen: np.ndarray) -> Tensor:
    """Replace the chosen images ((B,) bool) by their grey version."""
    return torch.where(_mask(chosen, x), to_grey(x).expand_as(x), x)


def _mask(chosen: np.ndarray, x: Tensor) -> Tensor:
    return torch.from_numpy(chosen).to(x.device).view(-1, 1, 1, 1)


def jitter_some(
    x: Tensor, draws: np.ndarray, settings: ViewSettings, tile_ids: np.ndarray, parts: tuple[int | str, ...]
) -> Tensor:
    """`jitter` with probability `settings.jitter` a tile; `parts` is what the choice depends on besides the tile."""
    if settings.jitter == 0:
        return x
    jittered = jitter(x, draws, settings)
    if settings.jitter == 1:
        return jittered
    return torch.where(_mask(uniform(tile_ids, 1, *parts, "jitter")[:, 0] < settings.jitter, x), jittered, x)


def blur_some(
    x: Tensor, view: View, settings: ViewSettings, tile_ids: np.ndarray, parts: tuple[int | str, ...]
) -> Tensor:
    """Gaussian blur with the view's probability and a sigma drawn uniformly for every tile."""
    probability = settings.blur if view.blur is None else view.blur
    if probability == 0:
        return x
    draws = uniform(tile_ids, 2, *parts, "blur")
    rows = np.flatnonzero(draws[:, 0] < probability)
    if rows.size == 0:
        return x
    low, high = (sigma * settings.size / 224 for sigma in settings.blur_sigma)
    sigmas = torch.from_numpy(low + (high - low) * draws[rows, 1]).to(x)
    index = torch.from_numpy(rows).to(x.device)
    return x.index_copy(0, index, gaussian_blur(x[index], sigmas, math.ceil(3 * high)))


def gaussian_blur(x: Tensor, sigmas: Tensor, radius: int) -> Tensor:
    """Blur (B, C, H, W) images, each with its own (B,) sigma in px; kernels reach `radius` px, edges are mirrored."""
    batch, channels, height, width = x.shape
    radius = min(radius, height - 1, width - 1)
    taps = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    kernels = torch.exp(-0.5 * (taps / sigmas[:, None]) ** 2)
    kernels = (kernels / kernels.sum(1, keepdim=True)).repeat_interleave(channels, 0)[:, None]
    x = F.pad(x.contiguous(), (radius,) * 4, mode="reflect").view(
        1, batch * channels, *(s + 2 * radius for s in (height, width))
    )
    x = F.conv2d(x, kernels[:, :, None, :], groups=batch * channels)
    return F.conv2d(x, kernels[:, :, :, None], groups=batch * channels).view(batch, channels, height, width)


def jitter(x: Tensor, draws: np.ndarray, settings: ViewSettings) -> Tensor:
    """Brightness, contrast, saturation and hue in an order drawn for every image, as torchvision's ColorJitter.

    Args:
        x: (B, 3, H, W) in [0, 1].
        draws: (B, 8) uniform numbers: four strengths, four that are ranked to give the order.
    """
    limits = (settings.brightness, settings.contrast, settings.saturation, settings.hue)
    operations: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (brightness, contrast, saturation, hue)
    order = draws[:, 4:].argsort(1, kind="stable")
    for slot in range(4):
        for which, (operation, limit) in enumerate(zip(operations, limits, strict=True)):
            rows = np.flatnonzero(order[:, slot] == which)
            if limit == 0 or rows.size == 0:
                continue
            low = 0.0 if operation is hue else 1.0
            strength = low + limit * (2 * draws[rows, which] - 1)
            index = torch.from_numpy(rows).to(x.device)
            factor = torch.from_numpy(strength).to(x).view(-1, 1, 1, 1)
            x = x.index_copy(0, index, operation(x[index], factor))
    return x


def brightness(x: Tensor, factor: Tensor) -> Tensor:
    """Scale towards black."""
    return (x * factor).clamp(0, 1)


def contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Scale around the mean grey of the image."""
    mean = to_grey(x).mean((2, 3), keepdim=True)
    return (mean + (x - mean) * factor).clamp(0, 1)


def saturation(x: Tensor, factor: Tensor) -> Tensor:
    """Scale around the grey image."""
    grey = to_grey(x)
    return (grey + (x - grey) * factor).clamp(0, 1)


def hue(x: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue by `shift` of a full circle (-0.5 to 0.5) in HSV."""
    high, low = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    chroma = high - low
    safe = torch.where(chroma == 0, torch.ones_like(chroma), chroma)
    red, green, blue = x.split(1, 1)
    sector = torch.where(
        high == red,
        ((green - blue) / safe) % 6,
        torch.where(high == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    turned = (sector / 6 + shift) % 1.0 * 6
    offsets = torch.tensor([5.0, 3.0, 1.0], device=x.device, dtype=x.dtype).view(1, 3, 1, 1)
    k = (offsets + turned) % 6
    return high - chroma * torch.minimum(k, 4 - k).clamp(0, 1)
