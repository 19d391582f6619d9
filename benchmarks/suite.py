"""What a suite is: a short YAML, its overrides, and the commands they amount to."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from results.errors import UserError
from results.files import value_digest
from results.record import slug
from results.settings import compose, load_yaml, split_overrides

SUITES = Path(__file__).parent / "suites"
OWNED = {
    "pretrain": ("cohort", "recipe", "method", "seed", "work", "run"),
    "transfer": ("encoder", "task", "trials", "floors", "work", "records"),
}
"""Keys of the commands that the suite sets by itself; the rest may be handed through as `pretrain.KEY` or `transfer.KEY`."""


@dataclass
class Suite:
    """The settings of one suite.

    Attributes:
        cohort, recipe: what pretraining sees and how; `recipe` None takes the defaults.
        methods, seeds: every method is pretrained once a seed.
        variants: row name -> settings of `pretrain` that make it, for one method (or the `method` among them); each is
            pretrained once a seed.
        task, trials, floors: what `transfer classify` scores them on; `task` None takes what fits the tile store.
        audit: whether `pretrain audit` looks at every run with positive pairs.
        base: the row (a variant, or a method) that the report compares the others with.
        jobs: how many pretraining runs go on side by side, each with its share of the cores.
        work, records, tables: where runs, records and tables go.
        pretrain, transfer: settings handed through to these commands, `dotted.key: value`; those of one method go to its runs alone.
    """

    cohort: str = "rehearsal"
    recipe: str | None = None
    methods: list[str] = field(default_factory=lambda: ["sgcl"])
    seeds: list[int] = field(default_factory=lambda: [0])
    task: str | None = None
    trials: int = 3
    floors: bool = True
    audit: bool = False
    base: str | None = None
    jobs: int = 1
    variants: Any = field(default_factory=dict)
    work: str = "work"
    records: str = "results/records"
    tables: str = "results/tables"
    pretrain: Any = field(default_factory=dict)
    transfer: Any = field(default_factory=dict)


def known_suites() -> list[str]:
    """Return the names of the suites that come with the package."""
    return sorted(path.stem for path in SUITES.glob("*.yaml"))


def load_suite(spec: str, arguments: list[str]) -> tuple[str, Suite]:
    """Read a suite and lay `key=value` arguments over it.

    Args:
        spec: a known name, or the path of a YAML file.
        arguments: suite keys, or `pretrain.KEY=VALUE` and `transfer.KEY=VALUE` for the commands.

    Returns:
        the suite's name and its settings, with text values in `pretrain` and `transfer`.

    Raises:
        UserError: for an unknown suite or key, a wrong type, or an empty list of methods or seeds.
    """
    path = Path(spec) if spec.endswith((".yaml", ".yml")) else SUITES / f"{spec}.yaml"
    if not path.is_file():
        raise UserError(
            f"suite '{spec}' is not known: choose {', '.join(known_suites())}, or give the path of a YAML file."
        )
    own, layer = {}, load_yaml(path)
    handed = {command: _flat(layer.pop(command, None) or {}, f"{path}: {command}") for command in OWNED}
    variants = _variants(layer.pop("variants", None) or {}, path)
    for key, text in split_overrides(arguments).items():
        command, _, rest = key.partition(".")
        if command in OWNED and rest:
            handed[command][rest] = text
        else:
            own[key] = text
    for command, keys in handed.items():
        for key in keys:
            if key in OWNED[command]:
                raise UserError(f"'{command}.{key}' is set by the suite itself: {_instead(key)}.")
    suite: Suite = OmegaConf.to_object(compose(OmegaConf.structured(Suite), [(str(path), layer)], own))
    suite.pretrain, suite.transfer, suite.variants = handed["pretrain"], handed["transfer"], variants
    if variants and len(suite.methods) != 1:
        raise UserError(f"methods={suite.methods} must name one method, since {path} has variants of it.")
    for name in ("methods", "seeds"):
        values = getattr(suite, name)
        if not values or len(set(values)) != len(values):
            raise UserError(
                f"{name}={values} must be a list without repeats and not empty, such as {name}={getattr(Suite(), name)}."
            )
    if suite.base is not None and suite.base not in plans(suite):
        raise UserError(f"base={suite.base} is no row of {path}: choose one of {', '.join(plans(suite))}.")
    if suite.jobs < 1:
        raise UserError(f"jobs={suite.jobs} is too small: give 1 or more.")
    if suite.trials < 1:
        raise UserError(f"trials={suite.trials} is too small: give 1 or more.")
    for seed in suite.seeds:
        if not 0 <= seed < 2**32:
            raise UserError(f"seeds={suite.seeds} does not fit: give whole numbers from 0 to {2**32 - 1}.")
    _refuse_one_run_for_two(path.stem, suite)
    return path.stem, suite


def _refuse_one_run_for_two(name: str, suite: Suite) -> None:
    """Two rows that make one run would be one training, counted twice."""
    rows: dict[str, str] = {}
    for plan, own in plans(suite).items():
        run = run_name(name, suite, plan, own, suite.seeds[0])
        if run in rows:
            raise UserError(
                f"rows '{rows[run]}' and '{plan}' of {name} have the same settings and would be one run, {run}: leave one out."
            )
        rows[run] = plan


def _variants(layer: Any, path: Path) -> dict[str, dict[str, str]]:
    """Read the variants: row name -> flat settings, none of which the suite sets by itself."""
    if not isinstance(layer, Mapping):
        raise UserError(f"{path}: variants must hold 'row name: {{settings}}' lines.")
    variants = {str(name): _flat(own or {}, f"{path}: variants.{name}") for name, own in layer.items()}
    for name, own in variants.items():
        if not name.strip():
            raise UserError(f"{path}: variants has a row without a name: give it one.")
        if "name" in own:
            raise UserError(f"{path}: variants.{name} sets 'name', but a row is called as its line is: leave it out.")
        taken = [key for key in own if key in OWNED["pretrain"] and key != "method"]
        if taken:
            raise UserError(
                f"{path}: variants.{name} sets '{taken[0]}', which the suite sets by itself: {_instead(taken[0])}."
            )
    return variants


def _flat(layer: Any, where: str, prefix: str = "") -> dict[str, str]:
    if not isinstance(layer, Mapping):
        raise UserError(f"{where} must hold 'key: value' lines.")
    flat = {}
    for key, value in layer.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, where, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = _text(value)
    return flat


def _instead(key: str) -> str:
    plural = {"method": "methods=[...]", "seed": "seeds=[...]"}
    fixed = {"run": "run folders are named after suite, method and seed", "encoder": "it scores the runs it made"}
    return fixed.get(key, f"write {plural.get(key, f'{key}=...')}")


def _text(value: Any) -> str:
    """Write a value the way the command line of every package reads it."""
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        return "[" + ",".join(_text(item) for item in value) + "]"
    return json.dumps(value)


def _settings(values: Mapping[str, Any]) -> list[str]:
    return [f"{key}={_text(value)}" for key, value in values.items() if value is not None]


def plans(suite: Suite) -> dict[str, dict[str, str]]:
    """Return row name -> the settings that make it: a method each, or the variants of one."""
    if suite.variants:
        return {variant: {"method": suite.methods[0], **own} for variant, own in suite.variants.items()}
    return {method: {"method": method} for method in suite.methods}


def run_name(name: str, suite: Suite, plan: str, own: Mapping[str, str], seed: int) -> str:
    """Return the name of one run; it ends in a digest of its settings, so a suite finds its runs again."""
    return f"{name}-{slug(plan)}-s{seed}-{value_digest(_what(suite, own, seed))[:8]}"


def _what(suite: Suite, own: Mapping[str, str], seed: int) -> dict[str, Any]:
    others = {plan["method"] for plan in plans(suite).values()} - {own["method"]}
    shared = {
        key: value for key, value in suite.pretrain.items() if key not in own and key.partition(".")[0] not in others
    }
    return {**shared, "cohort": suite.cohort, "recipe": suite.recipe, **own, "seed": seed}


def pretrain_commands(name: str, suite: Suite) -> dict[str, list[str]]:
    """Return run name -> arguments of `python -m pretrain`, one a method (or variant) and seed, the first seed first."""
    commands = {}
    for seed in suite.seeds:
        for plan, own in plans(suite).items():
            run = run_name(name, suite, plan, own, seed)
            named = {"name": plan} if suite.variants else {}
            commands[run] = _settings({**_what(suite, own, seed), **named, "work": suite.work, "run": run})
    return commands


def audit_commands(suite: Suite, runs: list[str]) -> dict[str, list[str]]:
    """Return run name -> arguments of `python -m pretrain audit`, of the runs whose newest checkpoint was not audited yet."""
    if not suite.audit:
        return {}
    waiting = [run for run in runs if not _audited(Path(suite.work) / "runs" / run)]
    return {run: ["audit", *_settings({"run": run, "work": suite.work})] for run in waiting}


def _audited(run: Path) -> bool:
    found, card = run / "audit" / "audit.json", run / "export" / "card.json"
    return found.is_file() and card.is_file() and found.stat().st_mtime >= card.stat().st_mtime


def transfer_command(suite: Suite, runs: list[str]) -> list[str]:
    """Return the arguments of `python -m transfer`, to be asked once the runs are there: they know their tile store."""
    folders = [Path(suite.work) / "runs" / run for run in runs]
    settings = {
        "encoder": [str(folder) for folder in folders],
        "task": suite.task,
        "trials": suite.trials,
        "floors": suite.floors,
    }
    store = _store_of(folders[0])
    places = {"work": suite.work, "records": suite.records}
    return ["classify", *_settings({**settings, **({"store": store} if store else {}), **places, **suite.transfer})]


def _store_of(run: Path) -> str | None:
    try:
        return json.loads((run / "run.json").read_text(encoding="utf-8")).get("store")
    except (OSError, ValueError):
        return None


def table_command(suite: Suite) -> list[str]:
    """Return the arguments of `python -m results`."""
    return ["table", *_settings({"records": suite.records, "out": suite.tables})]
