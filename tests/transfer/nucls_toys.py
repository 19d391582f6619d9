"""A NuCLS folder written by hand from the published layout: dark discs on pink, in windows smaller than their images."""

import csv

import numpy as np
from PIL import Image

from transfer.tasks.nucls import load_nucls
from transfer.tasks.schema import read_task

COLUMNS = (
    "", "raw_classification", "main_classification", "super_classification", "type", "xmin", "ymin", "xmax", "ymax",
    "coords_x", "coords_y",
)  # fmt: skip
CLASSES = {
    "tumor": ("tumor_nonMitotic", "tumor_any", (70, 30, 110)),
    "lymphocyte": ("lymphocyte", "sTIL", (20, 20, 60)),
    "unlabeled": ("AMBIGUOUS", "AMBIGUOUS", (110, 80, 120)),
}
SIDE, RIM = 96, 8
SLIDES = ("TCGA-A1-A0SP-DX1", "TCGA-A2-A0SX-DX1", "TCGA-BH-A0B1-DX1")


def write_rows(path, rows, columns=COLUMNS):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def row(raw, box, main=None, shape="rectangle", number=0):
    main = CLASSES.get(raw, ("", ""))[0] if main is None else main
    return [number, raw, main, "", shape, *box, "", ""]


def field_name(slide, number):
    return f"{slide}_id-{number:024x}_left-{100 * number}_top-0_bottom-96_right-{100 * number + 96}"


def write_field(root, name, random, images="rgb"):
    """Write one image of 96 px with discs, and their rows; return the row of its window."""
    pixels = np.full((SIDE, SIDE, 3), (235, 170, 205), np.uint8) - random.integers(0, 12, (SIDE, SIDE, 3), np.uint8)
    y, x = np.mgrid[:SIDE, :SIDE]
    rows = []
    for place in random.permutation(9)[:6]:
        raw = list(CLASSES)[random.choice(3, p=(0.45, 0.45, 0.1))]
        radius = int(random.integers(7, 11) if raw == "tumor" else random.integers(4, 7))
        cx, cy = 20 + 28 * (place % 3) + random.integers(-3, 4), 20 + 28 * (place // 3) + random.integers(-3, 4)
        pixels[(x - cx) ** 2 + (y - cy) ** 2 < radius**2] = CLASSES[raw][2]
        rows.append(row(raw, (cx - radius, cy - radius, cx + radius, cy + radius), number=len(rows)))
    (root / images).mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(root / images / f"{name}.png")
    write_rows(root / "csv" / f"{name}.csv", rows)
    return [name, RIM, RIM, SIDE - RIM, SIDE - RIM]


def write_fold(root, number, train, test):
    for part, slides in (("train", train), ("test", test)):
        rows = [[i, slide, slide.split("-")[1], part, number] for i, slide in enumerate(slides)]
        write_rows(
            root / "train_test_splits" / f"fold_{number}_{part}.csv",
            rows,
            ("", "slide_name", "hospital", "type", "fold"),
        )


def write_nucls(root, slides=SLIDES, fields=2, folds=True, images="rgb", table="ALL_FOV_LOCATIONS.csv"):
    """Write a whole folder: `fields` images a slide; fold k tests on slide k."""
    random = np.random.default_rng(3)
    windows = [
        write_field(root, field_name(slide, 10 * s + f), random, images)
        for s, slide in enumerate(slides)
        for f in range(fields)
    ]
    write_rows(
        root / "csv" / table,
        [[i, *window] for i, window in enumerate(windows)],
        ("", "fovname", "xmin", "ymin", "xmax", "ymax"),
    )
    if folds:
        for number, held in enumerate(slides, start=1):
            write_fold(root, number, [slide for slide in slides if slide != held], [held])
    return root


def load_folder(root, classes="super", trials=3, seed=0, **changes):
    """Load a folder as the task of `nucls.yaml`; `changes` are keys of its own."""
    settings = read_task("nucls", "detection", {"classes": classes})
    for name, value in changes.items():
        setattr(settings, name, value)
    return load_nucls(settings, root, trials, seed)
