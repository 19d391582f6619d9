"""Multinomial logistic regression with an L2 penalty, solved to its optimum also where features are nearly collinear.

The minimised function is scikit-learn's: C * sum of the log losses + half the squared norm of the weights (not of the intercept),
divided by C n. Features of untrained or barely trained networks have condition numbers above 10^5, where a plain lbfgs
needs thousands of iterations and its score depends on where it was stopped. So features are turned into their principal axes, which
leaves the penalty as it is, and each axis is scaled by the curvature it has under Böhning's bound (Ann. Inst. Statist. Math. 1992)
with the penalty's: lbfgs then sees a well-conditioned problem.
"""

from dataclasses import dataclass

import numpy as np

ITERATIONS = 1000
TOLERANCE = 3e-5
"""Largest entry of the gradient, in the scaled coordinates."""


@dataclass(frozen=True)
class Axes:
    """Standardised principal axes of training features: `mean`, `scale` (D,), `basis` (D, D), `variance` (D,), all float64."""

    mean: np.ndarray
    scale: np.ndarray
    basis: np.ndarray
    variance: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> tuple["Axes", np.ndarray]:
        """Return the axes of features (n, D) and the features along them, float64."""
        from scipy.linalg import eigh

        mean, deviation = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
        scale = np.where(deviation > 1e-8 * (1 + np.abs(mean)), deviation, 1.0)
        standard = (features - mean) / scale
        variance, basis = eigh(standard.T @ standard / len(standard))
        axes = cls(mean, scale, basis, np.clip(variance, 0, None))
        return axes, standard @ basis

    def turn(self, features: np.ndarray) -> np.ndarray:
        """Return features (m, D) along the axes."""
        return ((features - self.mean) / self.scale) @ self.basis


@dataclass(frozen=True)
class Model:
    """Weights along the axes with the intercept in the last row, (D + 1, K), and whether the solver reached its tolerance."""

    weights: np.ndarray
    converged: bool

    def probabilities(self, turned: np.ndarray) -> np.ndarray:
        """Return the class probabilities (m, K) of turned features (m, D)."""
        from scipy.special import softmax

        return softmax(turned @ self.weights[:-1] + self.weights[-1], axis=1)


def fit(turned: np.ndarray, axes: Axes, labels: np.ndarray, strength: float, start: Model | None = None) -> Model:
    """Minimise from `start` (zero when None).

    Args:
        turned: (n, D) float64 along the axes.
        axes: where they come from.
        labels: (n,) integers 0 to K - 1, each of which occurs.
        strength: C, the inverse of the penalty.
    """
    from scipy.optimize import minimize
    from scipy.special import logsumexp

    rows, classes = len(turned), int(labels.max()) + 1
    penalty = 1 / (strength * rows)
    scaling = np.append(1 / np.sqrt(axes.variance / 4 + penalty), 1.0)[:, None]
    target = np.eye(classes)[labels]

    def loss_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(-1, classes) * scaling
        logits = turned @ weights[:-1] + weights[-1]
        norm = logsumexp(logits, axis=1, keepdims=True)
        loss = (norm.sum() - (logits * target).sum()) / rows + penalty / 2 * (weights[:-1] ** 2).sum()
        slope = (np.exp(logits - norm) - target) / rows
        gradient = np.vstack([turned.T @ slope + penalty * weights[:-1], slope.sum(axis=0)])
        return loss, (gradient * scaling).ravel()

    first = np.zeros((turned.shape[1] + 1, classes)) if start is None else start.weights / scaling
    options = {"maxiter": ITERATIONS, "maxfun": 2 * ITERATIONS, "gtol": TOLERANCE, "ftol": 0.0, "maxls": 50}
    found = minimize(loss_and_gradient, first.ravel(), jac=True, method="L-BFGS-B", options=options)
    reached = np.abs(found.jac).max() <= TOLERANCE
    return Model(found.x.reshape(-1, classes) * scaling, bool(reached))
