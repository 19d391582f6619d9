"""Lists of slides by rule, for manifests that hold a part of a store."""

import hashlib
from collections.abc import Mapping
from typing import Any

from results.errors import UserError

PUBLISHED = 681_486
"""Tiles in the pretraining list of the published runs (sgcl-method.md 1.1); which slides they came from was not published."""
SGCL = "sgcl-pretraining"
SGCL_RULE = (
    "sgcl-pretraining-1: whole slides of part train (no validation hold-out, no test slide); tumour and normal slides each in the "
    "order of sha256('sgcl-pretraining-1/' + slide), dealt in proportion; as many from the front as come nearest to 681,486 tiles"
)
PARTS = ("train", "validation", "test")


def choose(name: str, slides: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], dict[str, Any]]:
    """Choose slides of a store by a named rule.

    Args:
        name: `sgcl-pretraining`, or a part: `train`, `validation`, `test`.
        slides: entries of `store.json`, each with `tiles` and `part`.

    Returns:
        The slides, sorted, and what the manifest says of the list: its rule, the counts and, where one is known, the published count.

    Raises:
        UserError: no such list, or the store's slides are not of it.
    """
    if name not in (SGCL, *PARTS):
        raise UserError(f"list={name} is not known: choose {SGCL} or one of {', '.join(PARTS)}.")
    part = "train" if name == SGCL else name
    given = {slide: facts["tiles"] for slide, facts in slides.items() if facts.get("part") == part and facts["tiles"]}
    if not given:
        raise UserError(
            f"list={name} needs slides of part {part}, and this store has none with tiles: tile cohort=camelyon16 camelyon16.part=all."
        )
    if name != SGCL:
        return sorted(given), {
            "name": name,
            "rule": f"slides of part {name}",
            "slides": len(given),
            "tiles": sum(given.values()),
        }
    chosen = nearest_prefix(sgcl_order(given), given, PUBLISHED)
    tiles = sum(given[slide] for slide in chosen)
    said = {
        "name": name,
        "rule": SGCL_RULE,
        "slides": len(chosen),
        "of_slides": len(given),
        "tiles": tiles,
        "of_tiles": sum(given.values()),
        "published_tiles": PUBLISHED,
    }
    return sorted(chosen), said


def sgcl_order(names: Mapping[str, Any]) -> list[str]:
    """Return slides in the order of the rule: every front part holds tumour and normal slides in the proportion of the whole."""
    places = []
    for tumor in (True, False):
        group = [name for name in names if name.startswith("tumor") == tumor]
        group.sort(key=lambda name: hashlib.sha256(f"sgcl-pretraining-1/{name}".encode()).hexdigest())
        places += [((rank + 0.5) / len(group), name) for rank, name in enumerate(group)]
    return [name for _, name in sorted(places)]


def nearest_prefix(order: list[str], tiles: Mapping[str, int], goal: int) -> list[str]:
    """Return as many names from the front, one at least, as have the number of tiles nearest to `goal`; fewer on a tie."""
    totals, total = [], 0
    for name in order:
        total += tiles[name]
        totals.append(abs(total - goal))
    return order[: totals.index(min(totals)) + 1]
