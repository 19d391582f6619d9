"""The YAML of a classification task: which keys it may have, and which file loads it.

A kind of task is one file in this folder with a `KIND`; a task is one YAML that names its kind.
"""

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from results.errors import UserError
from results.settings import compose, load_yaml
from transfer.tasks.tile_task import TileTask


@dataclass
class TaskSettings:
    """The keys that every classification task has.

    Attributes:
        name: name in records; None lets the loader derive one.
        version: raised with every change that moves a number.
        kind: the loader, a file of this folder.
        validation_share: share of what is not tested on that chooses hyperparameters, 0 to 1.
    """

    name: str | None = None
    version: int = 1
    kind: str = ""
    validation_share: float = 1 / 3

    def check(self, where: str) -> None:
        """Raise a UserError for a value outside its range."""
        if not 0 < self.validation_share < 1:
            raise UserError(f"{where}: validation_share={self.validation_share} must lie between 0 and 1.")


@dataclass(frozen=True)
class Request:
    """What a person asked of a task.

    Attributes:
        work: folder of tile stores, synthetic cohorts and what may be kept between calls.
        root: folder of the data set, for tasks that are folders of images.
        store: a tile store, for tasks on tile stores; None takes the newest labelled one under `work`.
        trials: how many splits.
        seed: of the splits.
    """

    work: Path
    root: str | None = None
    store: str | None = None
    trials: int = 3
    seed: int = 0


@dataclass(frozen=True)
class Kind:
    """A kind of task: the dataclass of its keys (a `TaskSettings`) and its loader."""

    settings: type[TaskSettings]
    load: Callable[[Any, Request], TileTask]


def known_tasks() -> list[str]:
    """Return the names of the classification tasks that come with the package."""
    files = Path(__file__).parent.glob("*.yaml")
    return sorted(path.stem for path in files if _kind_of(load_yaml(path)) is not None)


def _kind_of(content: dict[str, Any]) -> Kind | None:
    name = content.get("kind", "tile_labels")
    place = f"{__package__}.{name}"
    if not isinstance(name, str) or not name.isidentifier() or importlib.util.find_spec(place) is None:
        return None
    kind = getattr(importlib.import_module(place), "KIND", None)
    return kind if isinstance(kind, Kind) else None


def read_task(spec: str, max_tiles_per_slide: int | None = None) -> TaskSettings:
    """Read a task by name or by the path of a YAML file.

    Args:
        spec: a name of `known_tasks()` or a path that ends in `.yaml`.
        max_tiles_per_slide: takes the place of the file's own cap when given.

    Raises:
        UserError: for an unknown name, key or kind, or a value outside its range.
    """
    path = Path(spec) if spec.endswith((".yaml", ".yml")) else Path(__file__).parent / f"{spec}.yaml"
    content = load_yaml(path) if path.is_file() else None
    if content is None:
        raise UserError(
            f"task '{spec}' is not known: choose {', '.join(known_tasks())}, or give the path of a YAML file."
        )
    kind = _kind_of(content)
    if kind is None:
        raise UserError(
            f"{path}: kind '{content.get('kind')}' has no loader for classification: choose {', '.join(known_tasks())}, or see what "
            "kinds these have."
        )
    settings: TaskSettings = OmegaConf.to_object(
        compose(OmegaConf.structured(kind.settings), [(str(path), content)], {})
    )
    if max_tiles_per_slide is not None:
        if not hasattr(settings, "max_tiles_per_slide"):
            raise UserError(
                f"max_tiles_per_slide={max_tiles_per_slide} is for tasks with slides, and {spec} knows none."
            )
        settings.max_tiles_per_slide = max_tiles_per_slide
    settings.check(str(path))
    return settings


def load_task(settings: TaskSettings, request: Request) -> TileTask:
    """Load a task's tiles and deal its splits; a UserError says what is missing or does not fit."""
    kind = _kind_of({"kind": settings.kind})
    if kind is None:
        raise UserError(f"kind '{settings.kind}' has no loader for classification.")
    if request.trials < 1:
        raise UserError(f"trials={request.trials} must be 1 or more.")
    return kind.load(settings, request)
