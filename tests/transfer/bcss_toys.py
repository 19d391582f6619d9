"""A BCSS folder written by hand from the published layout: striped, speckled and plain tissue on glass, 0.30 um/px."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from results.settings import load_yaml
from transfer.tasks import bcss

TASKS = Path(bcss.__file__).parent
CODES = {"stripes": 1, "speckle": 2, "plain": 3}
LABELS = (
    "outside_roi", "tumor", "stroma", "lymphocytic_infiltrate", "necrosis_or_debris", "glandular_secretions", "blood",
    "exclude", "metaplasia_NOS", "fat", "plasma_cells", "other_immune_infiltrate", "mucoid_material",
    "normal_acinus_or_duct", "lymphatics", "undetermined", "nerve", "skin_adnexa", "blood_vessel", "angioinvasion",
    "dcis", "other",
)  # fmt: skip
SCALE = 0.84
SLIDES = ("TCGA-A1-A0SP-DX1", "TCGA-A2-A0SX-DX1", "TCGA-OL-A5D6-DX1", "TCGA-BH-A0B1-DX1")


def roi_name(slide, corner=(100, 200), mpp="0.2500"):
    return f"{slide}_xmin{corner[0]}_ymin{corner[1]}_MPP-{mpp}"


def tissue(height, width, seed=0):
    """Image and codes: three vertical zones, their left rim outside of the region."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    zone = np.minimum(3 * x // width, 2)
    light = np.select([zone == 0, zone == 1], [60 * np.sin(y), random.normal(0, 45, (height, width))], 0)
    image = np.clip(np.array((180, 120, 170)) + light[..., None] + random.normal(0, 4, (height, width, 1)), 0, 255)
    codes = np.array(list(CODES.values()), np.uint8)[zone]
    codes[:, : width // 12] = 0
    return image.astype(np.uint8), codes


def write_roi(root, name, image, codes, images="rgbs_colorNormalized"):
    for folder, pixels in ((images, image), ("masks", codes)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        if pixels is not None:
            Image.fromarray(pixels).save(root / folder / f"{name}.png")


def write_table(path, rows, delimiter=","):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter, lineterminator="\n").writerows(rows)


def write_bcss(root, slides=SLIDES, size=(96, 144), images="rgbs_colorNormalized"):
    """Write one region a slide with its bounds and the code table; `size` is (height, width) in px."""
    rows = [("", "xmin", "ymin", "xmax", "ymax", "mask_link")]
    for number, slide in enumerate(slides):
        write_roi(root, roi_name(slide), *tissue(*size, seed=number), images=images)
        rows.append((slide, 100, 200, 100 + round(size[1] / SCALE), 200 + round(size[0] / SCALE), "-"))
    write_table(root / "meta" / "roiBounds.csv", rows)
    write_table(
        root / "meta" / "gtruth_codes.tsv", [("label", "GT_code"), *((n, i) for i, n in enumerate(LABELS))], "\t"
    )
    return root


def load_folder(root, cache=None, trials=3, **changes):
    """Load a folder as the task of `bcss.yaml`; `changes` are keys of its own."""
    settings = bcss.BcssSettings(**{**load_yaml(TASKS / "bcss.yaml"), **changes})
    return bcss.load(settings, root, trials, cache or root / "cache")
