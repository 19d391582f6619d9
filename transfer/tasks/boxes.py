"""Detection tasks: images with boxes in the parts of every trial, as plain data, as COCO json and as units of a record."""

import contextlib
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
from PIL import Image

from results.errors import UserError
from results.files import file_digest, value_digest
from transfer.overlap import Origins, origins_of

IGNORED = -1
"""Label of a box that is neither to be found nor wrong to find, under every class."""
MOST_PX = 2**26
"""Largest image that is decoded, in px (8192 x 8192, 0.2 GB); fields of NuCLS have some 0.1 million."""
_OPENING = threading.Lock()
"""Filters of warnings belong to the process, so one thread at a time changes them."""


@dataclass(frozen=True)
class BoxedImage:
    """One annotated window of an image file; all coordinates are px of the window.

    Attributes:
        name: unique in the task; the `unit` of records.
        path: the image file.
        slide, patient, hospital: where it comes from; the slide is the `cluster` of records.
        window: x0, y0, x1, y1 in px of the file, whole numbers.
        boxes: float32 (n, 4): x0, y0, x1, y1.
        labels: int64 (n,): index into the task's classes, or `IGNORED`.
    """

    name: str
    path: Path
    slide: str
    patient: str
    hospital: str
    window: tuple[int, int, int, int]
    boxes: np.ndarray
    labels: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the window in px."""
        return self.window[2] - self.window[0], self.window[3] - self.window[1]

    def pixels(self) -> np.ndarray:
        """Read the window as uint8 RGB (H, W, 3); a UserError names a file that cannot be read."""
        with opened_field(self.path) as image:
            return np.asarray(image.crop(self.window))


@dataclass(frozen=True)
class Parts:
    """Positions in `DetectionTask.images` of one trial, ascending, and how they came about."""

    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]
    rule: str


@dataclass(frozen=True)
class DetectionTask:
    """Images, boxes and parts, with the identity that records quote.

    Attributes:
        mpp: um/px of the windows.
        match_px: how far in px a found centre may lie from a true one and still be the same nucleus.
        splits: one a trial; test never shares a slide with train or validation.
        report: lines that account for every row and file of the source.
        notes: what a reader of records and tables must know of the data and the split.
    """

    name: str
    version: int
    classes: tuple[str, ...]
    rehearsal: bool
    mpp: float
    match_px: float
    images: tuple[BoxedImage, ...]
    splits: tuple[Parts, ...]
    split_digest: str
    data_digest: str
    report: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    kind: str = field(default="detection", init=False)

    @property
    def trials(self) -> int:
        return len(self.splits)

    def tested(self, trial: int) -> Origins:
        """Return where the test images of a trial come from."""
        return origins_of(self.images, self.splits[trial].test)

    def part(self, trial: int, name: str) -> list[BoxedImage]:
        """Return the images of `train`, `validation` or `test` of a trial."""
        return [self.images[position] for position in getattr(self.splits[trial], name)]


@contextlib.contextmanager
def opened_field(path: Path) -> Iterator[Image.Image]:
    """Open an 8-bit RGB PNG and decode it whole.

    Raises:
        UserError: names a file that is too large to be a field of view (before it is decoded), broken, or of another kind.
    """
    if not path.is_file():
        raise UserError(f"{path} is no regular file: put the image there or remove it.")
    large = f"more than {MOST_PX / 1e6:.3g} million: cut it into fields of view first."
    try:
        with open(path, "rb") as file, _quiet(file) as image:
            if image.width * image.height > MOST_PX:
                raise UserError(f"{path} is {image.size[0]} x {image.size[1]} px, {large}")
            bits, mode = _header(file), image.mode
            if (bits, mode) != (8, "RGB") or "transparency" in image.info:
                raise UserError(
                    f"{path} has {bits} bits a channel and the mode {mode}, and fields are 8-bit RGB without transparency: "
                    "convert it, for example by 'magick IN.png -alpha off -depth 8 PNG24:OUT.png'."
                )
            image.load()
            yield image
    except Image.DecompressionBombError:
        raise UserError(f"{path} has more px than can be decoded, {large}") from None
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error) as error:
        raise UserError(
            f"{path} cannot be read as a PNG image ({' '.join(str(error).split())}): fetch it again or remove it."
        ) from error


def _quiet(file: IO[bytes]) -> Image.Image:
    with _OPENING, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(file, formats=("PNG",))


def _header(file: IO[bytes]) -> int:
    """Return the bits a channel from a PNG's IHDR chunk; Pillow gives 16-bit RGB as if it had 8."""
    place = file.tell()
    file.seek(24)
    bits = file.read(1)[0]
    file.seek(place)
    return bits


def digests(images: Sequence[BoxedImage], classes: Sequence[str], splits: Sequence[Parts]) -> tuple[str, str]:
    """Return the digest of units, truth and the parts of one round of folds, and that of the image files."""
    truth = [
        [image.name, image.slide, image.window, image.boxes.astype(float).tolist(), image.labels.tolist()]
        for image in images
    ]
    parts = [[split.train, split.validation, split.test] for split in splits]
    split = value_digest({"units": truth, "classes": list(classes), "parts": parts})
    return split, value_digest({image.name: file_digest(image.path) for image in images})


def to_coco(images: Sequence[BoxedImage], classes: Sequence[str]) -> dict[str, Any]:
    """Lay images and boxes out as COCO json; ids count from 1, an ignored box is a crowd of every class."""
    annotations = []
    for number, image in enumerate(images, start=1):
        for (x0, y0, x1, y1), label in zip(image.boxes.astype(float).tolist(), image.labels.tolist(), strict=True):
            for category in range(len(classes)) if label == IGNORED else (label,):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": category + 1,
                        "bbox": [x0, y0, x1 - x0, y1 - y0],
                        "area": (x1 - x0) * (y1 - y0),
                        "iscrowd": int(label == IGNORED),
                    }
                )
    shown = [
        {"id": number, "file_name": image.path.name, "width": image.size[0], "height": image.size[1]}
        for number, image in enumerate(images, start=1)
    ]
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
    return {"info": {}, "images": shown, "annotations": annotations, "categories": categories}


def units_table(images: Sequence[BoxedImage], found: Mapping[str, np.ndarray], classes: Sequence[str]) -> pa.Table:
    """Lay truth and found boxes out as a record's units, one row an image.

    Args:
        images: the part that was predicted.
        found: by image name, float (m, 6): x0, y0, x1, y1, score, class.
        classes: in the order of the columns.

    Returns:
        `unit`, `cluster` and, for every class, `truth_<class>` (x0, y0, x1, y1, ignore, repeated) and `found_<class>`
        (x0, y0, x1, y1, score, repeated), list<float32>.
    """
    columns: dict[str, Any] = {
        "unit": pa.array([image.name for image in images], pa.string()),
        "cluster": pa.array([image.slide for image in images], pa.string()),
    }
    flat = pa.list_(pa.float32())
    for number, name in enumerate(classes):
        truth, answers = [], []
        for image in images:
            own = (image.labels == number) | (image.labels == IGNORED)
            ignored = (image.labels[own] == IGNORED).astype(np.float32)
            truth.append(np.column_stack([image.boxes[own], ignored]).astype(np.float32).ravel())
            boxes = np.asarray(found[image.name], dtype=np.float32).reshape(-1, 6)
            answers.append(boxes[boxes[:, 5] == number, :5].ravel())
        columns[f"truth_{name}"] = pa.array(truth, flat)
        columns[f"found_{name}"] = pa.array(answers, flat)
    return pa.table(columns)
