"""Export: backbone.safetensors with torchvision names, card.json, and the run's SUMMARY.md."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors.torch import save_file

from pretrain import backbones, checkpoint
from pretrain.runs import Run
from pretrain.tiles import TileStore
from pretrain.views import MEAN, STD
from results import provenance
from results.errors import UserError
from results.files import file_digest, replacing, write_json

SCHEMA = 1
MADE_BY = "sgcl-bench"
PREFIX = "backbone."
LICENCE = "Weights trained by the user: they carry the terms of the slides they were trained on; check those before passing them on."
MOST_NAMED = 10
"""Failed slides that a summary names."""
LICENCE_REHEARSAL = "Trained on synthetic rehearsal slides: Apache-2.0, of no use on real tissue."


def export(run: Run) -> Path:
    """Write `export/backbone.safetensors` and `export/card.json` of the newest checkpoint; nothing when they are there already.

    The file's bytes depend on the weights alone. Batch norm statistics are the mean over ranks.

    Returns:
        the safetensors path.

    Raises:
        UserError: when the run has no checkpoint yet.
    """
    folder = run.root / "export"
    path, card_path = folder / "backbone.safetensors", folder / "card.json"
    content = checkpoint.load(run.root / "checkpoints")
    if content is None:
        raise UserError(f"{run.root} has no checkpoint yet: train it first with `python -m pretrain train`.")
    progress = content["progress"]
    if is_exported(run, progress["step"]):
        return path
    state = content["parameters"] | checkpoint.mean_buffers(content["buffers"])
    tensors = {name[len(PREFIX) :]: value.contiguous() for name, value in state.items() if name.startswith(PREFIX)}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"made_by": MADE_BY})  # one key: safetensors writes several in any order
        try:
            card = make_card(run, progress, file_digest(temporary))
        except OmegaConfBaseException as error:
            reason = str(error).partition("\n")[0]
            raise UserError(
                f"{run.root}/config.yaml does not say what a run's must ({reason}): restore it, nothing was exported."
            ) from error
    write_json(card_path, card)
    summary = describe(run, card, progress, TileStore(Path(run.info["store"])).failed)
    with replacing(run.root / "SUMMARY.md") as temporary:
        temporary.write_text(summary, encoding="utf-8")
    return path


def is_exported(run: Run, step: int) -> bool:
    """Whether the export of this step is complete."""
    folder = run.root / "export"
    try:
        card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        return card["step"] == step and card["digest"] == file_digest(folder / "backbone.safetensors")
    except (OSError, ValueError, KeyError):
        return False


def make_card(run: Run, progress: dict[str, Any], digest: str) -> dict[str, Any]:
    """What the file is, for a person and for `transfer` (docs/architecture.md)."""
    config = run.config()
    store = TileStore(Path(run.info["store"]))
    summary = store.summary
    rehearsal = bool(summary["rehearsal"])
    same = store.digest == run.info["store_digest"]
    if not same:
        print(
            f"warning: {store.root} holds other tiles than {run.root.name} was trained on, so its card does not say which slides "
            "were seen, and scores will be marked unknown.",
            file=sys.stderr,
        )
    slides = (
        sum(s["status"] == "done" for s in summary["slides"].values()) if summary.get("known_slides", True) else None
    )
    return {
        "schema": SCHEMA,
        "name": config.name or run.info.get("label", config.method),
        "digest": digest,
        "backbone": config.backbone,
        "feature_dim": backbones.FEATURE_DIMS[config.backbone],
        "input": {
            "size": config.views.size,
            "tile": config.tile,
            "mpp": config.mpp,
            "mean": list(MEAN),
            "std": list(STD),
        },
        "method": config.method,
        "options": OmegaConf.to_container(config[config.method]),
        "seed": config.seed,
        "epochs": progress["epoch"],
        "step": progress["step"],
        "finished": run.finished,
        "tiles_seen": progress["tiles_seen"],
        "device_hours": round(progress["device_seconds"] / 3600, 4),
        "data": {
            "cohort": summary["cohort"],
            "store_digest": run.info["store_digest"],
            "decoder": store.decoder if same else None,
            "seen": store.origins() if same else None,
            "tiles": summary["tiles"] if same else None,
            "slides": slides if same else None,
            "rehearsal": rehearsal,
        },
        "git_revision": run.info["git_revision"],
        "versions": run.info["versions"],
        "hardware": run.info["hardware"],
        "licence": LICENCE_REHEARSAL if rehearsal else LICENCE,
        "created": provenance.now(),
    }


def describe(run: Run, card: dict[str, Any], progress: dict[str, Any], failed: Sequence[tuple[str, str]] = ()) -> str:
    """SUMMARY.md: a run in twenty lines; `failed` are (slide, reason) of those that could not be tiled."""
    data, gpus = card["data"], card["hardware"]["gpus"]
    lines = [
        f"# {card['name']} on {data['cohort']}" + (" (rehearsal: synthetic slides)" if data["rehearsal"] else ""),
        "",
        f"- state: {'trained' if card['finished'] else 'stopped early'}, {card['epochs']} epochs, {card['step']} steps, {card['tiles_seen']} tiles seen",
        f"- data: {'unknown' if data['tiles'] is None else data['tiles']} tiles of {'unknown' if data['slides'] is None else data['slides']} slides, store {data['store_digest'][:12]}, {card['input']['tile']} px at {card['input']['mpp'] or 'unknown'} um/px",
        *([f"- left out: {len(failed)} slide(s) could not be tiled"] if failed else []),
        *(f"  - {name}: {reason}" for name, reason in failed[:MOST_NAMED]),
        *([f"  - and {len(failed) - MOST_NAMED} more, in store.json of the store"] if len(failed) > MOST_NAMED else []),
        f"- encoder: {card['backbone']}, seen at {card['input']['size']} px, {card['feature_dim']} features, digest {card['digest'][:12]}",
        f"- time: {card['device_hours']:.3f} device hours on {', '.join(gpus) or card['hardware']['cpu']}, {run.info['processes']} process(es)",
        f"- code: {card['git_revision']}, torch {card['versions'].get('torch')}, seed {card['seed']}",
        *(f"- {name.replace('_', ' ')}: {value:.4f} (monitor only)" for name, value in progress["numbers"].items()),
        *(f"- {name}: {value} (scaled to the number of tiles)" for name, value in run.info.get("resolved", {}).items()),
        "",
        "Settings: `config.yaml`. Curve: `metrics.jsonl`, or `tensorboard --logdir` on this folder. Backbone: `export/`.",
    ]
    return "\n".join(lines) + "\n"
