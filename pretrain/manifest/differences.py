"""In which slides, and why, two manifests differ."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pretrain.manifest.file import Manifest
from pretrain.tiling.receipts import changed_versions, decoder_warnings

KINDS = (SLIDE, DECODER, RULE, TILES, LABELS, PIXELS, FACTS) = (
    "changed slide", "changed decoder", "changed rule", "other tiles", "other labels", "other pixels", "other facts",
)  # fmt: skip
STATED = ("patient", "hospital", "part", "remark", "slide_label")
MISSING = ("only in the first", "only in the second")
RULE_KEYS = ("tiling", "tissue", "label_rule", "labels", "list")


@dataclass
class Differences:
    """What tells two manifests apart.

    Attributes:
        general: sentences on both as a whole: settings, rules, libraries.
        slides: slide -> {kind: detail}, for the slides that differ; kinds are those of `KINDS` and `MISSING`.
    """

    general: list[str] = field(default_factory=list)
    slides: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def same_tiles(self) -> bool:
        """Whether both hold the same tiles of the same slides with the same labels."""
        return not self.slides

    def lines(self, named: int = 20) -> list[str]:
        """Return the findings as lines of text, the general ones first; `named` slides a kind are shown."""
        text = list(self.general)
        counts = Counter(kind for kinds in self.slides.values() for kind in kinds)
        for kind in (*MISSING, *KINDS):
            if counts[kind]:
                found = [
                    f"{name} ({kinds[kind]})" if kinds[kind] else name
                    for name, kinds in self.slides.items()
                    if kind in kinds
                ]
                text.append(
                    f"{kind}: {counts[kind]} slide(s): {', '.join(found[:named])}{', ...' * (len(found) > named)}"
                )
        return text or ["no difference: the same tiles, pixels and labels"]


def compare(first: Manifest, second: Manifest) -> Differences:
    """Compare two manifests slide by slide.

    A slide whose file differs is a changed slide, whatever else differs in it. On the same file, other pixels in its canary
    regions are a changed decoder; other pixels of the same tiles without that are named as such. Other places or labels of tiles
    are the work of a changed rule where a setting differs, and named as unexplained where none does.
    """
    found = Differences(general=_rules(first.facts, second.facts) + _libraries(first.facts, second.facts))
    old, new = first.facts["slides"], second.facts["slides"]
    for names, kind in ((old.keys() - new.keys(), MISSING[0]), (new.keys() - old.keys(), MISSING[1])):
        found.slides.update({name: {kind: ""} for name in names})
    shared = sorted(old.keys() & new.keys())
    tiles = _compare_tiles(first, second, shared)
    tiling, labelling = _changed(first, second, ("tiling", "tissue")), _changed(first, second, ("label_rule", "labels"))
    for name, counts in zip(shared, tiles.tolist(), strict=True):
        kinds = _kinds(old[name], new[name], counts, tiling, labelling)
        if kinds:
            found.slides[name] = kinds
    found.slides = dict(sorted(found.slides.items()))
    return found


def _kinds(old: dict[str, Any], new: dict[str, Any], counts: list[int], tiling: str, labelling: str) -> dict[str, str]:
    gone, added, pixels, labels, moved = counts
    if old["slide_digest"] != new["slide_digest"]:
        return {SLIDE: f"sha256 {old['slide_digest'][:12]} -> {new['slide_digest'][:12]}"}
    kinds: dict[str, str] = {}
    canaries = (old.get("canary"), new.get("canary"))
    if all(canaries) and canaries[0] != canaries[1]:
        kinds[DECODER] = (
            f"canary regions differ; {pixels} tile(s) of other pixels" if not tiling else "canary regions differ"
        )
    elif pixels and not tiling:
        kinds[PIXELS] = f"{pixels} tile(s)"
    by_rule = []
    if gone or added or moved:
        parts = [f"-{gone} +{added} tile(s)"] if gone or added else []
        text = ", ".join([*parts, *([f"{moved} tile(s) at other places of the slide"] if moved else [])])
        by_rule += [text] if tiling else []
        kinds |= {} if tiling else {TILES: text}
    elif pixels and tiling:
        by_rule.append(f"{pixels} tile(s) of other pixels")
    if labels:
        annotation = old.get("labels_digest", "") != new.get("labels_digest", "")
        by_rule += [f"{labels} label(s)"] if labelling and not annotation else []
        kinds |= (
            {LABELS: f"{labels}, the annotation differs"} if annotation else {} if labelling else {LABELS: f"{labels}"}
        )
    if by_rule:
        kinds[RULE] = ", ".join(by_rule)
    facts = [
        f"{key} {old.get(key, '')!r} -> {new.get(key, '')!r}" for key in STATED if old.get(key, "") != new.get(key, "")
    ]
    return kinds | ({FACTS: ", ".join(facts)} if facts else {})


def _rules(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    text = []
    for key in RULE_KEYS:
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            text += [
                f"{RULE}: {key}.{name} {before.get(name)} -> {after.get(name)}"
                for name in sorted({*before, *after})
                if before.get(name) != after.get(name)
            ]
        elif before != after:
            text.append(f"{RULE}: {key} {before} -> {after}")
    return text


def _libraries(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    pairs = [(a, b) for a in old["receipts"].values() for b in new["receipts"].values() if a != b]
    changes = sorted({change for a, b in pairs for change in changed_versions(a, b)})
    text = [f"{DECODER}: warning: {line}" for line in decoder_warnings(old, new)]
    if changes:
        text.append(f"{DECODER}: {'; '.join(changes)}" + ("" if text else "; the pixels of the canaries are the same"))
    if bool(old["receipts"]) != bool(new["receipts"]):
        text.append(f"{DECODER}: only one of the two says with which decoders it was made")
    return text


def _changed(first: Manifest, second: Manifest, keys: tuple[str, ...]) -> str:
    return ", ".join(key for key in keys if first.facts.get(key) != second.facts.get(key))


def _compare_tiles(first: Manifest, second: Manifest, shared: list[str]) -> np.ndarray:
    """Return (slides, 5) counts: tiles only in the first, only in the second, of other pixels, with other labels, at other places."""
    position = {name: i for i, name in enumerate(shared)}
    sides = []
    for manifest in (first, second):
        codes = np.array([position.get(name, -1) for name in manifest.slide_names] or [-1], dtype=np.int64)
        slide = codes[manifest.column("slide")]
        key = (
            slide << 42 | manifest.column("grid_y").astype(np.int64) << 21 | manifest.column("grid_x").astype(np.int64)
        )
        order = np.flatnonzero(slide >= 0)
        order = order[np.argsort(key[order], kind="stable")]
        sides.append((slide[order], key[order], order))
    (slide_a, key_a, at_a), (slide_b, key_b, at_b) = sides
    _, in_a, in_b = np.intersect1d(key_a, key_b, assume_unique=True, return_indices=True)
    both = slide_a[in_a]
    rows_a, rows_b = at_a[in_a], at_b[in_b]
    pixels = (first.digests[rows_a] != second.digests[rows_b]).any(axis=1)
    labels = _label_codes(first, second, rows_a, rows_b)
    moved = np.any([first.column(key)[rows_a] != second.column(key)[rows_b] for key in ("level", "x0", "y0")], axis=0)
    size = len(shared)
    common = np.bincount(both, minlength=size)
    return np.stack(
        [
            np.bincount(slide_a, minlength=size) - common,
            np.bincount(slide_b, minlength=size) - common,
            np.bincount(both[pixels], minlength=size),
            np.bincount(both[labels], minlength=size),
            np.bincount(both[moved], minlength=size),
        ],
        axis=1,
    )


def _label_codes(first: Manifest, second: Manifest, rows_a: np.ndarray, rows_b: np.ndarray) -> np.ndarray:
    """Return which pairs of rows have other labels, or other shares of them."""
    names = {name: i for i, name in enumerate(sorted({*first.facts["labels"], *second.facts["labels"]}))}
    codes, shares = [], []
    for manifest, rows in ((first, rows_a), (second, rows_b)):
        table = np.array([*(names[name] for name in manifest.facts["labels"]), -1])
        codes.append(table[manifest.column("label")[rows]])
        shares.append(manifest.column("label_share")[rows])
    return (codes[0] != codes[1]) | (shares[0] != shares[1])
