"""The keys of a task's YAML."""

from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf

from results.errors import UserError
from results.settings import compose, load_yaml


@dataclass
class TaskSettings:
    """One task.

    Attributes:
        name: name in records; None derives `<cohort>-tiles`.
        version: raised with every change that moves a number.
        kind: the loader; `tile_labels` is the one there is.
        rehearsal: whether the task is for synthetic slides; it must agree with the store.
        min_label_share: least share of a tile's area that must have its label, 0 to 1.
        validation_share: share of the slides outside the test fold that chooses hyperparameters, 0 to 1.
        max_tiles_per_slide: cap on a slide's tiles, evenly spaced by tile id; None keeps all.
    """

    name: str | None = None
    version: int = 1
    kind: str = "tile_labels"
    rehearsal: bool = False
    min_label_share: float = 0.7
    validation_share: float = 1 / 3
    max_tiles_per_slide: int | None = None


def known_tasks() -> list[str]:
    """Return the names of the tasks that come with the package."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.yaml"))


def read_task(spec: str, max_tiles_per_slide: int | None = None) -> TaskSettings:
    """Read a task by name or by the path of a YAML file.

    Args:
        spec: a name of `known_tasks()` or a path that ends in `.yaml`.
        max_tiles_per_slide: takes the place of the file's own cap when given.

    Raises:
        UserError: for an unknown name, key or kind, or a value outside its range.
    """
    path = Path(spec) if spec.endswith((".yaml", ".yml")) else Path(__file__).parent / f"{spec}.yaml"
    if not path.is_file():
        raise UserError(
            f"task '{spec}' is not known: choose {', '.join(known_tasks())}, or give the path of a YAML file."
        )
    settings: TaskSettings = OmegaConf.to_object(
        compose(OmegaConf.structured(TaskSettings), [(str(path), load_yaml(path))], {})
    )
    if max_tiles_per_slide is not None:
        settings.max_tiles_per_slide = max_tiles_per_slide
    if settings.kind != "tile_labels":
        raise UserError(f"{path}: kind '{settings.kind}' has no loader, 'tile_labels' is the one there is.")
    if not 0 <= settings.min_label_share <= 1:
        raise UserError(f"{path}: min_label_share={settings.min_label_share} must lie between 0 and 1.")
    if not 0 < settings.validation_share < 1:
        raise UserError(f"{path}: validation_share={settings.validation_share} must lie between 0 and 1.")
    if settings.max_tiles_per_slide is not None and settings.max_tiles_per_slide < 1:
        raise UserError(
            f"max_tiles_per_slide={settings.max_tiles_per_slide} must be a whole number above 0, or null for all tiles."
        )
    return settings
