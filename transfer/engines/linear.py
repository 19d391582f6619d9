"""A linear probe: what a plane through the features is worth."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from transfer.engines import logistic
from transfer.engines.base import Fit, Predictions, balanced_accuracy

SMALL = 10**7
"""Features (rows x D) below which one thread is faster than several that wait for each other."""


@dataclass(frozen=True)
class Linear:
    """Multinomial logistic regression with an L2 penalty on standardised features, at its optimum (`transfer.engines.logistic`).

    The strength C (as scikit-learn counts it) is the one with the best balanced accuracy on the validation slides, the smallest
    among equals; the search goes from the strongest penalty to the weakest, each started from the one before. The model is then
    fitted anew on train and validation together (on train alone without `refit`), and the test rows are used once. With no
    validation tile C is `unchosen`. No random numbers are drawn.
    """

    trains: ClassVar[bool] = False
    strengths: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2)
    unchosen: float = 1.0
    refit: bool = True

    def settings(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "strengths": list(self.strengths),
            "iterations": logistic.ITERATIONS,
            "tolerance": logistic.TOLERANCE,
            "standardised": True,
            "chosen_by": "balanced accuracy on validation",
        }

    def predict(self, fit: Fit) -> Predictions:
        """Choose, refit, label the test rows; scores are class probabilities, 0 for a class without training tiles."""
        with _threads(fit.train.size + fit.validation.size):
            strength = self._choose(fit)
            features, labels = fit.train, fit.train_labels
            if self.refit:
                features, labels = (
                    np.concatenate(pair) for pair in ((features, fit.validation), (labels, fit.validation_labels))
                )
            axes, turned = logistic.Axes.of(features)
            classes, codes = np.unique(labels, return_inverse=True)
            model = logistic.fit(turned, axes, codes, strength)
            scores = np.zeros((len(fit.test), fit.classes), dtype=np.float32)
            scores[:, classes] = model.probabilities(axes.turn(fit.test))
        remark = f"C={strength:g}" + ("" if len(fit.validation) else ", not chosen: no validation tiles")
        remark += "" if model.converged else f", stopped after {logistic.ITERATIONS} iterations"
        return Predictions(scores.argmax(axis=1).astype(np.int32), scores, remark)

    def _choose(self, fit: Fit) -> float:
        if not len(fit.validation):
            return self.unchosen
        axes, train = logistic.Axes.of(fit.train)
        validation = axes.turn(fit.validation)
        classes, codes = np.unique(fit.train_labels, return_inverse=True)
        strengths, quality, model = sorted(self.strengths), [], None
        for strength in strengths:
            model = logistic.fit(train, axes, codes, strength, model)
            predicted = classes[model.probabilities(validation).argmax(axis=1)]
            quality.append(balanced_accuracy(fit.validation_labels, predicted))
        return strengths[int(np.argmax(quality))]


def _threads(size: int) -> AbstractContextManager[Any]:
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1) if size < SMALL else nullcontext()


ENGINES = {"linear": lambda schedule: Linear()}
