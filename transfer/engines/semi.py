"""Few labels: an engine on a small share of the labelled tiles."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from transfer.engines.base import Engine, Fit, Predictions, derived_seed
from transfer.engines.finetune import Finetune
from transfer.engines.linear import Linear

SHARES = {"1pct": 0.01, "10pct": 0.1}


@dataclass(frozen=True)
class FewLabels:
    """`engine` on a share of the training tiles, drawn from each class by (seed, trial): rounded half up, at least one a class.

    The draw is the same for every encoder and engine, and the tiles of a smaller share are among those of a larger. Validation
    keeps of each class at most as many tiles as the class has labelled ones, so that it cannot hold more labels than
    training does. It only chooses: nothing is fitted on it. Shares count tiles, not slides.
    """

    engine: Engine
    share: float

    @property
    def trains(self) -> bool:
        return self.engine.trains

    def settings(self) -> dict[str, Any]:
        return {
            **self.engine.settings(),
            "labelled_share": self.share,
            "labelled_by": "class, at least one",
            "validation": "of each class at most as many as labelled",
        }

    def predict(self, fit: Fit) -> Predictions:
        """Draw the labelled tiles and hand them to the engine."""
        labelled, held = self.draw(fit)
        answer = self.engine.predict(fit.few(labelled, held))
        budget = f"{len(labelled)} labelled, {len(held)} to choose on"
        return Predictions(answer.predicted, answer.scores, f"{budget}, {answer.remark}" if answer.remark else budget)

    def draw(self, fit: Fit) -> tuple[np.ndarray, np.ndarray]:
        """Return the positions kept of train and of validation, int64, ascending."""
        labelled, held = [], []
        for code in np.unique(fit.train_labels):
            own, rest = (np.flatnonzero(labels == code) for labels in (fit.train_labels, fit.validation_labels))
            count = max(1, int(self.share * len(own) + 0.5))
            labelled.append(_first(own, count, derived_seed("labelled", fit.seed, int(code))))
            held.append(_first(rest, count, derived_seed("held", fit.seed, int(code))))
        return np.sort(np.concatenate(labelled)), np.sort(np.concatenate(held))


def _first(positions: np.ndarray, count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(positions)[:count]


ENGINES = {
    f"linear_{name}": lambda schedule, share=share: FewLabels(Linear(refit=False), share)
    for name, share in SHARES.items()
} | {
    f"finetune_{name}": lambda schedule, share=share: FewLabels(Finetune(schedule), share)
    for name, share in SHARES.items()
}
