"""Two kinds of chart as inline SVG, for a page that needs no script and no library."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#000000")
"""Okabe and Ito (2008): told apart by colour-blind readers."""
WIDTH, HEIGHT = 460, 250
LEFT, RIGHT, TOP, BOTTOM = 48, 10, 54, 38
LEGEND_COLUMNS = 3


def outlines(histogram: Mapping[str, Any], names: Mapping[str, str], title: str, axis: str) -> str:
    """Draw histograms over each other as outlines, each as shares of its own sum.

    Args:
        histogram: `edges` (n + 1) and `counts`, series -> (n).
        names: series -> its words in the legend; series without a count are left out.
    """
    edges = histogram["edges"]
    counts = {name: histogram["counts"][name] for name in names if sum(histogram["counts"].get(name, ()))}
    shares = {name: [count / sum(values) for count in values] for name, values in counts.items()}
    top = max((max(values) for values in shares.values()), default=1.0)
    x = _scale(edges[0], edges[-1], LEFT, WIDTH - RIGHT)
    y = _scale(0, top, HEIGHT - BOTTOM, TOP)
    parts = _frame(title, axis, [(x(v), _tick(v)) for v in _ticks(edges[0], edges[-1])], y, top)
    for place, (series, values) in enumerate(shares.items()):
        points = [(edges[0], 0.0)]
        for left, right, value in zip(edges, edges[1:], values, strict=False):
            points += [(left, value), (right, value)]
        points.append((edges[-1], 0.0))
        colour = COLOURS[list(names).index(series) % len(COLOURS)]
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in points)
        parts.append(f'<polyline points="{path}" fill="{colour}" fill-opacity=".12" stroke="{colour}"/>')
        parts += _legend(place, colour, names[series])
    return _svg(title, parts)


def bars(groups: Sequence[tuple[str, Mapping[str, float], float]], names: Mapping[str, str], title: str) -> str:
    """Draw shares from 0 to 1 as groups of bars, with a dashed line where chance is.

    Args:
        groups: (group name, series -> share, share by chance); a missing series leaves a gap.
        names: series -> its words in the legend.
    """
    y = _scale(0, 1, HEIGHT - BOTTOM, TOP)
    slot = (WIDTH - RIGHT - LEFT) / max(1, len(groups))
    width = 0.8 * slot / max(1, len(names))
    labels, drawn = [], []
    for number, (group, values, chance) in enumerate(groups):
        left = LEFT + slot * number
        labels.append((left + slot / 2, group if len(group) <= slot / 6 else group[: int(slot / 6) - 1] + "…"))
        for place, series in enumerate(names):
            if series in values:
                top = y(values[series])
                drawn.append(
                    f'<rect x="{left + 0.1 * slot + place * width:.1f}" y="{top:.1f}" width="{width:.1f}" '
                    f'height="{HEIGHT - BOTTOM - top:.1f}" fill="{COLOURS[place % len(COLOURS)]}"/>'
                )
        at = y(chance)
        drawn.append(
            f'<line x1="{left + 0.05 * slot:.1f}" x2="{left + 0.95 * slot:.1f}" y1="{at:.1f}" y2="{at:.1f}" '
            'stroke="#000" stroke-width="1.5" stroke-dasharray="4 2"/>'
        )
    parts = _frame(title, "dashed: by chance", labels, y, 1.0) + drawn
    for place, words in enumerate(names.values()):
        parts += _legend(place, COLOURS[place % len(COLOURS)], words)
    return _svg(title, parts)


def _svg(title: str, parts: list[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}"><title>{escape(title)}</title>'
        + "".join(parts)
        + "</svg>"
    )


def _frame(title: str, axis: str, ticks: list[tuple[float, str]], y: Any, top: float) -> list[str]:
    floor = HEIGHT - BOTTOM
    parts = [
        f'<text x="{LEFT}" y="12" font-weight="bold">{escape(title)}</text>',
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(axis)}</text>',
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{floor}" y2="{floor}" stroke="#888"/>',
    ]
    parts += [f'<text x="{x:.1f}" y="{floor + 14}" text-anchor="middle">{escape(text)}</text>' for x, text in ticks]
    for value in _ticks(0, top):
        at = y(value)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 4}" y="{at + 4:.1f}" text-anchor="end">{100 * value:.3g}%</text>')
    return parts


def _legend(place: int, colour: str, words: str) -> list[str]:
    row, column = divmod(place, LEGEND_COLUMNS)
    x, y = LEFT + column * (WIDTH - RIGHT - LEFT) / LEGEND_COLUMNS, 29 + 14 * row
    return [
        f'<rect x="{x:.1f}" y="{y - 8}" width="9" height="9" fill="{colour}"/>',
        f'<text x="{x + 13:.1f}" y="{y}">{escape(words)}</text>',
    ]


def _scale(low: float, high: float, start: float, end: float) -> Any:
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def _ticks(low: float, high: float) -> list[float]:
    """At most six round numbers from low to high."""
    span = (high - low) or 1.0
    step = 10.0 ** len(str(int(span)))
    while span / step < 3:
        step /= 10
    for factor in (1, 2, 5, 10):
        if span / (step * factor) <= 5:
            step *= factor
            break
    first = -(-low // step)
    return [step * (first + i) for i in range(int((high - first * step) / step + 1e-9) + 1)]


def _tick(value: float) -> str:
    return f"{round(value, 6) + 0.0:g}"
