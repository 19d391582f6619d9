"""The sets a method puts around its anchors, found again from what a checkpoint remembers; indices in, indices out."""

import copy
import dataclasses
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.bank import MemoryBank
from pretrain.methods.base import Method
from pretrain.neighbours import sizes, union
from pretrain.neighbours.mining import Ranks, mined_negatives
from pretrain.randomness import key, uniform
from pretrain.views import MEAN, STD, make_views

CHUNK = 64
SETTLED = 2**31
"""An epoch late enough that every set is in use."""


def sample(tiles: int, count: int, seed: int) -> np.ndarray:
    """Draw `count` of `tiles` tile ids, the same in every epoch and in every audit of the seed; (n,) int64, sorted."""
    draws = uniform(np.arange(tiles), 1, seed, "audit")[:, 0]
    return np.sort(np.argsort(draws, kind="stable")[:count])


def spread(slides: np.ndarray, labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Choose `count` tiles one after the other, always of the label, then of the slide, that was chosen least so far.

    Args:
        slides, labels: (N,) integer codes; -1 is "no label", chosen only where no other tile is left.

    Returns:
        (n,) int64 tile ids in the order of choice; equals are decided by a hash of (seed, tile id).
    """
    draws = uniform(np.arange(len(slides)), 1, seed, "gallery")[:, 0]
    of_label, of_slide = np.zeros(labels.max(initial=-1) + 1, int), np.zeros(slides.max(initial=-1) + 1, int)
    taken, chosen = np.zeros(len(slides), bool), []
    labelled = bool((labels >= 0).any())
    for _ in range(min(count, len(slides))):
        uses = np.where(labels >= 0, of_label[labels], count) if labelled else np.zeros(len(slides), int)
        pick = int(np.lexsort((draws, of_slide[slides], uses, taken))[0])
        taken[pick] = True
        of_slide[slides[pick]] += 1
        if labels[pick] >= 0:
            of_label[labels[pick]] += 1
        chosen.append(pick)
    return np.array(chosen, np.int64)


def has_sets(method: Method) -> bool:
    """Whether the method builds spatial or semantic positives around its anchors."""
    used = [getattr(method.options, kind, True) for kind in ("spatial", "semantic")]
    return hasattr(method, "positive_sets") and any(used)


@torch.no_grad()
def positives(method: Any, tile_ids: Tensor, epoch: int, queries: Tensor | None = None) -> dict[str, Tensor]:
    """Spatial and semantic positives apart, by the method's own `positive_sets`.

    Args:
        tile_ids: (B,) anchors.
        epoch: 0-based; decides whether semantic positives are in use.
        queries: (B, D) unit rows; the anchors' own bank rows by default.

    Returns:
        `spatial`, `semantic` and their union `positives`: (B, n) int64 sets, padded by -1.
    """
    found: dict[str, list[Tensor]] = {"spatial": [], "semantic": []}
    for start in range(0, len(tile_ids), CHUNK):
        ids = tile_ids[start : start + CHUNK]
        q = method.banks["global"][ids] if queries is None else queries[start : start + CHUNK]
        for name, members in zip(found, _apart(method, q, ids, epoch), strict=True):
            found[name].append(members)
    sets = {name: stack(parts) for name, parts in found.items()}
    return sets | {"positives": union(*sets.values())}


def _apart(method: Any, q: Tensor, tile_ids: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
    """P and S: of a method that unites them, by asking twice with the other kind switched off."""
    if not hasattr(method.options, "spatial"):
        return method.positive_sets(q, tile_ids, epoch)
    parts = []
    for other in ("semantic", "spatial"):
        part = copy.copy(method)  # shares every tensor; only its options are its own
        part.options = dataclasses.replace(method.options, **{other: False})
        parts.append(part.positive_sets(q, tile_ids, epoch)[0])
    return parts[0], parts[1]


@torch.no_grad()
def mined(method: Any, tile_ids: Tensor, positive: Tensor, step: int) -> Tensor:
    """Mined negatives of (B,) anchors by one draw of ranks; (B, H) padded.

    Exact over the whole bank of backbone features (of projected ones where there is no other), whatever shortcut
    training takes (sgcl-method.md 2.8).
    """
    bank, seed = method.banks.get("backbone", method.banks["global"]), method.facts.seed
    ranks = Ranks(getattr(method, "law", "fixed"), len(bank), seed)
    ranks = ranks.draw(method.nearest, np.random.default_rng(key(seed, step, "ranks")))
    rows, drawn, parts = whole(bank), torch.from_numpy(ranks).to(tile_ids.device), []
    for start in range(0, len(tile_ids), CHUNK):
        ids = tile_ids[start : start + CHUNK]
        excluded = union(positive[start : start + CHUNK], ids[:, None])
        parts.append(mined_negatives(rows[ids] @ rows.T, excluded, drawn))
    return stack(parts)


def whole(bank: MemoryBank) -> Tensor:
    """All rows of a bank as (N, D) float32, however it keeps them."""
    return bank[torch.arange(len(bank), device=bank.rows.device)]


def stack(parts: list[Tensor]) -> Tensor:
    """Put padded sets below each other; (sum of B, widest) int64, -1 where absent."""
    width = max(part.shape[1] for part in parts)
    return torch.cat([F.pad(part, (0, width - part.shape[1]), value=-1) for part in parts])


def overlap(a: Tensor, b: Tensor) -> np.ndarray:
    """Jaccard index |A and B| / |A or B| of two padded sets, row by row; (B,) float64, nan where both are empty."""
    both, either = (sizes(a) + sizes(b) - sizes(union(a, b))).double(), sizes(union(a, b)).double()
    return (both / either).cpu().numpy()


@torch.no_grad()
def similarities(rows: Tensor, anchors: Tensor, members: Tensor) -> np.ndarray:
    """Cosine of every anchor's row with its members' rows; (B, n) float32, nan where absent."""
    parts = []
    for start in range(0, len(anchors), CHUNK):
        some = members[start : start + CHUNK]
        s = torch.einsum("bd,bnd->bn", rows[anchors[start : start + CHUNK]], rows[some.clamp(min=0)])
        parts.append(s.masked_fill(some < 0, torch.nan))
    return torch.cat(parts).cpu().numpy()


@torch.no_grad()
def nearest(rows: Tensor, anchors: Tensor, allowed: Tensor, slides: Tensor | None, count: int) -> Tensor:
    """The `count` nearest allowed rows of every anchor, itself apart, and its whole slide where `slides` is given.

    Args:
        rows: (N, D) unit rows; anchors: (B,) rows that ask; allowed: (N,) bool; slides: (N,) codes or None.

    Returns:
        (B, count) int64, -1 where fewer are allowed.
    """
    parts = []
    for ids in anchors.split(CHUNK):
        s = (rows[ids] @ rows.T).masked_fill(~allowed, -torch.inf).scatter(1, ids[:, None], -torch.inf)
        if slides is not None:
            s = s.masked_fill(slides[ids][:, None] == slides, -torch.inf)
        best, place = s.topk(min(count, s.shape[1]), dim=1)
        parts.append(place.masked_fill(best == -torch.inf, -1))
    return torch.cat(parts)


@torch.no_grad()
def fresh_queries(method: Any, store: Any, tile_ids: np.ndarray, epoch: int, training: bool) -> Tensor:
    """Queries of a new global view of every tile; (B, D) unit rows in the order of `tile_ids`.

    Args:
        training: batch norm by the statistics of batches that mix slides, as in training; by the stored ones otherwise.
    """
    network = nn.Sequential(copy.deepcopy(method.backbone), copy.deepcopy(method.neck)).train(training)
    device, view = method.facts.slide.device, next(v for v in method.views if v.name == "global")
    order = np.argsort(uniform(tile_ids, 1, method.facts.seed, "fresh")[:, 0], kind="stable")
    parts = []
    for places in np.array_split(order, max(1, len(order) // CHUNK)):
        ids = tile_ids[places]
        tiles = torch.from_numpy(store.read_many(ids)).to(device)
        views = make_views(tiles, ids, (view,), method.view_settings, method.facts.seed, epoch)
        parts.append(F.normalize(network(views["global"]).float(), dim=1))
    return torch.cat(parts)[torch.from_numpy(np.argsort(order))]


@torch.no_grad()
def backbone_features(method: Method, store: Any, tile_ids: np.ndarray) -> Tensor:
    """Pooled backbone features of whole tiles at the global view's size, without augmentation; (B, F) unit rows."""
    method.eval()
    device, size = method.facts.slide.device, method.view_settings.size
    mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (MEAN, STD))
    parts = []
    for ids in np.array_split(tile_ids, max(1, len(tile_ids) // CHUNK)):
        images = torch.from_numpy(store.read_many(ids)).to(device).permute(0, 3, 1, 2).float() / 255
        images = F.interpolate(images, (size, size), mode="bilinear", antialias=True)
        parts.append(F.normalize(method.backbone((images - mean) / std).float(), dim=1))
    return torch.cat(parts)
