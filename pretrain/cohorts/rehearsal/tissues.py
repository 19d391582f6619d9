"""What each tissue is made of: its background in haematoxylin and eosin, and the nuclei it holds.

Amounts are optical densities (natural logarithm). The means over a tissue are kept alike on purpose (a tissue with many
nuclei gets a paler background), so that colour says little and structure says all.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretrain.cohorts.rehearsal.fields import Cells, Floats, Noise, Place, Points, generator

Fields = Mapping[str, Any]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Kind:
    """A kind of nucleus, under its raw NuCLS name.

    Lengths in um: `size` is the half long axis. `slim` is the range of short axis / long axis, `lobes` the depth of
    three bays in the outline, `ink` the haematoxylin, `grain` the contrast of the chromatin, `rim` the extra ink at the
    membrane, `soft` the width of the edge.
    """

    name: str
    size: float
    spread: float
    slim: tuple[float, float]
    ink: float
    lobes: float = 0.04
    grain: float = 0.15
    rim: float = 0.0
    soft: float = 0.6


KINDS = (
    Kind("tumor", 5.0, 0.2, (0.6, 0.95), 0.75, lobes=0.08, grain=0.3, rim=0.5),
    Kind("mitotic_figure", 4.6, 0.1, (0.25, 0.5), 1.7, lobes=0.25, grain=0.1),
    Kind("fibroblast", 8.0, 0.2, (0.18, 0.28), 1.15),
    Kind("vascular_endothelium", 6.5, 0.2, (0.25, 0.35), 1.1),
    Kind("lymphocyte", 2.8, 0.08, (0.88, 1.0), 1.15, lobes=0.02, grain=0.25),
    Kind("plasma_cell", 3.2, 0.1, (0.75, 0.95), 1.05, lobes=0.02, grain=0.35),
    Kind("macrophage", 4.6, 0.15, (0.55, 0.75), 0.7, lobes=0.12, rim=0.3),
    Kind("neutrophil", 2.9, 0.1, (0.7, 1.0), 1.35, lobes=0.38),
    Kind("apoptotic_body", 1.5, 0.3, (0.8, 1.0), 1.7, grain=0.05),
    Kind("unlabeled", 4.8, 0.15, (0.7, 1.0), 0.42, grain=0.1, rim=0.5, soft=1.5),
    Kind("ductal_epithelium", 4.2, 0.1, (0.5, 0.65), 0.95, grain=0.25, rim=0.2),
)
KIND_INDEX = {kind.name: index for index, kind in enumerate(KINDS)}


def fields(seed: int, slide: str) -> dict[str, Any]:
    """Return the random fields that the tissues of one slide share, under the names used below."""
    random = generator(seed, slide, "fields")
    scales = {"grain": 1.1, "granule": 2.2, "cell": 9.0, "wave": 38.0, "nest": 34.0}
    found: dict[str, Any] = {name: Noise(random, scale, nodes=128) for name, scale in scales.items()}
    found |= {"fat": Cells(random, 19.0), "gland": Cells(random, 42.0), "direction": random.uniform(0, np.pi)}
    return found


def _fibres(place: Place, fields: Fields, width: float = 6.5, wave: float = 1.0) -> Floats:
    """Running number of the fibre, `width` um each, at a place."""
    across = place.x * np.float32(np.cos(fields["direction"])) + place.y * np.float32(np.sin(fields["direction"]))
    return across / np.float32(width) + np.float32(wave) * fields["wave"](place)


def _tumour(place: Place, fields: Fields) -> tuple[Floats, Floats]:
    nest = np.clip(np.abs(fields["nest"](place)) * 7 - 0.4, 0, 1)
    cell = fields["cell"](place)
    return 0.16 + 0.06 * nest + 0.03 * cell, 0.3 + 0.24 * nest + 0.06 * cell


def _stroma(place: Place, fields: Fields) -> tuple[Floats, Floats]:
    wave = np.sin(np.float32(2 * np.pi) * _fibres(place, fields) + 0.7 * fields["cell"](place))
    return 0.24 + 0.12 * wave, 0.42 + 0.26 * wave + 0.06 * fields["granule"](place)


def _inflammatory(place: Place, fields: Fields) -> tuple[Floats, Floats]:
    cell = fields["cell"](place)
    return 0.08 + 0.02 * cell, 0.52 + 0.06 * cell


def _necrosis(place: Place, fields: Fields) -> tuple[Floats, Floats]:
    grain, granule = fields["grain"](place), fields["granule"](place)
    return 0.27 + 0.12 * np.clip(granule, -1, 3) + 0.1 * grain, 0.44 + 0.14 * granule + 0.12 * grain


def _wall(place: Place, fields: Fields) -> Floats:
    """Difference of the distances to the two fat cells nearest to a place, in um: 0 in the middle of a wall."""
    near, second = fields["fat"](place)
    return second - near


def _fat(place: Place, fields: Fields) -> tuple[Floats, Floats]:
    near, second = fields["fat"](place)
    wall = np.exp(-np.square((second - near) / 2.6)) + 0.4 * np.clip((near - 8.0) / 4.0, 0, 1)
    cell = fields["cell"](place)
    return 0.25 + 0.4 * wall + 0.03 * cell, 0.22 + 0.55 * wall + 0.06 * cell


def _mucin(place: Place, fields: Fields) -> tuple[Floats, Floats]:
    wave = np.sin(np.float32(2 * np.pi) * _fibres(place, fields, width=24.0, wave=1.8))
    return 0.28 + 0.1 * wave + 0.03 * fields["granule"](place), 0.16 + 0.04 * wave


def _muscle(place: Place, fields: Fields) -> tuple[Floats, Floats]:
    phase = _fibres(place, fields, width=11.0, wave=0.25)
    return 0.16 + 0.02 * fields["granule"](place), 0.62 + 0.2 * np.abs(np.sin(np.float32(np.pi) * phase))


def _gland(place: Place, fields: Fields) -> tuple[Floats, Floats]:
    near, _ = fields["gland"](place)
    wall = np.clip((near - 6.0) / 1.5, 0, 1)
    return 0.04 + 0.14 * wall, 0.05 + 0.4 * wall + 0.05 * fields["cell"](place)


def _everywhere(place: Place, fields: Fields) -> Bools:
    return np.ones(place.x.shape, bool)


def _in_nests(place: Place, fields: Fields) -> Bools:
    return np.abs(fields["nest"](place)) > 0.12


def _in_walls(place: Place, fields: Fields) -> Bools:
    return _wall(place, fields) < 2


def _in_rings(place: Place, fields: Fields) -> Bools:
    near, _ = fields["gland"](place)
    return (near > 11) & (near < 16)


@dataclass(frozen=True)
class Tissue:
    """One tissue of BCSS code `code`.

    `spacing` is the distance of its nuclei in um and `mix` their shares by raw name; `background` gives haematoxylin and
    eosin without nuclei; nuclei lie where `holds` is true, and along the lines on which `along` is constant.
    """

    name: str
    code: int
    spacing: float
    mix: Mapping[str, float]
    background: Callable[[Place, Fields], tuple[Floats, Floats]]
    holds: Callable[[Place, Fields], Bools] = _everywhere
    along: Callable[[Place, Fields], Floats] | None = None


TISSUES = (
    Tissue(
        "tumour", 1, 11.5,
        {"tumor": 0.93, "mitotic_figure": 0.03, "apoptotic_body": 0.02, "lymphocyte": 0.02}, _tumour, _in_nests,
    ),
    Tissue(
        "stroma", 2, 15.0,
        {"fibroblast": 0.82, "vascular_endothelium": 0.08, "lymphocyte": 0.04, "macrophage": 0.03, "plasma_cell": 0.03},
        _stroma, along=_fibres,
    ),
    Tissue(
        "inflammatory", 3, 7.4,
        {"lymphocyte": 0.76, "plasma_cell": 0.17, "macrophage": 0.03, "neutrophil": 0.04}, _inflammatory,
    ),
    Tissue(
        "necrosis", 4, 9.0,
        {"apoptotic_body": 0.62, "unlabeled": 0.25, "neutrophil": 0.13}, _necrosis,
    ),
    Tissue(
        "fat", 9, 9.0,
        {"fibroblast": 0.6, "macrophage": 0.25, "vascular_endothelium": 0.15}, _fat, _in_walls, _wall,
    ),
)  # fmt: skip
"""The five tissues of a slide; `code` is the BCSS code."""

VARIANTS = (
    Tissue("mucin", 12, 30.0, {"macrophage": 0.6, "tumor": 0.4}, _mucin),
    Tissue("muscle", 2, 17.0, {"fibroblast": 1.0}, _muscle, along=_fibres),
    Tissue("gland", 13, 6.5, {"ductal_epithelium": 1.0}, _gland, _in_rings),
)
"""Tissues that only fill the classes MUC, MUS and NORM of NCT-CRC-HE."""


def angle_along(tissue: Tissue, place: Points, fields: Fields) -> Floats:
    """Return the direction in radians, shape (N,), in which the long nuclei of a tissue lie: along its fibres or walls."""
    step = np.float32(1.0)
    here = tissue.along(place, fields)
    right = tissue.along(Points(place.x + step, place.y), fields)
    below = tissue.along(Points(place.x, place.y + step), fields)
    return np.arctan2(below - here, right - here) + np.float32(np.pi / 2)
