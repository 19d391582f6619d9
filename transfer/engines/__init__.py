"""Engines: plain arrays in, predictions per unit out. Heavy libraries are imported inside the engine that needs them.

An engine of classification is one file here with a table `ENGINES`, from its names to what builds it for a schedule. Detection and
segmentation have folders of their own.
"""

import functools
import importlib
import pkgutil
from collections.abc import Callable

from transfer.engines.base import SCHEDULES, Engine, Fit, Images, Predictions

__all__ = ["SCHEDULES", "Engine", "Fit", "Images", "Predictions", "known_engines"]


@functools.cache
def known_engines() -> dict[str, Callable[[str], Engine]]:
    """Return the engines of classification by name, sorted; each is built from the name of a schedule."""
    files = [module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg]
    tables = [getattr(importlib.import_module(f"{__name__}.{name}"), "ENGINES", {}) for name in files]
    return dict(sorted((name, build) for table in tables for name, build in table.items()))
