"""The online monitor: kNN on labelled tiles, slides apart, while the encoder trains. Never a result, only a pulse."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from pretrain.views import MEAN, STD

TILES = 1000
NEIGHBOURS = 20
LEAST_SHARE = 0.7


def monitor_tiles(store: Any) -> np.ndarray | None:
    """Choose at most 1000 labelled tiles, evenly spaced; None where no two slides have labels."""
    labelled = np.flatnonzero((store.index["label"] != "") & (store.index["label_share"] >= LEAST_SHARE))
    if len(labelled) == 0 or len(np.unique(store.slide_codes[labelled])) < 2:
        return None
    return labelled[np.linspace(0, len(labelled) - 1, min(TILES, len(labelled))).astype(int)]


@torch.no_grad()
def knn_accuracy(backbone: nn.Module, store: Any, tiles: np.ndarray, size: int, device: torch.device) -> float:
    """Balanced accuracy of a 20-nearest-neighbour vote: every second slide asks, the others answer."""
    training = backbone.training
    backbone.eval()
    mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (MEAN, STD))
    parts = []
    for chunk in np.array_split(tiles, max(1, len(tiles) // 128)):
        images = (
            torch.from_numpy(np.stack([store.read(int(i)) for i in chunk])).to(device).permute(0, 3, 1, 2).float() / 255
        )
        images = F.interpolate(images, (size, size), mode="bilinear", antialias=True)
        parts.append(F.normalize(backbone((images - mean) / std).float(), dim=1))
    backbone.train(training)
    features = torch.cat(parts)
    names, labels = np.unique(store.index["label"][tiles], return_inverse=True)
    label = torch.from_numpy(labels).to(device)
    slides = np.unique(store.slide_codes[tiles], return_inverse=True)[1]
    asks = torch.from_numpy(slides % 2 == 1).to(device)
    similarity = features[asks] @ features[~asks].T
    nearest = similarity.topk(min(NEIGHBOURS, similarity.shape[1])).indices
    votes = F.one_hot(label[~asks][nearest], len(names)).sum(1)
    right = (votes.argmax(1) == label[asks]).float()
    recalls = [right[label[asks] == k].mean() for k in range(len(names)) if bool((label[asks] == k).any())]
    return float(torch.stack(recalls).mean())
