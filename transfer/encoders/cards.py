"""Exports on disk: finding them under a work folder, reading their cards, and holding the weights to the card's digest."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results.errors import UserError, printable
from results.files import file_digest

NEEDED = {"digest": str, "backbone": str, "feature_dim": int, "input": dict, "method": str, "data": dict}
NEEDED_INPUT = {"size": int, "mean": list, "std": list}
MOST_BYTES = 2**24


@dataclass(frozen=True)
class Export:
    """A `backbone.safetensors` with the card beside it."""

    weights: Path
    card: dict[str, Any]

    @property
    def name(self) -> str:
        """Row name: the card's name, or its method, and the cohort it was trained on."""
        return f"{self.card.get('name') or self.card['method']} on {self.cohort}"

    @property
    def run(self) -> str | None:
        """Name of the run folder that the export lies in; None for weights that were carried elsewhere."""
        folder = self.weights.resolve().parent
        name = folder.parent.name if folder.name == "export" else ""
        return name.encode("utf-8", "backslashreplace").decode() or None

    @property
    def cohort(self) -> str:
        return str(self.card["data"].get("cohort", "unknown cohort"))

    @property
    def age(self) -> tuple[str, str]:
        """Sort key, older first: the card's time, then the run folder's name."""
        return str(self.card.get("created", "")), self.weights.parent.parent.name

    @property
    def group(self) -> tuple[str, str, Any]:
        """What `encoder=all` keeps one export of: (method, cohort, seed), with the card's name where options tell runs apart."""
        seed = self.card.get("seed")
        named = str(self.card.get("name") or self.card["method"])
        return named, self.cohort, seed if isinstance(seed, int | str | None) else str(seed)


def open_export(path: Path) -> Export:
    """Open a run folder, an export folder or a safetensors file.

    Raises:
        UserError: when the file or its card is missing, the card is broken, or the file is not the one the card describes.
    """
    if path.is_dir():
        inner = path / "export"
        weights = (inner if inner.is_dir() else path) / "backbone.safetensors"
        if not weights.is_file():
            raise UserError(
                f"{path} holds no export/backbone.safetensors: let the run finish, or export it with 'python -m pretrain export'."
            )
    elif path.is_file():
        weights = path
    else:
        raise UserError(
            f"encoder '{path}' is neither a file nor a folder: give a run folder, a weight file, timm:NAME, torchvision:NAME, or one "
            "of latest, all, random, imagenet, mean_rgb, colour_histogram."
        )
    card = read_card(weights.with_name("card.json"))
    found = file_digest(weights)
    if found != card["digest"]:
        raise UserError(
            f"{weights} has digest {found[:12]}... but its card says {card['digest'][:12]}...: the file was changed or the card "
            "belongs to another one, export the run again."
        )
    return Export(weights, card)


def read_card(path: Path) -> dict[str, Any]:
    """Read a card and check the keys that scoring needs; a missing or broken one is a UserError."""
    if path.exists() and (not path.is_file() or path.stat().st_size > MOST_BYTES):
        raise UserError(
            f"{path} is no card: a plain file of at most {MOST_BYTES >> 20} MiB is expected, export the run again."
        )
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(card, ensure_ascii=False).encode()  # half a character, as JSON allows it, fails here
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing: the card says how tiles are resized and normalised, keep it beside the weights."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON ({str(error)[:120]}): export the run again.") from error
    card_dict = card if isinstance(card, dict) else {}
    _check(card_dict, NEEDED, path, "")
    _check(card_dict["input"], NEEDED_INPUT, path, "input.")
    _check_input(card_dict["input"], path)
    return card_dict


def _check_input(value: dict[str, Any], path: Path) -> None:
    """Refuse sizes and colours that no network was trained with."""

    def within(item: Any, least: float, most: float) -> bool:
        return isinstance(item, int | float) and not isinstance(item, bool) and least <= item <= most

    def shown(key: str) -> str:
        return str(value[key])[:80]

    if not within(value["size"], 8, 8192):
        raise UserError(f"{path} has input.size {shown('size')}: 8 to 8192 px are expected, export the run again.")
    for key, least in (("mean", -255), ("std", 1e-4)):
        if len(value[key]) != 3 or not all(within(item, least, 255) for item in value[key]):
            raise UserError(
                f"{path} has input.{key} {shown(key)}: three numbers are expected (std above 0), export the run again."
            )
    for key, most in (("tile", 2**16), ("mpp", 1000)):
        if value.get(key) is not None and not within(value[key], 1e-4, most):
            raise UserError(
                f"{path} has input.{key} {shown(key)}: a number above 0, at most {most}, is expected, export the run again."
            )


def _check(value: dict[str, Any], needed: dict[str, type], path: Path, prefix: str) -> None:
    for key, kind in needed.items():
        if not isinstance(value.get(key), kind):
            raise UserError(f"{path} has no valid '{prefix}{key}' ({kind.__name__} is expected): export the run again.")


def finished_exports(work: Path) -> list[Path]:
    """Return the run folders under `work`/runs that hold weights and a card and were not stopped early, oldest first by the card's time.

    A run whose card is damaged is left out, with a warning that names it.
    """
    return [run for run, export in _exports(work) if export.card.get("finished", True)]


def _exports(work: Path) -> list[tuple[Path, Export]]:
    found = []
    for card in sorted((work / "runs").glob("*/export/card.json")):
        if not card.with_name("backbone.safetensors").is_file():
            continue
        try:
            export = _peek(card.parent.parent)
        except UserError as error:
            print(printable(f"warning: a run is left out: {error}", sys.stderr), file=sys.stderr, flush=True)
            continue
        found.append((card.parent.parent, export))
    return sorted(found, key=lambda pair: (pair[1].age, pair[0]))


def newest(work: Path, method: str = "", cohort: str = "", seed: str = "") -> Path:
    """Return the newest finished run; empty arguments match everything, `method` matches the card's method or name."""
    wanted = {"method": method, "cohort": cohort, "seed": seed}
    for run in reversed(finished_exports(work)):
        export = _peek(run)
        fits = method in ("", export.card["method"], export.card.get("name"))
        if fits and cohort in ("", export.cohort) and seed in ("", str(export.card.get("seed"))):
            return run
    asked = (
        " with " + ", ".join(f"{key} {value}" for key, value in wanted.items() if value) if any(wanted.values()) else ""
    )
    raise UserError(
        f"{work / 'runs'} holds no finished export{asked}: run 'python -m pretrain' first, or name one with encoder=FOLDER."
    )


def newest_of_each(work: Path) -> tuple[list[Path], dict[str, str]]:
    """Return the newest finished run of every (method, cohort, seed), in order of these, and which runs are left out, with the reason."""
    exports = _exports(work)
    finished = [(run, export.group) for run, export in exports if export.card.get("finished", True)]
    found = {group: run for run, group in finished}
    if not found:
        newest(work)
    why = {run.name: "stopped early" for run, export in exports if not export.card.get("finished", True)}
    why |= {run.name: f"{found[group].name} is newer" for run, group in finished if found[group] != run}
    why |= {
        info.parent.name: "not exported"
        for info in (work / "runs").glob("*/run.json")
        if not (info.parent / "export" / "backbone.safetensors").is_file()
    }
    return [found[group] for group in sorted(found, key=str)], dict(sorted(why.items()))


def _peek(run: Path) -> Export:
    """Open an export by its card alone: the digest of the weights is checked when it is used."""
    export = run / "export"
    return Export(export / "backbone.safetensors", read_card(export / "card.json"))
