"""A sheet of test images with true and found boxes, to be looked at."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from results.files import replacing
from transfer.tasks.boxes import IGNORED, BoxedImage

COLOURS = ("#e6194b", "#2f6fff", "#00b140", "#ff9d00", "#b04ae0", "#00c8c8", "#f032e6", "#8a6d00")
GREY = "#808080"
ENLARGED, MARGIN, LINE = 2, 8, 16


def draw_sheet(
    images: Sequence[BoxedImage],
    found: Mapping[str, np.ndarray],
    classes: Sequence[str],
    threshold: float,
    path: Path,
) -> None:
    """Draw one row an image: truth on the left (ignored boxes grey), boxes found with `threshold` or more on the right.

    Args:
        images: to draw, one or more.
        found: by image name, (m, 6): x0, y0, x1, y1, score, class.
        classes: names for the legend, in the order of their colours.
        threshold: least score that is shown.
        path: of the PNG.
    """
    wide, high = (ENLARGED * max(image.size[axis] for image in images) for axis in (0, 1))
    legend = 2 * LINE
    sheet = Image.new("RGB", (2 * wide + 3 * MARGIN, len(images) * (high + LINE + MARGIN) + legend), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, 2), f"left: truth (grey: ignored); right: found, score >= {threshold:.3f}", fill="black")
    for number, name in enumerate(classes):
        draw.text((MARGIN + number * 150, LINE), name, fill=COLOURS[number % len(COLOURS)])
    for row, image in enumerate(images):
        top = legend + row * (high + LINE + MARGIN)
        draw.text((MARGIN, top), image.name, fill="black")
        answers = np.asarray(found[image.name]).reshape(-1, 6)
        answers = answers[answers[:, 4] >= threshold]
        sheet.paste(_drawn(image, image.boxes, image.labels), (MARGIN, top + LINE))
        sheet.paste(_drawn(image, answers[:, :4], answers[:, 5]), (2 * MARGIN + wide, top + LINE))
    with replacing(path) as temporary:
        sheet.save(temporary)


def _drawn(image: BoxedImage, boxes: np.ndarray, labels: np.ndarray) -> Image.Image:
    width, height = image.size
    shown = Image.fromarray(image.pixels()).resize((ENLARGED * width, ENLARGED * height))
    draw = ImageDraw.Draw(shown)
    for box, label in zip(boxes, labels.astype(int), strict=True):
        colour = GREY if label == IGNORED else COLOURS[label % len(COLOURS)]
        draw.rectangle([float(side) * ENLARGED for side in box], outline=colour, width=2)
    return shown
