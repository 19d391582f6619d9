"""The few numbers about positive sets that are cheap enough for every epoch."""

from typing import Any

import torch

from pretrain.audit.numbers import Cohort, agreement, cross_slide
from pretrain.audit.sets import SETTLED, has_sets, positives, sample
from pretrain.methods.base import Method

ANCHORS = 256


def epoch_numbers(method: Method, store: Any, seed: int, epoch: int | None = None) -> dict[str, float]:
    """Mean size, purity and cross-slide share of the spatial and semantic sets of 256 anchors, by the banks as they are.

    The anchors are the same in every epoch. Call it on every rank, since look-ups in a bank that is spread over ranks
    need all of them; the numbers of rank 0 are those to log. Nothing of the method is changed and no random state is used.

    Args:
        epoch: 0-based epoch that was trained; None counts every set as in use.

    Returns:
        name -> number, such as `semantic_purity`; without the purities where tiles have no labels, without what an
        empty set cannot have, and empty for a method without positive sets.
    """
    if not has_sets(method):
        return {}
    anchors = sample(len(store), ANCHORS, seed)
    tile_ids = torch.from_numpy(anchors).to(method.facts.slide.device)
    found = positives(method, tile_ids, SETTLED if epoch is None else epoch)
    cohort, numbers = Cohort(store), {}
    for name in ("spatial", "semantic"):
        members = found[name].cpu().numpy()
        numbers[f"{name}_size"] = float((members >= 0).sum(1).mean())
        shares = {
            "purity": agreement(cohort.labels, cohort.slides, anchors, members)["all"],
            "cross_slide": cross_slide(cohort.slides, anchors, members) if name == "semantic" else None,
        }
        numbers |= {f"{name}_{what}": share["share"] for what, share in shares.items() if share is not None}
    return numbers
