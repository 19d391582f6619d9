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
        here = scene.tissue_at(block)
        grain[at] = scene.fields["grain"](block)
        for index in np.unique(here[here < len(scene.tissues)]):
            is_here = here == index
            parts = scene.tissues[index].background(block, scene.fields)
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
        light = np.broadcast_to(stain.light, (block.height, block.width, 3))
        if amounts[0][at].any():
            density = np.zeros(light.shape, np.float32)
            defocus = np.clip(0.5 + 0.6 * scene.focus(block), 0, 1)
            for k, thickness in enumerate(scene.thickness):
                amount = amounts[k][at] + defocus * (softer[k][at] - amounts[k][at])
                amount *= np.exp(stain.drift[k] * thickness(block) - stain.drift[k] ** 2 / 2)
                density += amount[..., None] * stain.vectors[k]
            light = light * (stain.flare + (1 - stain.flare) * np.exp(-density))
        light = light * _beside(scene, block)
        light += stain.noise * random.standard_normal(light.shape, np.float32)
        image[at] = np.clip(light + 0.5, 0, 255).astype(np.uint8)
    return image


def _beside(scene: Scene, window: Window) -> Floats:
    """Share of the light, (height, width, 3), that passes what lies beside the tissue: marker, border, rim of the glass."""
    depth = scene.edge_width - window.x
    share = np.ones_like(depth)
    if scene.edge == "black":
        share[depth > 0] = 0.04
    elif scene.edge == "line":
        share[depth > 0] = 0.9
        share[np.abs(depth - 4) < 2.5] = 0.35
    marker = np.clip(scene.pen(window) / 4, 0, 1)
    if not marker.any():
        return np.broadcast_to(share[..., None], (window.height, window.width, 3))
    return share[..., None] * np.exp(-marker[..., None] * scene.pen_density)
