"""A scene: everything that is true of one synthetic slide, in um and without pixels."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretrain.cohorts.rehearsal import layout as layouts
from pretrain.cohorts.rehearsal import nuclei as cells
from pretrain.cohorts.rehearsal.fields import Floats, Noise, Points, generator
from pretrain.cohorts.rehearsal.layout import Layout
from pretrain.cohorts.rehearsal.tissues import Tissue, fields

RIM = 6.0
"""No centre of a nucleus lies closer than this to the rim of the section (um)."""


@dataclass(frozen=True)
class Stain:
    """How one slide was stained and scanned.

    `vectors` (2, 3): optical density in R, G, B of one unit of haematoxylin and of eosin; `light` (3,): the colour of
    empty glass, 0-255; `flare`: the share of stray light; `blur` everywhere and `defocus` in the patches out of focus, in
    um, and `noise` in grey levels (standard deviations); `drift` (2,): how far the amount of each stain wanders over the
    slide (standard deviation of its logarithm).
    """

    vectors: Floats
    light: Floats
    flare: float
    blur: float
    defocus: float
    noise: float
    drift: Floats


@dataclass(frozen=True)
class Scene:
    """One slide: its plan, its nuclei (dtype `nuclei.NUCLEUS`), its stain, and the random fields all of it is made of.

    `thickness` steers the drift of the two stains and `focus` the patches out of focus, both of variance 1. `slide` and `hospital`
    are what random numbers are drawn by; files go by `name`.
    """

    seed: int
    slide: str
    hospital: str
    layout: Layout
    stain: Stain
    fields: Mapping[str, Any]
    thickness: tuple[Noise, Noise]
    focus: Noise
    nuclei: NDArray[np.void]

    @property
    def name(self) -> str:
        """The slide's name, in which the hospital carries the seed."""
        return self.slide.replace(self.hospital, carrying(self.seed, self.hospital))


def carrying(seed: int, hospital: str) -> str:
    """Return the name of a hospital of a cohort; but for seed 0 it carries the seed, so that two cohorts share no hospital, patient or slide."""
    return f"{hospital}S{seed}" if seed else hospital


def compose(seed: int, number: int, slide: str, hospital: str, width: float, height: float) -> Scene:
    """Make the scene of slide `number` (from 0) of a cohort, `width` x `height` um."""
    return _furnished(seed, slide, hospital, layouts.drawn(generator(seed, slide, "layout"), number, width, height))


def filled(like: Scene, tissue: Tissue | None, width: float, height: float) -> Scene:
    """Make a scene of one tissue, or of clean glass, with the stain and the fields of another scene."""
    return _furnished(like.seed, like.slide, like.hospital, layouts.uniform(tissue, width, height))


def _furnished(seed: int, slide: str, hospital: str, layout: Layout) -> Scene:
    random, found = generator(seed, slide, "drift"), fields(seed, slide)
    kept = [np.zeros(0, cells.NUCLEUS)]
    for index, tissue in enumerate(layout.tissues):
        laid = cells.scatter(generator(seed, slide, "nuclei", tissue.name), tissue, found, layout.width, layout.height)
        place = Points(laid["x"], laid["y"])
        kept.append(laid[(layout.tissue_at(place) == index) & (layout.outline(place) > RIM)])
    return Scene(
        seed,
        slide,
        hospital,
        layout,
        stain=_stain(seed, slide, hospital),
        fields=found,
        thickness=(Noise(random, 95.0, nodes=16), Noise(random, 95.0, nodes=16)),
        focus=Noise(random, 110.0, nodes=16),
        nuclei=cells.thin(np.concatenate(kept)),
    )


def _stain(seed: int, slide: str, hospital: str) -> Stain:
    """Draw the stain and the optics of a slide.

    The colours of a slide shift with its hospital and more on its own, which augmentation can undo; sharpness and noise
    are the hospital's scanner, alike on its slides. The mean vectors lie near those of Ruifrok and Johnston (2001) for
    haematoxylin and eosin.
    """
    house, own = generator(seed, "hospital", hospital), generator(seed, slide, "stain")
    vectors = np.array([(0.65, 0.70, 0.29), (0.15, 0.95, 0.25)])
    vectors = np.clip(vectors + house.normal(0, 0.05, (2, 3)) + own.normal(0, 0.1, (2, 3)), 0.03, None)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors *= np.exp(house.normal(0, 0.08, (2, 1)) + own.normal(0, 0.16, (2, 1)))
    light = 242 * (1 - np.abs(house.normal(0, 0.015, 3)) - np.abs(own.normal(0, 0.02, 3)))
    blur = float(house.uniform(0.26, 0.34))
    return Stain(
        vectors.astype(np.float32),
        light.astype(np.float32),
        flare=float(own.uniform(0.0, 0.02)),
        blur=blur,
        defocus=blur + float(own.uniform(0.04, 0.1)),
        noise=float(house.uniform(1.0, 1.4)),
        drift=own.uniform(0.18, 0.24, 2).astype(np.float32),
    )
