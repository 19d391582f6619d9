"""One label a tile, from a slide's code mask or from the outlines of its lesions."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from pretrain.annotations import Annotation, LesionRule, lesion_shares
from pretrain.tiling.grid import area_shares
from results.errors import UserError

ASPECT = 0.02
"""Largest relative difference of shape between a mask and its slide, beside one pixel of rounding."""


@dataclass(frozen=True)
class Codes:
    """What a cohort's annotations mean.

    For code masks: tissue code -> label, and the codes that are background or to be ignored; for outlines of lesions: the rule.
    """

    tissue: dict[int, str] = field(default_factory=dict)
    background: frozenset[int] = frozenset()
    ignore: frozenset[int] = frozenset()
    lesion: LesionRule | None = None


def read_mask(path: Path, size: tuple[int, int], codes: Codes) -> np.ndarray:
    """Read a code mask as (h, w) uint8.

    Args:
        path: 8-bit PNG, grey or palette, of any scale.
        size: (width, height) of the slide, whose shape the mask must have.
        codes: every code of the mask must be known here.

    Raises:
        UserError: the file is missing, not such a PNG, of another shape than the slide, or holds an unknown code.
    """
    if not path.is_file():
        raise UserError(f"mask {path} is not there.")
    try:
        with Image.open(path) as image:
            if image.mode not in ("L", "P", "1"):
                raise UserError(f"mask {path.name} has mode {image.mode}: write one 8-bit channel of codes.")
            mask = np.asarray(image).astype(np.uint8)
    except Image.DecompressionBombError as error:
        raise UserError(f"mask {path.name} is too large to read at once: write it at a coarser scale.") from error
    except (OSError, SyntaxError) as error:
        raise UserError(f"mask {path.name} cannot be read as an image ({error}).") from error
    height, width = mask.shape
    expected = height * size[0] / size[1]
    if abs(width - expected) > max(1 + size[0] / size[1], ASPECT * expected):
        raise UserError(
            f"mask {path.name} of {width} x {height} px does not have the shape of its slide of {size[0]} x {size[1]} px: "
            "it must cover the whole slide."
        )
    known = set(codes.tissue) | codes.background | codes.ignore
    unknown = sorted(set(np.flatnonzero(np.bincount(mask.ravel(), minlength=256)).tolist()) - known)
    if unknown:
        raise UserError(f"mask {path.name} holds the code {unknown[0]}, which labels.csv does not list.")
    return mask


def mask_labels(
    mask: np.ndarray, codes: Codes, size: tuple[int, int], origins: np.ndarray, step: float
) -> tuple[list[str], np.ndarray]:
    """Label tiles by the largest area of the code mask under them; codes that share a label count together.

    Args:
        mask: (h, w) uint8 codes over the whole slide.
        codes: their meaning.
        size: slide (width, height) in level-0 px.
        origins: (N, 2) level-0 px of the tiles' top left corners.
        step: side of a tile in level-0 px.

    Returns:
        N labels, empty where background or ignore has the largest area, and (N,) float32 shares of the tile's area, 0 there.
        On equal areas tissue wins, then the label that sorts first.
    """
    names = sorted(set(codes.tissue.values()))
    groups = [[code for code, label in codes.tissue.items() if label == name] for name in names]
    groups += [[code] for code in sorted(codes.background | codes.ignore)]
    shares = np.zeros((len(origins), len(groups)), dtype=np.float32)
    for column, group in enumerate(groups):
        part = np.isin(mask, group)
        if part.any():
            shares[:, column] = area_shares(part, size, origins, step)
    if not groups:
        return [""] * len(origins), np.zeros(len(origins), dtype=np.float32)
    best = shares.argmax(axis=1)
    labels = [names[i] if i < len(names) else "" for i in best]
    share = np.where(best < len(names), shares.max(axis=1), 0).astype(np.float32)
    return labels, share


def lesion_labels(
    annotation: Annotation | None, rule: LesionRule, tissue_label: str, cells: np.ndarray, step: float, tile: int
) -> tuple[list[str], np.ndarray]:
    """Label tiles by outlines of lesions.

    Args:
        annotation: the outlines; None on a slide without lesions.
        rule: when a tile has the label of the lesion.
        tissue_label: label of every other tile, empty where that is not known.
        cells: (N, 2) grid coordinates x, y.
        step: side of a cell in level-0 px.
        tile: side of a stored tile in px.

    Returns:
        N labels, and (N,) float32 shares of the tile's area that has the label: lesion, or everything but lesion; 0 without label.
    """
    share, whole, middle = np.zeros(len(cells), dtype=np.float32), *np.zeros((2, len(cells)), dtype=bool)
    if annotation is not None:
        share, whole, middle = lesion_shares(annotation, cells, step, tile, rule.centre)
    lesion = {"centre": middle, "any": whole, "share": share >= rule.min_share}[rule.rule]
    labels = [rule.label if found else tissue_label for found in lesion.tolist()]
    rest = 1 - share if tissue_label else np.zeros_like(share)
    return labels, np.where(lesion, share, rest).astype(np.float32)
