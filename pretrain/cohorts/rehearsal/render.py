"""A window of a scene as pixels: stain amounts, then light through them."""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from pretrain.cohorts.rehearsal.fields import Floats, Window, generator
from pretrain.cohorts.rehearsal.nuclei import draw
from pretrain.cohorts.rehearsal.scene import Scene

BLOCK = 256
"""Side in px of the blocks a window is worked on in."""


def stains(scene: Scene, window: Window) -> tuple[Floats, Floats]:
    """Return the amounts of haematoxylin and eosin at a window, (height, width) each, before slide-wide drift."""
    haematoxylin = np.zeros((window.height, window.width), np.float32)
    eosin, grain = np.zeros_like(haematoxylin), np.zeros_like(haematoxylin)
    for at, block in window.blocks(BLOCK):
        here = scene.layout.tissue_at(block)
        grain[at] = scene.fields["grain"](block)
        for index in np.unique(here[here < len(scene.layout.tissues)]):
            is_here = here == index
            parts = scene.layout.tissues[index].background(block, scene.fields)
            for amount, part in zip((haematoxylin, eosin), parts, strict=True):
                amount[at][is_here] = np.broadcast_to(part, is_here.shape)[is_here]
    draw(scene.nuclei, window, haematoxylin, eosin, grain)
    return np.clip(haematoxylin, 0, None), np.clip(eosin, 0, None)


def render(scene: Scene, window: Window) -> NDArray[np.uint8]:
    """Return a window as RGB, uint8 (height, width, 3): the same scene at whatever um/px the window asks for."""
    stain = scene.stain
    random = generator(scene.seed, scene.slide, "noise", window)
    amounts = [gaussian_filter(amount, stain.blur / window.mpp, truncate=3.0) for amount in stains(scene, window)]
    softer = [gaussian_filter(amount, stain.defocus / window.mpp, truncate=3.0) for amount in amounts]
    image = np.empty((window.height, window.width, 3), np.uint8)
    for at, block in window.blocks(BLOCK):
        density = _marker(scene, block)
        if amounts[0][at].any():
            defocus = np.clip(0.5 + 0.6 * scene.focus(block), 0, 1)
            for k, thickness in enumerate(scene.thickness):
                amount = amounts[k][at] + defocus * (softer[k][at] - amounts[k][at])
                amount *= np.exp(stain.drift[k] * thickness(block) - stain.drift[k] ** 2 / 2)
                density = density + stain.vectors[k][:, None, None] * amount
        light = stain.light[:, None, None] * (stain.flare + (1 - stain.flare) * np.exp(-density)) * _edge(scene, block)
        light = light + stain.noise * random.standard_normal((3, block.height, block.width), np.float32)
        image[at] = np.clip(light + 0.5, 0, 255).astype(np.uint8).transpose(1, 2, 0)
    return image


def _marker(scene: Scene, window: Window) -> Floats:
    """Optical density of the marker, (3, height, width), or (3, 1, 1) where there is none."""
    depth = np.clip(scene.layout.pen(window) / 4, 0, 1)
    return scene.layout.pen_density[:, None, None] * (depth if depth.any() else np.zeros((1, 1), np.float32))


def _edge(scene: Scene, window: Window) -> Floats:
    """Share of the light, (1, width), beside the tissue: none beyond a black border, less beyond the rim of the glass."""
    depth = scene.layout.edge_width - window.x
    share = np.ones_like(depth)
    if scene.layout.edge == "black":
        share[depth > 0] = 0.04
    elif scene.layout.edge == "line":
        share[depth > 0] = 0.9
        share[np.abs(depth - 4) < 2.5] = 0.35
    return share
