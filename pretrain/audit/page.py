"""The auditor's page: one HTML file with its pictures in it, made from `audit.json` and the tiles' pictures alone."""

from collections.abc import Mapping
from html import escape
from typing import Any

from pretrain.charts import bars, outlines
from pretrain.pages import document, table

SETS = {"spatial": "spatial positives", "semantic": "semantic positives", "mined": "mined negatives"}
SYMBOLS = {"spatial": "|P|", "semantic": "|S|", "positives": "|U|, P or S", "mined": "|H|"}
PAIRS = SETS | {"random": "random pairs", "own": "new view, own row"}

STYLE = """
.anchor { display: flex; gap: 1em; border-top: 1px solid #ccc; padding: .8em 0; }
.line { display: flex; flex-wrap: wrap; gap: 6px; margin-bottom: .5em; } .line > b { flex: 0 0 100%; font-weight: 600; font-size: 13px; }
figure { margin: 0; width: 92px; } figure img { width: 84px; height: 84px; border: 4px solid #bbb; display: block; }
figure.same img { border-color: #009e73; } figure.other img { border: 4px solid #d00000; } figure.self img { border-color: #1a1a1a; }
figcaption { font-size: 10.5px; line-height: 1.25; } figcaption span { display: block; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.other figcaption .label { color: #d00000; font-weight: 600; } .chance { color: #666; }
"""


def render(report: Mapping[str, Any], images: Mapping[int, str]) -> str:
    """Return the page.

    Args:
        report: what `audit.json` holds.
        images: tile id -> data URI, for every tile of `report["gallery"]`.
    """
    title = f"Audit of {report['run']}"
    parts = [f"<h1>{escape(title)}</h1>", *facts(report)]
    parts += ["<ul>", *(f"<li>{escape(note)}</li>" for note in report["notes"]), "</ul>"]
    if report["sets"]:
        parts += [*sizes(report), *purity(report), *origins(report)]
    parts += features(report)
    if report["gallery"]:
        parts += galleries(report, images)
    return document(title, parts, STYLE)


def share(found: Mapping[str, float] | None) -> str:
    """A share beside chance, such as `0.612 (0.201 by chance)`."""
    return "no pairs" if found is None else f"{found['share']:.3f} ({found['by_chance']:.3f} by chance)"


def facts(report: Mapping[str, Any]) -> list[str]:
    """What was audited; rehearsal cohorts are called that first."""
    lines = []
    if report["rehearsal"]:
        lines.append(
            '<p class="rehearsal"><b>Rehearsal: synthetic slides.</b> These numbers say that the method finds what was '
            "drawn into them; they say nothing about tissue.</p>"
        )
    scale = "unknown um/px" if report["mpp"] is None else f"{report['mpp']:g} um/px"
    lines.append(
        f"<p>{escape(report['label'])}, seed {report['seed']}, {escape(report['state'])}: epoch {report['epoch']}, step "
        f"{report['step']}. Cohort {escape(report['cohort'])}: {report['tiles']} tiles of {report['slides']} slides, "
        f"{report['tile_px']} px at {scale}, store {escape(report['store_digest'][:12])}. Numbers are over "
        f"{report['anchors']} anchors drawn by the seed; all of them are in <code>audit.json</code> beside this page.</p>"
    )
    settings = ", ".join(f"{escape(str(name))} {escape(str(value))}" for name, value in report["resolved"].items())
    return [*lines, f"<p>Counts as scaled to the cohort: {settings}.</p>"] if settings else lines


def sizes(report: Mapping[str, Any]) -> list[str]:
    """How many members the sets have."""
    names = ("mean", "least", "q05", "q25", "median", "q75", "q95", "most")
    rows = []
    for name, symbol in SYMBOLS.items():
        if name in report["sets"]:
            found = report["sets"][name]
            numbers = [f"{found['size'][key]:.4g}" for key in names]
            rows.append([symbol, SETS.get(name, "all positives"), *numbers, f"{found['empty']:.1%}"])
    head = ["set", "", "mean", "least", "5 %", "25 %", "median", "75 %", "95 %", "most", "anchors without"]
    also = report["sets"]["semantic"]["also_spatial"]
    text = "" if also is None else f"<p>{also:.1%} of an anchor's semantic positives are spatial ones too (mean).</p>"
    chart = outlines(report["charts"]["size"], SETS | {"positives": "all positives"}, "Members of a set", "tiles")
    return ["<h2>How large the sets are</h2>", table(head, rows), text, f'<div class="charts">{chart}</div>']


def purity(report: Mapping[str, Any]) -> list[str]:
    """Shares of members with the anchor's label."""
    if not report["classes"]:
        return []
    names = {name: words for name, words in SETS.items() if name in report["sets"]}
    rows = []
    for name, words in names.items():
        found = report["sets"][name]["label"]
        rows.append([words, *(share(found[kind]) for kind in ("all", "within_slide", "across_slides"))])
    groups, classes = [], []
    for place, label in enumerate(report["classes"]):
        entries = {name: report["sets"][name]["classes"][place] for name in names}
        there = {name: entry for name, entry in entries.items() if "share" in entry}
        if there:
            chance = next(iter(there.values()))["by_chance"]
            groups.append((label, {name: entry["share"] for name, entry in there.items()}, chance))
        classes.append([label, *(f"{share(there.get(name))}, {there[name]['anchors']} anchors" if name in there else "no pairs" for name in names)])  # fmt: skip
    return [
        "<h2>Purity: members with their anchor's label</h2>",
        "<p>Mean over anchors of the share of the set's labelled members. By chance: a tile drawn at random among all others, "
        "of the anchor's slide, of other slides. Positives should lie above chance; mined negatives are meant to be "
        "hard, but those of the anchor's label are false negatives.</p>",
        table(["set", "all", "on the same slide", "on other slides"], rows),
        table(["label of the anchor", *names.values()], classes),
        f'<div class="charts">{bars(groups, names, "Purity by label of the anchor")}</div>',
    ]


def origins(report: Mapping[str, Any]) -> list[str]:
    """Where the members come from: slides, hospitals, patients, distances."""
    rows = []
    for name, words in SETS.items():
        if name in report["sets"]:
            found = report["sets"][name]
            hospital, patient = found["hospital"], found["patient"]
            rows.append([words, share(found["cross_slide"]), share(hospital["all"]), share(hospital["across_slides"]),
                         share(patient["across_slides"])])  # fmt: skip
    chart = outlines(
        report["charts"]["distance"], SETS, "Distance of pairs on one slide", "grid units, 1 = one tile step"
    )
    return [
        "<h2>Where the members come from</h2>",
        "<p>A share of one hospital far above chance among pairs of different slides means that the set follows the stain or "
        "the scanner, not the tissue.</p>",
        table(
            ["set", "pairs across slides", "same hospital", "same hospital, other slide", "same patient, other slide"],
            rows,
        ),
        f'<div class="charts">{chart}</div>',
    ]


def features(report: Mapping[str, Any]) -> list[str]:
    """Similarities and nearest neighbours of the remembered features."""
    bank = report["bank"]
    cosines = bank["similarity"]
    rows = [[words, f"{cosines[name]:.3f}"] for name, words in PAIRS.items() if cosines.get(name) is not None]
    knn = bank["knn"]
    what = "bank rows" if bank["kind"] == "bank" else "backbone features"
    lines = [f"<h2>Features ({bank['features']} {what})</h2>", table(["pairs", "mean cosine"], rows)]
    chart = outlines(report["charts"]["similarity"], PAIRS, "Cosine of pairs", "cosine")
    lines.append(f'<div class="charts">{chart}</div>')
    if "fresh" in bank:
        words = {"batch": "of the batch, as in training", "stored": "stored ones, as in the exported encoder"}
        rows = [
            [
                words[name],
                f"{found['similarity']:.3f}",
                f"{found['own_row_first']:.1%}",
                f"{found['own_row_median_rank']:g}",
            ]
            for name, found in bank["fresh"].items()
        ]
        head = [
            "batch norm statistics",
            "cosine with the own row",
            "own row is nearest",
            f"median rank of {bank['features']}",
        ]
        lines.append(
            "<p>A new view of every anchor asks the bank. Where the two rows differ much, the stored batch norm statistics do not "
            "fit whole tiles, for example because they mix views of two sizes.</p>"
        )
        lines.append(table(head, rows))
    if "fresh_semantic" in bank and bank["fresh_semantic"]["overlap"] is not None:
        fresh = bank["fresh_semantic"]
        label = f", purity {share(fresh['label']['all'])}" if report["classes"] else ""
        lines.append(
            f"<p>Asked by new views, as in training, semantic sets have {fresh['size']:.1f} members{label}; with the sets by bank "
            f"rows above they agree to {fresh['overlap']:.3f} (mean Jaccard index).</p>"
        )
    if knn["all"]:
        lines.append(
            f"<p>Of the {knn['neighbours']} nearest labelled tiles, this share has the anchor's label: {share(knn['all'])}; "
            f"of the nearest on other slides {share(knn['across_slides'])}.</p>"
        )
    return lines


def galleries(report: Mapping[str, Any], images: Mapping[int, str]) -> list[str]:
    """The anchors with their members as pictures."""
    labelled = ", framed red where the label is another one, green where it is the same, grey where one is unknown"
    lines = [
        "<h2>Galleries</h2>",
        f"<p>{len(report['gallery'])} anchors, chosen by the seed and spread over labels and slides. Of every set up to eight "
        "members, evenly spaced from the most to the least similar to the anchor"
        f"{labelled if report['classes'] else ''}. Under each: slide, label, cosine, and the distance in grid units "
        "where it is on the anchor's slide.</p>",
    ]
    for entry in report["gallery"]:
        rows = []
        for name, words in SETS.items():
            if name in entry["sets"]:
                found = entry["sets"][name]
                tiles = "".join(figure(member, entry, images) for member in found["shown"]) or "<i>none</i>"
                rows.append(f'<div class="line"><b>{escape(words)}: {found["size"]}</b>{tiles}</div>')
        lines.append(f'<div class="anchor">{figure(entry, None, images)}<div>{"".join(rows)}</div></div>')
    return lines


def figure(tile: Mapping[str, Any], anchor: Mapping[str, Any] | None, images: Mapping[int, str]) -> str:
    """One tile with its frame and caption; `anchor` is None for the anchor itself."""
    kind, mark = "self", ""
    if anchor is not None:
        kind = ""
        if tile["label"] and anchor["label"]:
            kind = "same" if tile["label"] == anchor["label"] else "other"
            mark = "≠ " if kind == "other" else ""
    place = (
        f"{tile['slide']}, hospital {tile['hospital'] or 'unknown'}, x {tile['x']}, y {tile['y']}, tile {tile['tile']}"
    )
    last = "" if anchor is None else f"cos {tile['similarity']:.2f}"
    if "distance" in tile:
        last += f", d {tile['distance']:.1f}"
    slide = tile["slide"] if anchor is None or tile["slide"] != anchor["slide"] else "same slide"
    return (
        f'<figure class="{kind}" title="{escape(place)}"><img src="{images[tile["tile"]]}" alt="{escape(tile["label"] or "tile")}">'
        f'<figcaption><span>{escape(slide)}</span><span class="label">{escape(mark + (tile["label"] or "no label"))}</span>'
        f"<span>{escape(last)}</span></figcaption></figure>"
    )
