"""`python -m pretrain audit`: a run's newest checkpoint and its tile store in, `audit/report.html` and `audit.json` out."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pretrain import checkpoint, methods, pages
from pretrain.audit import page, sets
from pretrain.audit.numbers import DIGITS, Cohort, agreement, cross_slide, histogram, per_class, quantiles
from pretrain.backbones import FEATURE_DIMS
from pretrain.distributed import World
from pretrain.methods.base import Method
from pretrain.methods.npid import NPID
from pretrain.randomness import uniform
from pretrain.runs import Run, list_runs
from pretrain.schema import Config, TrainSettings
from pretrain.tiles import TileStore
from pretrain.views import ViewSettings
from results.errors import UserError
from results.files import replacing, write_json, write_text
from results.settings import compose, split_overrides

SCHEMA = 1
GALLERIES, SHOWN, PICTURE = 12, 8, 112
NEIGHBOURS, RANDOM_PAIRS, FEATURE_TILES = 20, 64, 2000


@dataclass
class AuditSettings:
    """What the command takes: `run` is a name under `work`/runs or a run's folder, `store` where its tiles lie now."""

    run: str | None = None
    work: str = "work"
    anchors: int = 512
    store: str | None = None


def command(arguments: list[str]) -> int:
    """Audit the run that `key=value` arguments name, print a summary and return the exit status.

    Raises:
        UserError: no such run, no checkpoint in it, or its tile store is not where it was.
    """
    settings = compose(OmegaConf.structured(AuditSettings), [], split_overrides(arguments))
    if settings.anchors < 1:
        raise UserError(f"anchors={settings.anchors} is too small: give 1 or more.")
    run = find(settings.run, Path(settings.work))
    folder, report = audit(run, settings.anchors, settings.store)
    print("\n".join(summary(report, folder)))
    return 0


def find(name: str | None, work: Path) -> Run:
    """The run that a name under work/runs, or a folder, means."""
    known = ", ".join(root.name for root in list_runs(work)[-3:]) or "none"
    if not name:
        raise UserError(f"audit needs run=NAME or run=FOLDER (newest under {work}/runs: {known}).")
    for root in (work / "runs" / name, Path(name)):
        if (root / "run.json").exists():
            return Run(root)
    raise UserError(f"run={name} is neither under {work}/runs nor a run's folder (newest there: {known}).")


def audit(run: Run, anchors: int = 512, store: Path | str | None = None) -> tuple[Path, dict[str, Any]]:
    """Write `<run>/audit/`, replacing an older one as a whole; return the folder and what `audit.json` holds."""
    content = checkpoint.load(run.root / "checkpoints")
    if content is None:
        raise UserError(f"{run.root} has no checkpoint yet: train it first with `python -m pretrain train`.")
    tiles = open_store(run, store)
    method = rebuild(run, tiles, content)
    progress = content["progress"]
    report = {
        "schema": SCHEMA,
        "run": run.root.resolve().name,
        "label": run.info.get("label", method.label),
        "method": str(run.config().method),
        "seed": method.facts.seed,
        "state": run.info["state"],
        "epoch": progress["epoch"],
        "step": progress["step"],
        "cohort": tiles.summary["cohort"],
        "rehearsal": tiles.rehearsal,
        "store_digest": tiles.digest,
        "tiles": len(tiles),
        "slides": len(tiles.slide_names),
        "tile_px": tiles.tile,
        "mpp": tiles.mpp,
        "resolved": method.resolved(),
        "options": dataclasses.asdict(method.options),
    } | measure(method, tiles, last_epoch(progress), progress["step"], anchors)
    report = json.loads(json.dumps(report, sort_keys=True, allow_nan=False))
    shown = {entry["tile"] for entry in report["gallery"]}
    shown |= {m["tile"] for entry in report["gallery"] for s in entry["sets"].values() for m in s["shown"]}
    images = {tile: picture(tiles.read(tile)) for tile in sorted(shown)}
    folder = run.root / "audit"
    with replacing(folder) as temporary:
        write_json(temporary / "audit.json", report)
        write_text(temporary / "report.html", page.render(report, images))
    return folder, report


def open_store(run: Run, place: Path | str | None = None) -> TileStore:
    """The tile store the run was trained on; `place` says where it lies now."""
    root = Path(place or run.info["store"])
    if not (root / "store.json").exists():
        raise UserError(
            f"the tile store of {run.root.name} is not at {root}: bring it back there, or give its folder as store=FOLDER."
        )
    store = TileStore(root)
    if store.digest != run.info["store_digest"]:
        raise UserError(
            f"{root} is not the tile store that {run.root.name} was trained on (its digest is {store.digest[:12]}, "
            f"the run's {run.info['store_digest'][:12]}): give the right one as store=FOLDER."
        )
    return store


def rebuild(run: Run, store: TileStore, content: dict[str, Any]) -> Method:
    """The run's method with the weights, banks and cluster labels of a loaded checkpoint, on the CPU.

    Settings that are newer than the run take their defaults.
    """
    from pretrain.loop import build

    config = run.config()
    try:
        own = OmegaConf.merge(
            OmegaConf.structured(Config), {name: config[name] for name in ("seed", "method", "backbone")}
        )
        config.seed, config.method, config.backbone = own.seed, own.method, own.backbone
        if config.backbone not in FEATURE_DIMS:
            raise ValueError(f"backbone={config.backbone} is not known")
        options = methods.find(config.method).Options
        schemas = {config.method: options, "views": ViewSettings, "train": TrainSettings}
        for name, schema in schemas.items():
            config[name] = OmegaConf.merge(OmegaConf.structured(schema), config.get(name) or {})
    except (OmegaConfBaseException, ValueError) as error:
        raise _misfit(run.root / "config.yaml", error) from error
    method = build(config, store, World())
    try:
        checkpoint.restore_method(content, method)
    except checkpoint.MISFITS as error:
        raise _misfit(run.root / "checkpoints" / "last", error) from error
    checkpoint.load_banks(run.root / "checkpoints", content["progress"]["step"], method.banks, World())
    return method.eval()


def _misfit(path: Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:200]
    return UserError(f"{path} does not fit this version ({reason}): audit the run with the version that trained it.")


def last_epoch(progress: dict[str, Any]) -> int:
    """0-based epoch of the newest step."""
    return progress["epoch"] if progress["batch"] else max(0, progress["epoch"] - 1)


def measure(method: Method, store: Any, epoch: int, step: int, count: int) -> dict[str, Any]:
    """Everything the page says beyond the run's facts: `bank`, `sets`, `charts`, `gallery`, `notes`.

    Args:
        epoch: 0-based epoch of the newest step; step: steps done.
        count: anchors to measure, at most one a tile.
    """
    cohort, seed = Cohort(store), method.facts.seed
    anchors = sets.sample(len(store), count, seed)
    pairs = np.floor(uniform(anchors, RANDOM_PAIRS, seed, "audit", "pairs") * len(store)).astype(np.int64)
    pairs = np.where(pairs == anchors[:, None], -1, pairs)
    chosen = sets.spread(cohort.slides, cohort.labels, GALLERIES, seed)
    notes, found = [], None
    if sets.has_sets(method):
        every = np.concatenate([anchors, chosen])
        found = sets.positives(method, torch.from_numpy(every), epoch)
        found["mined"] = sets.mined(method, torch.from_numpy(every), found["positives"], step)
    report: dict[str, Any] = {"anchors": len(anchors)}
    report["bank"], values = measure_bank(method, store, cohort, anchors, pairs, epoch, found)
    report["charts"] = {"similarity": histogram(values, -1, 1, 50)}
    report["sets"], report["gallery"] = None, []
    if found is not None:
        here = {name: members[: len(anchors)].numpy() for name, members in found.items()}
        report["sets"] = {name: describe(cohort, anchors, members) for name, members in here.items()}
        report["sets"]["semantic"]["also_spatial"] = shared(here["spatial"], here["semantic"], here["positives"])
        report["charts"] |= set_charts(cohort, anchors, here)
        report["gallery"] = gallery(method, cohort, chosen, {k: v[len(anchors) :] for k, v in found.items()})
        if not getattr(method.options, "semantic", True):
            notes.append("Semantic positives are switched off in this run.")
        elif not here["semantic"].size:
            notes.append("No anchor has semantic positives; in the method as fixed they begin in the second epoch.")
    else:
        notes.append(
            f"{method.label} has no sets of positive tiles, so there are no pairs to audit: what follows is how far its features "
            "bring tiles of one label together."
        )
    if epoch == 0:
        notes.append("The first epoch is the newest: bank rows are still noise, or were written only once.")
    if not store.labels:
        notes.append("The tiles have no labels, so there are no purities.")
    if not (cohort.group("hospital") >= 0).any():
        notes.append("The cohort does not say hospitals, so there are no shares of them.")
    if "global" not in method.banks:
        notes.append("The method keeps no bank of tiles: features are those of whole tiles through its backbone.")
    if found is not None:
        notes.append(
            "Anchors ask with their own bank rows, the mean of their last views; training asks with the view of the moment. "
            "How far the two agree stands under Features."
        )
        notes.append(
            "A checkpoint holds the banks and clusters of its own step alone: how the numbers grew cannot be told afterwards."
        )
    return report | {"classes": list(store.labels), "notes": notes}


def measure_bank(
    method: Any,
    store: Any,
    cohort: Cohort,
    anchors: np.ndarray,
    pairs: np.ndarray,
    epoch: int,
    found: dict[str, torch.Tensor] | None,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Numbers of the remembered features, and similarities by kind of pair for the histogram."""
    device = method.facts.slide.device
    if "global" in method.banks:
        rows, ids = sets.whole(method.banks["global"]), np.arange(len(store))
    else:
        ids = sets.sample(len(store), FEATURE_TILES, method.facts.seed)
        rows = sets.backbone_features(method, store, ids)
        anchors = anchors[np.isin(anchors, ids)]
        pairs = np.floor(uniform(anchors, RANDOM_PAIRS, method.facts.seed, "audit", "pairs") * len(ids)).astype(
            np.int64
        )
    asks = torch.from_numpy(np.searchsorted(ids, anchors)).to(device)
    values = {"random": sets.similarities(rows, asks, torch.from_numpy(pairs).to(device))}
    numbers: dict[str, Any] = {"features": len(ids), "kind": "bank" if "global" in method.banks else "backbone"}
    for name in ("spatial", "semantic", "mined"):
        if found is not None and name in found:
            values[name] = sets.similarities(rows, asks, found[name][: len(anchors)])
    if sets.has_sets(method) or isinstance(method, NPID):
        numbers["fresh"] = {}
        for statistics in ("batch", "stored"):
            fresh = sets.fresh_queries(method, store, anchors, epoch + 1, statistics == "batch")
            own = (fresh * rows[asks]).sum(1)
            above = torch.cat(
                [(q @ rows.T > o[:, None]).sum(1) for q, o in zip(fresh.split(64), own.split(64), strict=True)]
            )
            numbers["fresh"][statistics] = {
                "similarity": mean(own.cpu().numpy()),
                "own_row_first": round(float((above == 0).float().mean()), DIGITS),
                "own_row_median_rank": round(float(above.double().quantile(0.5)) + 1, DIGITS),
            }
            if statistics == "batch":
                values["own"] = own.cpu().numpy()[:, None]
                if found is not None:
                    numbers["fresh_semantic"] = fresh_semantic(method, cohort, anchors, epoch, fresh, found["semantic"])
    numbers["similarity"] = {name: mean(value) for name, value in values.items()}
    numbers["knn"] = knn_purity(rows, asks, ids, cohort)
    return numbers, values


def fresh_semantic(
    method: Any, cohort: Cohort, anchors: np.ndarray, epoch: int, queries: torch.Tensor, by_bank: torch.Tensor
) -> dict[str, Any]:
    """Semantic positives as training asks for them, by a view of the moment, beside those by the anchors' bank rows."""
    device = method.facts.slide.device
    asked = sets.positives(method, torch.from_numpy(anchors).to(device), epoch, queries)["semantic"]
    members = asked.cpu().numpy()
    return {
        "overlap": mean(sets.overlap(by_bank[: len(anchors)], asked)),
        "size": round(float((members >= 0).sum(1).mean()), DIGITS),
        "label": agreement(cohort.labels, cohort.slides, anchors, members),
    }


def knn_purity(rows: torch.Tensor, asks: torch.Tensor, ids: np.ndarray, cohort: Cohort) -> dict[str, Any]:
    """Share of the 20 nearest labelled rows that have the anchor's label: over all slides, and over other slides only."""
    labels, slides = cohort.labels[ids], cohort.slides[ids]
    labelled = torch.from_numpy(labels >= 0).to(rows.device)
    places = torch.from_numpy(slides).to(rows.device)
    found: dict[str, Any] = {"neighbours": NEIGHBOURS}
    for name, apart in (("all", None), ("across_slides", places)):
        near = sets.nearest(rows, asks, labelled, apart, NEIGHBOURS).cpu().numpy()
        found[name] = agreement(labels, slides, asks.cpu().numpy(), near)[name]
    return found


def describe(cohort: Cohort, anchors: np.ndarray, members: np.ndarray) -> dict[str, Any]:
    """All shares of one kind of set."""
    counts = (members >= 0).sum(1)
    return {
        "size": quantiles(counts),
        "empty": round(float((counts == 0).mean()), DIGITS),
        "cross_slide": cross_slide(cohort.slides, anchors, members),
        "label": agreement(cohort.labels, cohort.slides, anchors, members),
        "classes": per_class(cohort, anchors, members),
        "hospital": agreement(cohort.group("hospital"), cohort.slides, anchors, members),
        "patient": agreement(cohort.group("patient"), cohort.slides, anchors, members),
    }


def shared(spatial: np.ndarray, semantic: np.ndarray, union: np.ndarray) -> float | None:
    """Mean share of an anchor's semantic positives that are spatial ones too."""
    p, s, u = ((members >= 0).sum(1) for members in (spatial, semantic, union))
    return mean((p + s - u)[s > 0] / s[s > 0])


def set_charts(cohort: Cohort, anchors: np.ndarray, found: dict[str, np.ndarray]) -> dict[str, Any]:
    """Histograms of set sizes, and of distances on the anchor's slide in grid units."""
    counts = {name: (found[name] >= 0).sum(1).astype(float) for name in ("spatial", "semantic", "positives")}
    most = max(1, int(max(values.max() for values in counts.values())))
    step = -(-(most + 1) // 50)
    bins = -(-(most + 1) // step)
    distances = {}
    for name in ("spatial", "semantic"):
        members = found[name]
        here = (members >= 0) & (cohort.slides[members] == cohort.slides[anchors][:, None])
        distances[name] = cohort.distance(anchors, members)[here]
    far = max([1.0, *(float(values.max()) for values in distances.values() if values.size)])
    return {
        "size": histogram(counts, -0.5, step * bins - 0.5, bins),
        "distance": histogram(distances, 0, float(np.ceil(far)), min(60, 2 * int(np.ceil(far)))),
    }


def gallery(method: Any, cohort: Cohort, anchors: np.ndarray, found: dict[str, torch.Tensor]) -> list[dict[str, Any]]:
    """For every anchor, up to eight members of each set: evenly spaced from its most to its least similar one."""
    rows, asks = sets.whole(method.banks["global"]), torch.from_numpy(anchors)
    entries = [tile_facts(cohort, int(tile)) | {"sets": {}} for tile in anchors]
    for name in ("spatial", "semantic", "mined"):
        if name not in found:
            continue
        members = found[name].numpy()
        similarity = sets.similarities(rows, asks, found[name])
        distance = cohort.distance(anchors, members)
        for place, entry in enumerate(entries):
            there = np.flatnonzero(members[place] >= 0)
            there = there[np.argsort(-similarity[place, there], kind="stable")]
            picks = np.unique(np.linspace(0, len(there) - 1, min(SHOWN, len(there))).round().astype(int))
            shown = []
            for pick in there[picks]:
                facts = tile_facts(cohort, int(members[place, pick]))
                facts["similarity"] = round(float(similarity[place, pick]), DIGITS)
                if facts["slide"] == entry["slide"]:
                    facts["distance"] = round(float(distance[place, pick]), DIGITS)
                shown.append(facts)
            entry["sets"][name] = {"size": len(there), "shown": shown}
    return entries


def tile_facts(cohort: Cohort, tile: int) -> dict[str, Any]:
    """What is known of a tile; an empty text where a thing is unknown."""
    index = cohort.store.index
    facts = {name: str(index[name][tile]) for name in ("slide", "label", "hospital")}
    return {"tile": tile, "x": int(index["grid_x"][tile]), "y": int(index["grid_y"][tile])} | facts


def picture(pixels: np.ndarray) -> str:
    """A (T, T, 3) uint8 tile as a small JPEG in a data URI."""
    return pages.picture(pixels, PICTURE)


def mean(values: np.ndarray) -> float | None:
    """Mean of what is a number; None where nothing is."""
    values = values[np.isfinite(values)]
    return round(float(values.mean()), DIGITS) if values.size else None


def summary(report: dict[str, Any], folder: Path) -> list[str]:
    """The page in at most ten lines."""
    share: Callable[[dict[str, float] | None], str] = page.share
    lines = [
        f"audit: {folder / 'report.html'}",
        f"{report['label']} on {report['cohort']}{' (rehearsal: synthetic slides)' if report['rehearsal'] else ''}, "
        f"epoch {report['epoch']}, step {report['step']}, {report['anchors']} anchors of {report['tiles']} tiles",
    ]
    for name in page.SETS:
        if report["sets"] and name in report["sets"]:
            found = report["sets"][name]
            lines.append(
                f"{name}: {found['size']['mean']:.1f} a tile, {found['empty']:.1%} of anchors have none; purity "
                f"{share(found['label']['all'])}, on other slides {share(found['label']['across_slides'])}"
            )
    if report["sets"]:
        semantic = report["sets"]["semantic"]
        lines.append(f"semantic pairs across slides: {share(semantic['cross_slide'])}")
        lines.append(f"of those, within one hospital: {share(semantic['hospital']['across_slides'])}")
    knn = report["bank"]["knn"]
    lines.append(
        f"kNN purity of the {report['bank']['kind']} features: {share(knn['all'])}, on other slides {share(knn['across_slides'])}"
    )
    return lines
