"""One test region as a picture: image, truth and prediction side by side, in the colours of the classes."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from results.files import replacing
from transfer.tasks.segmentation import IGNORE, Region, SegmentationTask, read_image, read_mask

HIGHEST = 640
"""Height of the picture in px, and the width of a panel."""
BELOW, OUTSIDE, PAPER = 22, (40, 40, 40), (255, 255, 255)
"""Height of the line of names; colours of px that do not count, and behind everything."""


def draw(task: SegmentationTask, regions: list[Region], folder: Path) -> Path:
    """Write `drawing.png` of the region with the most classes (the first by name among equals) and return its path.

    The prediction is read from `predictions/`; px without truth are dark in the truth alone.
    """
    region = max(sorted(regions, key=lambda r: r.name), key=lambda r: sum(px > 0 for px in r.pixels))
    colours = np.full((256, 3), OUTSIDE, np.uint8)
    colours[: len(task.colours)] = task.colours
    predicted = read_mask(folder / "predictions" / f"{region.name}.png")
    shares = np.array(region.pixels) / sum(region.pixels)
    truth = task.truth(region)
    kept = f"{(truth != IGNORE).mean():.0%} of it counts"
    panels = [
        (f"{region.name}, {region.mpp:.3f} um/px, {kept}", read_image(region.image), Image.Resampling.BILINEAR),
        ("truth: " + ", ".join(f"{n} {s:.0%}" for n, s in zip(task.classes, shares, strict=True) if s), truth, Image.Resampling.NEAREST),
        (f"prediction ({task.name})", predicted, Image.Resampling.NEAREST),
    ]  # fmt: skip
    scale = min(1.0, HIGHEST / max(region.width, region.height))
    size = max(1, round(region.width * scale)), max(1, round(region.height * scale))
    width = max(size[0], 360)
    picture = Image.new("RGB", (3 * width, size[1] + 2 * BELOW), PAPER)
    pen = ImageDraw.Draw(picture)
    for number, (title, pixels, filter_) in enumerate(panels):
        small = np.asarray(Image.fromarray(pixels).resize(size, filter_))
        panel = Image.fromarray(colours[small] if small.ndim == 2 else small)
        picture.paste(panel, (number * width, BELOW))
        pen.text((number * width + 2, 4), title[: width // 6], fill=(0, 0, 0))
    for number, (name, colour) in enumerate(
        [*zip(task.classes, task.colours, strict=True), ("does not count", OUTSIDE)]
    ):
        left = 4 + number * 120
        pen.rectangle((left, size[1] + BELOW + 5, left + 12, size[1] + BELOW + 17), fill=tuple(colour))
        pen.text((left + 16, size[1] + BELOW + 5), name, fill=(0, 0, 0))
    path = folder / "drawing.png"
    with replacing(path) as temporary:
        picture.save(temporary)
    return path
