"""From slides to the cohort: what is common, what is odd beside it, and who the slides come from."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

BLURRED = 0.25
"""A slide is marked where the median focus of its tiles is below this share of the cohort's median slide."""
BLURRED_TILE, BLURRED_TILES = 0.1, 0.25
"""And where more than the second share of its tiles are below the first share of that."""
OUTLIER_SLIDES = 3
"""Fewest slides that can be compared with each other."""
INK_MM2, INK_SHARE = 0.1, 0.02
"""Ink is marked from this area on, or from this share of the tissue's area on: strokes of a pen cover square millimetres, dust does not."""
OTHER_MPP = 0.2
"""um/px this share away from the cohort's median is marked."""
CONTRADICTS = 0.05
"""So is um/px this share away from what the slide itself states."""
OBJECTIVE = (7.0, 15.0)
"""um/px times objective power of a scanner: 40x at 0.25 and 20x at 0.5 give 10."""
FLAT_PX = 2**26
"""px above which a slide without a pyramid is marked."""
FEW_TILES = 10
WORDS = {
    "focus": "focus", "ink": "ink", "resolution": "um/px", "few": "few tiles", "copy": "copy", "unread": "not read again",
}  # fmt: skip


def relative_focus(slides: Sequence[Mapping[str, Any]]) -> None:
    """Give every slide `focus_median`, `focus_relative` (to the median of the slides' medians) and `focus_low` (share of its low tiles)."""
    medians = [float(np.median(slide["focus"])) for slide in slides if slide["focus"]]
    common = float(np.median(medians)) if medians else 0.0
    for slide in slides:
        values = np.array(slide["focus"])
        known = bool(len(values)) and common > 0
        slide["focus_median"] = round(float(np.median(values)), 3) if len(values) else None
        slide["focus_relative"] = round(float(np.median(values)) / common, 4) if known else None
        slide["focus_low"] = round(float((values < BLURRED_TILE * common).mean()), 4) if known else None


def mark(slides: Sequence[dict[str, Any]]) -> None:
    """Give every slide `warnings`, a list of [kind, sentence]; kinds are the keys of `WORDS`."""
    measured = [slide for slide in slides if slide["status"] != "failed"]
    relative_focus(measured)
    known = [slide["mpp"] for slide in measured if slide["mpp"]]
    common = float(np.median(known)) if len(known) >= OUTLIER_SLIDES else None
    copies: dict[str, list[str]] = defaultdict(list)
    for slide in measured:
        if slide["slide_digest"]:
            copies[slide["slide_digest"]].append(slide["slide"])
    for slide in slides:
        if slide["status"] == "failed":
            slide["warnings"] = []
            continue
        others = [name for name in copies.get(slide["slide_digest"], []) if name != slide["slide"]]
        slide["warnings"] = [
            *_focus(slide, len(measured)),
            *_ink(slide),
            *_resolution(slide, common),
            *([["copy", f"the same file as {', '.join(others[:3])}"]] if others else []),
            *(
                [["few", f"{slide['tiles']} tiles{': ' + slide['reason'] if slide['reason'] else ''}"]]
                if slide["tiles"] < FEW_TILES
                else []
            ),
            *([["unread", slide["problem"]]] if slide["problem"] else []),
        ]


def _focus(slide: Mapping[str, Any], count: int) -> list[list[str]]:
    if slide["focus_relative"] is None or count < OUTLIER_SLIDES:
        return []
    if slide["focus_relative"] < BLURRED:
        return [
            [
                "focus",
                f"median focus {slide['focus_relative']:.0%} of the cohort's: blurred, or tissue with little detail",
            ]
        ]
    if slide["focus_low"] > BLURRED_TILES:
        return [
            [
                "focus",
                f"{slide['focus_low']:.0%} of the tiles below {BLURRED_TILE:.0%} of the cohort's focus: blurred in parts",
            ]
        ]
    return []


def _ink(slide: Mapping[str, Any]) -> list[list[str]]:
    least = min(INK_MM2, INK_SHARE * (slide["tissue_mm2"] or 0)) or INK_MM2
    found = {colour: area for colour, area in slide["ink_mm2"].items() if area >= least}
    words = {"black": "black marks (pen, folds or pigment)"}
    return [["ink", f"{words.get(colour, f'{colour} ink')} on {area:.2f} mm2"] for colour, area in found.items()]


def _resolution(slide: Mapping[str, Any], common: float | None) -> list[list[str]]:
    mpp, stated = slide["mpp"], slide["stated"]
    if not mpp:
        return []
    text = []
    if common and abs(mpp / common - 1) > OTHER_MPP:
        text.append(f"{mpp:.4g} um/px, the cohort's median is {common:.4g}")
    own = [value for value in (stated.get("mpp_x"), stated.get("mpp_y")) if value]
    if slide["mpp_source"] != "slide" and own and abs(np.mean(own) / mpp - 1) > CONTRADICTS:
        text.append(f"{mpp:.4g} um/px by the {slide['mpp_source']}, but the slide states {np.mean(own):.4g}")
    power = stated.get("objective")
    if power and not OBJECTIVE[0] <= power * mpp <= OBJECTIVE[1]:
        text.append(f"a {power:g}x objective does not go with {mpp:.4g} um/px")
    if stated.get("levels") == 1 and slide["size"] and slide["size"][0] * slide["size"][1] > FLAT_PX:
        text.append("no pyramid, so it is slow to read")
    return [["resolution", words] for words in text]


def by_group(slides: Sequence[Mapping[str, Any]], key: str) -> list[dict[str, Any]]:
    """Slides, failed slides, patients, tiles, mm2 of tissue and median relative focus of every hospital or patient; "" is unknown."""
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for slide in slides:
        groups[slide[key]].append(slide)
    rows = []
    for name, members in sorted(groups.items()):
        focus = [slide["focus_relative"] for slide in members if slide.get("focus_relative") is not None]
        rows.append(
            {
                "name": name,
                "slides": len(members),
                "failed": sum(slide["status"] == "failed" for slide in members),
                "patients": len({slide["patient"] for slide in members} - {""}),
                "tiles": sum(slide["tiles"] for slide in members),
                "tissue_mm2": round(sum(slide["tissue_mm2"] or 0 for slide in members), 3),
                "focus_relative": round(float(np.median(focus)), 4) if focus else None,
            }
        )
    return rows
