"""Engines: plain arrays in, predictions per unit out. Heavy libraries are imported inside the engine that needs them."""

from transfer.engines.base import Fit, Predictions
from transfer.engines.knn import KNN
from transfer.engines.linear import Linear

ENGINES = {"knn": KNN, "linear": Linear}

__all__ = ["ENGINES", "Fit", "Predictions"]
