"""A linear probe: what a plane through the features is worth."""

import warnings
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from transfer.engines.base import Fit, Predictions


@dataclass(frozen=True)
class Linear:
    """Multinomial logistic regression with an L2 penalty (scikit-learn, lbfgs) on standardised features.

    The strength C is the one with the best balanced accuracy on the validation slides (the smallest among equals), searched
    from the strongest penalty to the weakest, each started from the one before. The model is then fitted anew on train and
    validation together, and the test rows are used once. No random numbers are drawn.
    """

    strengths: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2)
    iterations: int = 300
    tolerance: float = 1e-4

    def settings(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "strengths": list(self.strengths),
            "standardised": True,
            "chosen_by": "balanced accuracy on validation",
        }

    def predict(self, fit: Fit) -> Predictions:
        """Choose, refit, label the test rows; scores are class probabilities, 0 for a class without training tiles."""
        strength = self._choose(fit)
        features = np.concatenate([fit.train, fit.validation])
        labels = np.concatenate([fit.train_labels, fit.validation_labels])
        mean, scale = _scaling(features)
        model = self._fresh(strength)
        finished = _fit(model, (features - mean) / scale, labels)
        scores = np.zeros((len(fit.test), fit.classes), dtype=np.float32)
        scores[:, model.classes_] = model.predict_proba((fit.test - mean) / scale)
        remark = f"C={strength:g}" + ("" if finished else f", stopped after {self.iterations} iterations")
        return Predictions(scores.argmax(axis=1).astype(np.int32), scores, remark)

    def _choose(self, fit: Fit) -> float:
        mean, scale = _scaling(fit.train)
        train, validation = (fit.train - mean) / scale, (fit.validation - mean) / scale
        model = self._fresh(self.strengths[0])
        model.warm_start = True
        quality = []
        for strength in sorted(self.strengths):
            model.C = strength
            _fit(model, train, fit.train_labels)
            quality.append(_balanced_accuracy(fit.validation_labels, model.predict(validation)))
        return sorted(self.strengths)[int(np.argmax(quality))]

    def _fresh(self, strength: float) -> Any:
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(C=strength, max_iter=self.iterations, tol=self.tolerance)


def _fit(model: Any, features: np.ndarray, labels: np.ndarray) -> bool:
    """Fit and tell whether the solver reached its tolerance."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(features, labels)
    return not any(issubclass(warning.category, ConvergenceWarning) for warning in caught)


def _scaling(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation (D,) float64; 1 stands for the deviation of a constant feature."""
    mean, deviation = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    return mean, np.where(deviation > 1e-8 * (1 + np.abs(mean)), deviation, 1.0)


def _balanced_accuracy(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Mean recall over the classes that occur."""
    return float(np.mean([(predicted[labels == c] == c).mean() for c in np.unique(labels)]))
