"""Where the tissue is, on a low-power picture of an H&E slide."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage


@dataclass(frozen=True)
class TissueRule:
    """Parameters of `tissue_mask`; they are stored with the tiles and part of the store's name.

    Optical density (OD) is -log10(value / glass) per channel; lengths are um and areas um2 on the slide.

    Attributes:
        version: raised when the rule below changes.
        glass_min: a 3 x 3 px square this bright in its darkest channel may be glass, 0 to 255.
        glass_chroma: if its channels differ by no more than this.
        glass_spread: and if this is the most that such squares next to each other vary (standard deviation); tissue is rougher.
        glass_default: brightness of glass where under 1 % of the picture may be glass.
        chroma_floor: OD chroma below which nothing is tissue, whatever Otsu says: an empty slide has none.
        chroma_cap: OD chroma above which everything stained is tissue: a slide full of tissue keeps its pale half.
        black: a pixel whose brightest channel is below this is scanner border or marker, never tissue.
        neutral: chroma / largest OD below which a pixel is grey or black: edge, shadow, dust, black marker.
        cool: OD red / OD green above which a pixel is blue, cyan or green ink; on real H&E patches it is 0.2 to 0.8.
        warm: OD blue / OD green above which a pixel is yellow: glue, mounting medium, marker.
        red_blue, red_red, red_od: red ink has OD blue / OD green above the first, OD red / OD green below the second and OD
            green above the third; eosin and blood have less blue.
        ratio_slack: OD added to the `cool` and `warm` limits, since ratios of near-zero densities are noise.
        ink_od: largest OD below which a pixel that is not stain is shade or dust, not ink.
        ink_area: connected ink or black below this area is a speck that holes may close over.
        ink_margin: this much around larger ink or black is left out too, for its blurred edge.
        close: gaps up to twice this length are closed, so that fat keeps its thin walls.
        hole_area: enclosed holes up to this area are tissue (fat cells, small lumina).
        open: bars thinner than twice this length are dropped: cover-slip edges, hairs.
        object_area: smaller objects are dropped: dust, debris.
        object_share: but an object that covers this share of the picture stays: the slide is then a small cut-out.
    """

    version: int = 1
    glass_min: int = 190
    glass_chroma: int = 20
    glass_spread: float = 1.5
    glass_default: int = 245
    chroma_floor: float = 0.02
    chroma_cap: float = 0.03
    black: int = 50
    neutral: float = 0.2
    cool: float = 1.1
    warm: float = 1.5
    red_blue: float = 0.85
    red_red: float = 0.35
    red_od: float = 0.35
    ratio_slack: float = 0.02
    ink_od: float = 0.05
    ink_area: float = 5e3
    ink_margin: float = 16.0
    close: float = 24.0
    hole_area: float = 2e4
    open: float = 8.0
    object_area: float = 2e4
    object_share: float = 0.1


RULE = TissueRule()


def tissue_mask(image: np.ndarray, mpp: float, rule: TissueRule = RULE) -> np.ndarray:
    """Find the tissue of an H&E slide.

    The rule: glass is the median colour of bright, neutral, even pixels; OD chroma (largest minus smallest OD of the channels)
    separates stain from glass at Otsu's threshold, held between a floor and a cap. Black, neutral, and ink-coloured pixels
    are taken out first. Both H&E stains absorb green most, which tells them from blue, green, yellow and red ink. Gaps are
    closed, small holes filled, thin bars and small objects dropped.

    Args:
        image: (h, w, 3) uint8 low-power picture.
        mpp: its um/px, about 8.
        rule: the parameters.

    Returns:
        (h, w) bool.
    """
    density = optical_density(image, glass_colour(image, rule))
    chroma = density.max(axis=2) - density.min(axis=2)
    excluded = _not_stain(image, density, chroma, rule)
    threshold = float(np.clip(otsu(chroma[~excluded]), rule.chroma_floor, rule.chroma_cap))
    mask = (chroma > threshold) & ~excluded

    pixel = mpp * mpp
    ink = _without_small(excluded & (density.max(axis=2) > rule.ink_od), rule.ink_area / pixel)
    ink = ndimage.distance_transform_edt(~ink) * mpp <= rule.ink_margin if ink.any() else ink
    mask &= ~ink
    mask = _close(mask, rule.close / mpp)
    holes = ndimage.binary_fill_holes(mask) & ~mask
    mask |= holes & ~_without_small(holes, rule.hole_area / pixel)
    mask &= ~ink
    mask = _open(mask, rule.open / mpp)
    return _without_small(mask, min(rule.object_area / pixel, rule.object_share * mask.size))


def ink_areas(image: np.ndarray, mpp: float, rule: TissueRule = RULE) -> dict[str, float]:
    """Return mm2 of what the rule takes for ink: `blue or green`, `yellow`, `red`, and `black` marks that touch no edge.

    Specks below `ink_area` do not count. A black mark may be pen, a fold or pigment.

    Args:
        image: (h, w, 3) uint8 low-power picture; mpp: its um/px, about 8.
        rule: the parameters.
    """
    density = optical_density(image, glass_colour(image, rule))
    chroma = density.max(axis=2) - density.min(axis=2)
    inked = ~_grey(image, density, chroma, rule) & (density.max(axis=2) > rule.ink_od)
    cool, warm, red_ink = _ink_colours(density, rule)
    parts = {"blue or green": inked & cool, "yellow": inked & warm & ~cool, "red": inked & red_ink & ~cool & ~warm}
    parts["black"] = _inside(image.max(axis=2) < rule.black)
    pixel = mpp * mpp
    return {
        name: float(_without_small(part, rule.ink_area / pixel).sum() * pixel / 1e6) for name, part in parts.items()
    }


def glass_colour(image: np.ndarray, rule: TissueRule = RULE) -> np.ndarray:
    """Return the (3,) float colour of empty glass: the median where it is bright, neutral and even, else a default."""
    smooth = ndimage.uniform_filter(image.astype(np.float32), (3, 3, 1))
    darkest = smooth.min(axis=2)
    flat = ndimage.uniform_filter(darkest**2, 3) - ndimage.uniform_filter(darkest, 3) ** 2 <= rule.glass_spread**2
    glass = smooth[(darkest >= rule.glass_min) & (smooth.max(axis=2) - darkest <= rule.glass_chroma) & flat]
    if len(glass) < 0.01 * darkest.size:
        return np.full(3, float(rule.glass_default))
    return np.maximum(np.median(glass, axis=0), 225.0)


def optical_density(image: np.ndarray, glass: np.ndarray) -> np.ndarray:
    """Return the (h, w, 3) float32 optical density of a uint8 picture, 0 where it is brighter than glass."""
    tables = -np.log10((np.arange(256)[:, None] + 1) / (glass[None, :] + 1))
    tables = np.maximum(tables, 0).astype(np.float32)
    return np.stack([tables[:, i][image[:, :, i]] for i in range(3)], axis=2)


def otsu(values: np.ndarray) -> float:
    """Return the threshold that parts `values` into two classes of largest between-class variance; 0 for no values."""
    if values.size == 0 or values.min() == values.max():
        return 0.0
    counts, edges = np.histogram(values, bins=256)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1].astype(np.float64)
    above = values.size - below
    sums = np.cumsum(counts * centres)
    mean_below = sums[:-1] / np.maximum(below, 1)
    mean_above = (sums[-1] - sums[:-1]) / np.maximum(above, 1)
    return float(edges[1:-1][np.argmax(below * above * (mean_below - mean_above) ** 2)])


def _not_stain(image: np.ndarray, density: np.ndarray, chroma: np.ndarray, rule: TissueRule) -> np.ndarray:
    cool, warm, red_ink = _ink_colours(density, rule)
    return _grey(image, density, chroma, rule) | cool | warm | red_ink


def _grey(image: np.ndarray, density: np.ndarray, chroma: np.ndarray, rule: TissueRule) -> np.ndarray:
    return (image.max(axis=2) < rule.black) | (chroma < rule.neutral * density.max(axis=2))


def _ink_colours(density: np.ndarray, rule: TissueRule) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    red, green, blue = np.moveaxis(density, 2, 0)
    cool = red > rule.cool * green + rule.ratio_slack
    warm = blue > rule.warm * green + rule.ratio_slack
    return cool, warm, (green > rule.red_od) & (blue > rule.red_blue * green) & (red < rule.red_red * green)


def _close(mask: np.ndarray, radius: float) -> np.ndarray:
    """Close gaps with a disc, as if the outside of the picture went on like its edge."""
    pad = int(np.ceil(radius)) + 1
    padded = np.pad(mask, pad, mode="edge")
    if not padded.any():
        return mask
    grown = ndimage.distance_transform_edt(~padded) <= radius
    if not grown.all():
        grown = ndimage.distance_transform_edt(grown) > radius
    return (grown | padded)[pad:-pad, pad:-pad]


def _open(mask: np.ndarray, radius: float) -> np.ndarray:
    """Drop what a disc does not fit into, as if the outside of the picture went on like its edge."""
    return ~_close(~mask, radius)


def _inside(mask: np.ndarray) -> np.ndarray:
    """Drop connected parts that touch the edge of the picture."""
    parts, count = ndimage.label(mask, structure=np.ones((3, 3)))
    keep = np.ones(count + 1, dtype=bool)
    keep[np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])] = False
    keep[0] = False
    return keep[parts]


def _without_small(mask: np.ndarray, pixels: float) -> np.ndarray:
    """Drop connected parts (8 neighbours) of fewer than `pixels` pixels."""
    parts, count = ndimage.label(mask, structure=np.ones((3, 3)))
    if not count:
        return mask
    keep = np.bincount(parts.ravel()) >= pixels
    keep[0] = False
    return keep[parts]
