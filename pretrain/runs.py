"""Run folders: found again by what they compute, locked while trained, readable by a person."""

import fcntl
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pretrain.config import settings_digest
from results import provenance
from results.errors import UserError
from results.files import replacing, write_json
from results.settings import load_yaml

SCHEMA = 1


class Run:
    """One folder under work/runs. `info` is what run.json holds."""

    def __init__(self, root: Path):
        self.root = root
        self.info = read_info(root)

    @property
    def finished(self) -> bool:
        """Whether all epochs are trained."""
        return self.info["state"] == "trained"

    def update(self, **facts: Any) -> None:
        """Change facts in run.json."""
        self.info |= facts
        write_json(self.root / "run.json", self.info)

    def config(self) -> DictConfig:
        """The resolved settings the run was made with."""
        return OmegaConf.create(load_yaml(self.root / "config.yaml"))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for this process; a second trainer of the same run is a UserError."""
        with open(self.root / ".lock", "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise UserError(
                    f"{self.root} is being trained by another process: wait for it, or give run=NAME for a second run."
                ) from error
            yield


def read_info(root: Path) -> dict[str, Any]:
    """Read run.json; a UserError when the folder is no run."""
    path = root / "run.json"
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{root} is not a run folder: run.json cannot be read there.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: restore the file or move that run folder away.") from error
    told = ("state", "settings_digest", "store", "store_digest")
    kinds = {"label": str, "resolved": dict}
    if (
        not isinstance(info, dict)
        or not all(isinstance(info.get(name), str) for name in told)
        or type(info.get("processes")) is not int
        or not all(isinstance(info.get(name, kind()), kind) for name, kind in kinds.items())
    ):
        raise UserError(
            f"{path} is damaged, it lacks or mistakes what a run states: restore the file or move that run folder away."
        )
    return info


def list_runs(work: Path) -> list[Path]:
    """Run folders under work/runs, oldest first."""
    return sorted(
        (p.parent for p in work.glob("runs/*/run.json")), key=lambda root: (root.name.rpartition("-")[2], root.name)
    )


def find_run(config: DictConfig, store: Any, processes: int | None = None) -> Run | None:
    """Return the run of these settings and this store, if one was begun.

    Args:
        config: the settings.
        store: the tiles.
        processes: how many train, on which batches and steps depend; None takes a run of any number.

    Raises:
        UserError: when `run=NAME` names a run of other settings, of another tile store or of another number of processes.
    """
    work, digest = Path(config.work), settings_digest(config, store.digest)
    if config.run is not None:
        root = work / "runs" / config.run
        if not root.exists():
            return None
        run = Run(root)
        if run.info["settings_digest"] != digest:
            raise UserError(
                f"run={config.run} exists with other settings or another tile store ({root}/config.yaml): choose another name."
            )
        if processes not in (None, run.info["processes"]):
            raise UserError(
                f"run={config.run} was begun with {run.info['processes']} process(es), not {processes}, and its batches and steps "
                f"depend on it: give train.processes={run.info['processes']} or choose another name."
            )
        return run
    for root in reversed(list_runs(work)):
        try:
            run = Run(root)
        except UserError as error:
            print(f"warning: left aside: {error}", file=sys.stderr)
            continue
        if run.info["settings_digest"] == digest and processes in (None, run.info["processes"]):
            return run
    return None


def open_run(config: DictConfig, store: Any, processes: int) -> Run:
    """Return the run of these settings and this store, or begin one."""
    found = find_run(config, store, processes)
    if found is not None:
        return found
    other = None if config.run else find_run(config, store)
    if other is not None:
        print(
            f"note: a new run with {processes} process(es); {other.root.name} has the same settings and {other.info['processes']}, "
            "and batches and steps depend on it.",
            file=sys.stderr,
        )
    name = config.run or _fresh_name(config, store)
    if not re.fullmatch(r"[\w.()+-]+", name) or name.startswith("."):
        raise UserError(f"run={name} cannot be a folder name: use letters, digits, '.', '_' and '-'.")
    root = Path(config.work) / "runs" / name
    (root / "checkpoints").mkdir(parents=True, exist_ok=True)
    with replacing(root / "config.yaml") as temporary:
        temporary.write_text(OmegaConf.to_yaml(config), encoding="utf-8")
    info = {
        "schema": SCHEMA,
        "state": "begun",
        "settings_digest": settings_digest(config, store.digest),
        "store": str(store.root),
        "store_digest": store.digest,
        "seed": config.seed,
        "processes": processes,
        "git_revision": provenance.git_revision(),
        "versions": provenance.versions(),
        "hardware": provenance.hardware(),
        "created": provenance.now(),
    }
    write_json(root / "run.json", info)
    return Run(root)


def _fresh_name(config: DictConfig, store: Any) -> str:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    base = f"{config.method}-{store.summary['cohort']}-{stamp}"
    name, count = base, 1
    while (Path(config.work) / "runs" / name).exists():
        count += 1
        name = f"{base}.{count}"
    return name


def truncate_metrics(path: Path, step: int) -> None:
    """Drop the lines of metrics.jsonl after `step`, and a half-written last line: what a resumed run will write again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            break
    with replacing(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def append_line(path: Path, value: dict[str, Any]) -> None:
    """Append one JSON line and hand it to the system at once."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(value) + "\n")
        file.flush()
        os.fsync(file.fileno())
