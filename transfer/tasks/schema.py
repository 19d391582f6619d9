"""The YAML of a task: which keys it may have, and which file loads it.

A kind of task is one file in this folder with a `KIND`; a task is one YAML that names its kind.
"""

import importlib
import importlib.util
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from results.errors import UserError
from results.settings import compose, load_yaml

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
MOST_TRIALS = 1000


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


def task_root(request: Request, layout: str) -> Path:
    """Return the folder of a data set: `root`, or that of the newest synthetic cohort under `work/cohorts`.

    Args:
        request: what was asked for.
        layout: name of the data's folder in a synthetic cohort, such as `nucls`.

    Raises:
        UserError: when the folder is not there, or there is neither.
    """
    if request.root:
        root = Path(request.root)
        if not root.is_dir():
            inside = Path("/.dockerenv").exists()
            hint = " (a container has the folder of `make env DATA=FOLDER` under /data)" if inside else ""
            raise UserError(f"task.root={root} is not a folder: give the folder of the {layout} data set{hint}.")
        return root
    made = [path for path in (request.work / "cohorts").glob(f"*/{layout}") if path.is_dir()]
    if not made:
        raise UserError(
            f"there is no {layout} data: give task.root=FOLDER, or make synthetic slides first with 'python -m pretrain tile'."
        )
    return max(made, key=lambda path: (path.parent.stat().st_mtime, path))


def readable(path: Path) -> Path:
    """Return a path whose name can stand in records, which are UTF-8; any other one is a UserError."""
    try:
        path.name.encode()
    except UnicodeEncodeError:
        raise UserError(f"{path} has a name that is not UTF-8, which no record can hold: rename it.") from None
    return path


@dataclass(frozen=True)
class Kind:
    """A kind of task: the dataclass of its keys (with `check(where)`), its loader, and what it asks of an encoder."""

    settings: type[Any]
    load: Callable[[Any, Request], Any]
    purpose: str = "classification"


def known_tasks(purpose: str = "classification") -> list[str]:
    """Return the names of the tasks of one purpose that come with the package."""
    files = Path(__file__).parent.glob("*.yaml")
    return sorted(path.stem for path in files if _kind_of(load_yaml(path), purpose) is not None)


def _kind_of(content: dict[str, Any], purpose: str) -> Kind | None:
    name = content.get("kind", "tile_labels")
    place = f"{__package__}.{name}"
    if not isinstance(name, str) or not name.isidentifier() or importlib.util.find_spec(place) is None:
        return None
    kind = getattr(importlib.import_module(place), "KIND", None)
    return kind if isinstance(kind, Kind) and kind.purpose == purpose else None


def read_task(spec: str, purpose: str = "classification", changes: Mapping[str, Any] | None = None) -> Any:
    """Read a task by name or by the path of a YAML file.

    Args:
        spec: a name of `known_tasks()` or a path that ends in `.yaml`.
        purpose: `classification`, `detection` or `segmentation`.
        changes: keys that take the place of the file's own; None values change nothing.

    Returns:
        The settings of the task's kind, checked.

    Raises:
        UserError: for an unknown name, key or kind, or a value outside its range.
    """
    path = Path(spec) if spec.endswith((".yaml", ".yml")) else Path(__file__).parent / f"{spec}.yaml"
    content = load_yaml(path) if path.is_file() else None
    if content is None:
        raise UserError(
            f"task '{spec}' is not known for {purpose}: choose {', '.join(known_tasks(purpose))}, or give the path of a YAML file."
        )
    kind = _kind_of(content, purpose)
    if kind is None:
        raise UserError(
            f"task '{spec}' is none for {purpose}, its kind '{content.get('kind')}' has no loader for {purpose}: choose "
            f"{', '.join(known_tasks(purpose))}, or the command that is for it."
        )
    settings = OmegaConf.to_object(compose(OmegaConf.structured(kind.settings), [(str(path), content)], {}))
    for key, value in (changes or {}).items():
        if value is None:
            continue
        if not hasattr(settings, key):
            raise UserError(f"{key}={value} is not a setting of task {spec}, whose kind is '{settings.kind}'.")
        setattr(settings, key, value)
    _check_identity(settings, str(path))
    settings.check(str(path))
    return settings


def _check_identity(settings: Any, where: str) -> None:
    """Raise a UserError for a name or version that has no place in records and file names."""
    name, version = settings.name, settings.version
    if name is not None and not NAME.fullmatch(str(name)):
        raise UserError(
            f"{where}: name={str(name)[:100]!r} must be 1 to 80 letters, digits, points, hyphens and underscores, a letter or digit first."
        )
    if not (NAME.fullmatch(version) if isinstance(version, str) else 0 <= version < 10**9):
        raise UserError(f"{where}: version={str(version)[:100]!r} must be a whole number, such as 1.")
    full = getattr(settings, "full_set", None)
    if full is not None and full < 1:
        raise UserError(
            f"{where}: full_set={full} must be 1 or more, or null where the size of the whole data set is not known."
        )


def load_task(settings: Any, request: Request, purpose: str = "classification") -> Any:
    """Load a task's data and deal its splits; a UserError says what is missing or does not fit."""
    kind = _kind_of({"kind": settings.kind}, purpose)
    if kind is None:
        raise UserError(f"kind '{settings.kind}' has no loader for {purpose}.")
    if not 1 <= request.trials <= MOST_TRIALS:
        raise UserError(f"trials={request.trials} must lie from 1 to {MOST_TRIALS}.")
    return kind.load(settings, request)
