"""The page of a cohort's quality, made from `quality.json` and the slides' pictures alone."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from pretrain.charts import outlines
from pretrain.pages import Html, document, table
from pretrain.quality.cohort import BLURRED, BLURRED_TILE, BLURRED_TILES, INK_MM2, INK_SHARE, OTHER_MPP, WORDS

STYLE = """
.slides { display: flex; flex-wrap: wrap; gap: 14px; } .slides figure { margin: 0; width: 250px; max-width: 100%; border-top: 3px solid #bbb; padding-top: 4px; }
.slides figure.odd { border-color: #d55e00; } .slides img { max-width: 100%; max-height: 250px; display: block; border: 1px solid #ddd; }
.slides .none { width: 248px; height: 120px; border: 1px dashed #bbb; color: #666; display: flex; align-items: center; justify-content: center; }
figcaption { font-size: 12px; line-height: 1.35; } figcaption, figcaption b { overflow-wrap: anywhere; } td.odd, .odd td:first-child { color: #a04000; }
.mark { display: inline-block; background: #d55e00; color: #fff; border-radius: 3px; padding: 0 .4em; font-size: 11px; margin-right: 3px; }
.swatch { display: inline-block; width: 1em; height: 1em; border: 1px solid #999; vertical-align: -2px; margin-right: 4px; }
td { vertical-align: top; } .left td, .left th, .last td:last-child, .last th:last-child { text-align: left; }
"""
PATIENTS_SHOWN = 50


def render(report: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    """Return the page.

    Args:
        report: what `quality.json` holds.
        pictures: slide -> data URI, for the slides that have one.
    """
    title = f"Quality of {report['cohort']}"
    parts = [
        f"<h1>{escape(title)}</h1>", *facts(report), *failed(report["slides"]), *marked(report["slides"]), *charts(report),
        *origins(report), *magnification(report["slides"]), *gallery(report["slides"], pictures),
    ]  # fmt: skip
    return document(title, parts, STYLE)


def facts(report: Mapping[str, Any]) -> list[str]:
    """The cohort in a few lines; rehearsal cohorts are called that first."""
    totals, tiling = report["totals"], report["tiling"]
    lines = []
    if report["rehearsal"]:
        lines.append(
            '<p class="rehearsal"><b>Rehearsal: synthetic slides.</b> These numbers say nothing about tissue.</p>'
        )
    lines.append(
        f"<p>{totals['slides']} slides ({totals['done']} with tiles, {totals['empty']} empty, {totals['failed']} failed) of "
        f"{totals['patients'] or 'unknown'} patients and {totals['hospitals'] or 'unknown'} hospitals. {totals['tissue_mm2']:,.1f} mm2 of tissue, "
        f"{totals['tiles']:,} tiles of {tiling['tile']} px at {tiling['mpp']:g} um/px; {totals['marked']} marked below. Tile store "
        f"{escape(report['store_digest'][:12])}. All numbers are in <code>quality.json</code> beside this page.</p>"
    )
    said = [f"{escape(key)}: {escape(report[key])}" for key in ("licence", "cite") if report[key]]
    notes = "".join(f"<li>{escape(note[:1000])}</li>" for note in report["notes"])
    return [*lines, *(f"<p>{line}</p>" for line in said), *([f"<ul>{notes}</ul>"] if notes else [])]


def failed(slides: Sequence[Mapping[str, Any]]) -> list[str]:
    """Slides that could not be tiled, with the reason."""
    rows = [[slide["slide"], slide["reason"]] for slide in slides if slide["status"] == "failed"]
    return (
        [f"<h2>Failed slides: {len(rows)}</h2>", f'<div class="left">{table(["slide", "reason"], rows)}</div>']
        if rows
        else []
    )


def marked(slides: Sequence[Mapping[str, Any]]) -> list[str]:
    """Slides with a warning, and what the warnings mean."""
    rows = [
        [slide["slide"], Html("<br>".join(f"{_mark(kind)} {escape(words)}" for kind, words in slide["warnings"]))]
        for slide in slides
        if slide["warnings"]
    ]
    rule = (
        f"<p>Focus is the variance of the Laplacian of up to 64 of a slide's tiles, as a share of the cohort's median slide: marked below {BLURRED:.0%}, or "
        f"where more than {BLURRED_TILES:.0%} of the tiles are below {BLURRED_TILE:.0%}. It also falls where tissue has little detail (fat, mucus), so look. "
        f"Ink is marked from {INK_MM2:g} mm2 or {INK_SHARE:.0%} of the tissue on; it is left out of the tissue mask. um/px is marked where it is over {OTHER_MPP:.0%} from the cohort's median, "
        "contradicts the slide's own statement, or does not go with its objective. Purple pen and pale ink are not recognised.</p>"
    )
    body = f'<div class="left">{table(["slide", "what to look at"], rows)}</div>' if rows else "<p>None.</p>"
    return [f"<h2>Marked slides: {len(rows)}</h2>", rule, body]


def charts(report: Mapping[str, Any]) -> list[str]:
    """Distributions over slides."""
    slides = [slide for slide in report["slides"] if slide["status"] != "failed"]
    drawn = []
    for key, words, axis in (
        ("tissue_mm2", "Tissue", "mm2 a slide"), ("tiles", "Tiles", "tiles a slide"), ("focus_relative", "Focus", "median focus / cohort's median"),
    ):  # fmt: skip
        values = np.array([slide[key] for slide in slides if slide[key] is not None], dtype=float)
        if len(values) > 1:
            counts, edges = np.histogram(
                values, bins=min(30, max(5, len(values) // 2)), range=(0, max(float(values.max()), 1e-6))
            )
            drawn.append(
                outlines(
                    {"edges": edges.tolist(), "counts": {"slides": counts.tolist()}},
                    {"slides": "share of slides"},
                    words,
                    axis,
                )
            )
    return [f'<h2>Spread</h2><div class="charts">{"".join(drawn)}</div>'] if drawn else []


def origins(report: Mapping[str, Any]) -> list[str]:
    """Hospitals and patients."""
    head = ["slides", "failed", "tiles", "tissue, mm2", "median focus"]
    hospitals = [[row["name"] or "unknown", str(row["patients"]), *_group(row)] for row in report["hospitals"]]
    several = sorted((row for row in report["patients"] if row["name"]), key=lambda row: (-row["slides"], row["name"]))
    patients = [[row["name"], *_group(row)] for row in several[:PATIENTS_SHOWN]]
    lines = ["<h2>Hospitals and patients</h2>", table(["hospital", "patients", *head], hospitals)]
    if not patients:
        return [*lines, "<p>No slide has a patient: splits can then only keep tiles of one slide together.</p>"]
    more = f" The {PATIENTS_SHOWN} with most slides are shown." if len(several) > PATIENTS_SHOWN else ""
    return [
        *lines,
        f"<p>{len(several)} patient(s), {several[0]['slides']} slide(s) each at most.{more}</p>",
        table(["patient", *head], patients),
    ]


def magnification(slides: Sequence[Mapping[str, Any]]) -> list[str]:
    """um/px of every slide, where it comes from, and how tiles are read."""
    rows = []
    for slide in slides:
        if slide["status"] == "failed":
            continue
        stated = slide["stated"]
        own = " x ".join(f"{value:.4g}" for value in (stated.get("mpp_x"), stated.get("mpp_y")) if value)
        odd = "; ".join(words for kind, words in slide["warnings"] if kind == "resolution")
        rows.append(
            [
                slide["slide"], _number(slide["mpp"], ".4g"), slide["mpp_source"] or "", own or "nothing",
                f"{stated['objective']:g}x" if stated.get("objective") else "", stated.get("vendor") or "",
                " x ".join(f"{side:,}" for side in slide["size"] or ()), ", ".join(f"{value:g}" for value in stated.get("downsamples", ())),
                f"level {slide['level']}{', resampled' if slide['resampled'] else ''}" if slide["level"] is not None else "",
                Html(f"{_mark('resolution')} {escape(odd)}") if odd else "",
            ]
        )  # fmt: skip
    head = [
        "slide",
        "um/px",
        "from",
        "the slide says",
        "objective",
        "format",
        "size, px",
        "levels",
        "tiles read from",
        "odd",
    ]
    return ["<h2>Magnification</h2>", f'<div class="last">{table(head, rows)}</div>']


def gallery(slides: Sequence[Mapping[str, Any]], pictures: Mapping[str, str]) -> list[str]:
    """Every slide as a picture: tissue outlined in green, kept tiles in blue."""
    figures = [figure(slide, pictures.get(slide["slide"])) for slide in slides if slide["status"] != "failed"]
    return [
        "<h2>Slides</h2>",
        "<p>Tissue is outlined in green, kept tiles in blue. The square has the mean colour of the tiles.</p>",
        f'<div class="slides">{"".join(figures)}</div>',
    ]


def figure(slide: Mapping[str, Any], picture: str | None) -> str:
    """One slide with its numbers."""
    name = escape(slide["slide"])
    image = f'<img src="{picture}" alt="{name}">' if picture else '<div class="none">no picture</div>'
    swatch = ""
    if slide["colour"]:
        red, green, blue = (round(value) for value in slide["colour"])
        swatch = f'<span class="swatch" style="background:#{red:02x}{green:02x}{blue:02x}"></span>'
    who = ", ".join(escape(f"{key} {slide[key]}") for key in ("patient", "hospital", "label") if slide[key])
    marks = "".join(_mark(kind) for kind in dict.fromkeys(kind for kind, _ in slide["warnings"]))
    return (
        f'<figure class="{"odd" if slide["warnings"] else ""}">{image}<figcaption>{swatch}<b>{name}</b><br>{marks}{who}{"<br>" if who or marks else ""}'
        f"{slide['tiles']:,} tiles, {_number(slide['tissue_mm2'], ',.2f')} mm2 tissue, focus {_number(slide['focus_relative'], '.0%')}</figcaption></figure>"
    )


def _group(row: Mapping[str, Any]) -> list[str]:
    return [
        str(row["slides"]),
        str(row["failed"]),
        f"{row['tiles']:,}",
        f"{row['tissue_mm2']:,.1f}",
        _number(row["focus_relative"], ".0%"),
    ]


def _mark(kind: str) -> str:
    return f'<span class="mark">{escape(WORDS[kind])}</span>'


def _number(value: float | None, form: str) -> str:
    return "unknown" if value is None else format(value, form)
