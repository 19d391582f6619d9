"""What an encoder is to the rest of `transfer`."""

from typing import Any, Protocol, Self

import numpy as np


class Encoder(Protocol):
    """A frozen function from tiles to feature vectors, with the identity its scores are recorded under.

    Attributes:
        name: row name in tables.
        kind: `run` (an export of ours), `floor` (what a score must beat) or `file` (weights given by path or by a library's name).
        digest: 64 hex digits; equal digests give equal features for the same seed and trial.
        coverage: what of a file found its place in the network (`share` 0 to 1, counts of tensors in all and by stage, what was assumed);
            None where nothing is loaded.
        card: the export's card, or None.
        run: folder name of the pretraining run; an encoder without one may lack it.
        feature_dim: D.
    """

    name: str
    kind: str
    digest: str
    coverage: dict[str, Any] | None
    card: dict[str, Any] | None
    feature_dim: int

    def features(self, batch: np.ndarray) -> np.ndarray:
        """Turn uint8 tiles (B, T, T, 3) into float32 features (B, D)."""
        ...

    def for_trial(self, trial: int) -> Self:
        """Return the encoder of one trial: itself, unless its weights are drawn anew for every trial."""
        ...
