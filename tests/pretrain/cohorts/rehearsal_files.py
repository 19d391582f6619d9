"""The rehearsal cohort of these tests, and what reads it."""

import csv

import numpy as np
from PIL import Image

from results.files import file_digest

SEED, SLIDES, SIZE = 5, 3, 1024
TISSUE_CODES = {1, 2, 3, 4, 9}


def table(path, delimiter=","):
    with open(path, newline="") as file:
        return list(csv.DictReader(file, delimiter=delimiter))


def digests(root):
    return {str(path.relative_to(root)): file_digest(path) for path in sorted(root.rglob("*")) if path.is_file()}


def pixels(path):
    return np.asarray(Image.open(path))


def slide_names(cohort):
    return [row["slide"] for row in table(cohort / "cohort.csv")]
