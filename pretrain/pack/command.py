"""`python -m pretrain pack SRC OUT`: a folder of images in, a tile store out."""

import csv
import json
import math
import shlex
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from pretrain.cohorts.folder import facts_of
from pretrain.pack.group import Group, Packing, finished, pack_group
from pretrain.pack.images import BadImage, image_size
from pretrain.pack.sources import Source, find_images, groups, with_coco, with_table
from pretrain.pack.store import KIND, request_digest, write_store
from pretrain.processes import each
from pretrain.tiling.run import sole_writer
from results.errors import UserError
from results.files import replacing, value_digest, write_json
from results.settings import compose, split_overrides

USAGE = "write 'pack FOLDER STORE [tile=PX] [mpp=UM_PER_PX] [strict=true] [labels=folder|none] [annotations=FILE.json] [table=FILE.csv]'"
SOME_FAILED = 3
SHOWN = 10
RULES = {"folder": "name of the folder that holds the image", "none": None}


@dataclass
class PackSettings:
    """What the command takes.

    `tile` null takes the images' own size, the most common shorter side. `mpp` is um/px of the images as they are. `strict` refuses
    images of another size. `labels`: folder (the folder that holds the image) or none; `annotations` is a COCO file, `table` a CSV with the column
    image and any of slide, patient, hospital, label.
    """

    tile: int | None = None
    mpp: float | None = None
    strict: bool = False
    encoding: str = "jpeg"
    quality: int = 90
    labels: str = "folder"
    annotations: str | None = None
    table: str | None = None
    name: str | None = None
    workers: int | None = None


def command(arguments: list[str]) -> int:
    """Pack a folder and return the exit status: 3 where images were left out, which are named.

    Raises:
        UserError: for every mistake of input or settings.
    """
    if len(arguments) < 2 or "=" in arguments[0] or "=" in arguments[1]:
        raise UserError(f"pack needs a folder of images and a folder for the store: {USAGE}.")
    settings = compose(OmegaConf.structured(PackSettings), [], split_overrides(arguments[2:]))
    source, root = (Path(folder).expanduser().resolve() for folder in arguments[:2])
    summary = pack(source, root, settings)
    print("\n".join(describe(root, summary)))
    failed = summary["images"]["failed"]
    for path, reason in list(failed.items())[:SHOWN]:
        print(f"image {path} {reason}", file=sys.stderr)
    if failed:
        print(
            f"{len(failed)} image(s) were left out, all named in {root / 'failed.csv'}; exit status {SOME_FAILED}.",
            file=sys.stderr,
        )
    return SOME_FAILED if failed else 0


def pack(source: Path, root: Path, settings: DictConfig) -> dict[str, Any]:
    """Make the store at `root` of the images below `source`, as far as that is not done yet; return its summary.

    Raises:
        UserError: for every mistake of input or settings.
    """
    _check(settings)
    if root == source or source in root.parents:
        raise UserError(f"the store {root} would lie among the images of {source}: give a folder outside of it.")
    images, said = _sources(source, settings)
    facts = _facts(source, settings, said)
    dealt = groups(images)
    known_slides = bool(images[0].slide)
    _own(root, source, settings)
    with sole_writer(root):
        packing = Packing(
            _tile(root, source, images, settings), settings.mpp, settings.encoding, settings.quality, settings.strict
        )
        _remember(root, source, settings, packing.tile)
        jobs = [Group(name, tuple(members), source, root, packing) for name, members in dealt.items()]
        reports = _run(jobs, root, settings.workers)
        request = request_digest(reports, {**facts, "known_slides": known_slides})
        present = _present(root, request)
        if present is not None:
            return present
        summary = write_store(root, packing, {**facts, "request": request}, known_slides, reports)
        _write_failed(root / "failed.csv", summary["images"]["failed"])
        _tidy(root, set(dealt))
    return summary


def _check(settings: DictConfig) -> None:
    for key, low, high in (("tile", 16, 8192), ("mpp", 0.01, 100), ("quality", 1, 100), ("workers", 0, 4096)):
        value = settings[key]
        if value is not None and not (math.isfinite(value) and low <= value <= high):
            raise UserError(f"{key}={value} does not fit: give a number from {low} to {high}.")
    for key, choices in (("encoding", ("jpeg", "png")), ("labels", tuple(RULES))):
        if settings[key] not in choices:
            raise UserError(f"{key}={settings[key]} is not known: choose {' or '.join(choices)}.")


def _sources(source: Path, settings: DictConfig) -> tuple[list[Source], dict[str, Any]]:
    """Return the images, and the rule and notes on their labels."""
    images = find_images(source, settings.labels == "folder" and not settings.annotations)
    said: dict[str, Any] = {"rule": RULES[settings.labels], "notes": []}
    if settings.annotations:
        images, note = with_coco(images, Path(settings.annotations).expanduser())
        said = {"rule": "the one category of an image's COCO annotations", "notes": [note] if note else []}
    if settings.table:
        images = with_table(images, Path(settings.table).expanduser())
        said["rule"] = said["rule"] and f"{said['rule']}; the table where it has a label column"
    if not any(image.label for image in images):
        said["rule"] = None
    return images, said


def _facts(source: Path, settings: DictConfig, said: Mapping[str, Any]) -> dict[str, Any]:
    """Name, licence, citation and `rehearsal`, from the nearest `cohort.yaml`: of the folder, or of the two above it."""
    above = [folder for folder in (source, source.parent, source.parent.parent) if (folder / "cohort.yaml").is_file()]
    facts = facts_of(above[0] if above else source, source.name)
    name = settings.name or (facts["name"] if above[:1] == [source] else source.name)
    return {
        "cohort": name,
        "root": str(source),
        "rehearsal": facts["rehearsal"],
        "licence": facts["licence"],
        "cite": facts["cite"],
        "label_rule": {"kind": said["rule"], "version": 1} if said["rule"] else None,
        "notes": said["notes"],
    }


def _own(root: Path, source: Path, settings: DictConfig) -> None:
    """Refuse a folder that holds anything but the store of this folder and these settings."""
    marker = root / "pack.json"
    if not root.exists() or (root.is_dir() and not marker.exists() and not any(root.iterdir())):
        return
    try:
        found = json.loads(marker.read_text(encoding="utf-8"))
        mine = found["kind"] == KIND and {"source", "settings"} <= found.keys() and isinstance(found["tile"], int)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        mine = False
    if not mine:
        raise UserError(
            f"{root} holds something else than a packed store: give a folder that is empty or not there yet."
        )
    if found["source"] != str(source) or found["settings"] != _identity(settings):
        raise UserError(
            f"{root} was packed from {found['source']} with other settings than these: give another folder, since runs may rest on that one."
        )


def _identity(settings: DictConfig) -> str:
    plain = OmegaConf.to_container(settings)
    return value_digest({key: value for key, value in plain.items() if key != "workers"})


def _tile(root: Path, source: Path, images: list[Source], settings: DictConfig) -> int:
    """The tile size: as given, as remembered, or the images' own."""
    if settings.tile:
        return settings.tile
    try:
        return int(json.loads((root / "pack.json").read_text(encoding="utf-8"))["tile"])
    except FileNotFoundError:
        pass  # packed for the first time: the images tell
    sides: Counter[int] = Counter()
    for image in images:
        try:
            sides[min(image_size(source / image.path))] += 1
        except (BadImage, OSError):
            continue  # named with its reason when it is packed
    if not sides:
        raise UserError(f"none of the {len(images)} images in {source} can be read: are they images?")
    side = min(sides, key=lambda side: (-sides[side], side))
    if not 16 <= side <= 8192:
        raise UserError(
            f"the images in {source} are mostly {side} px wide or high: give the side of a tile as tile=PX."
        )
    return side


def _remember(root: Path, source: Path, settings: DictConfig, tile: int) -> None:
    value = {"kind": KIND, "source": str(source), "settings": _identity(settings), "tile": tile}
    if not (root / "pack.json").exists():
        write_json(root / "pack.json", value)


def _run(jobs: list[Group], root: Path, workers: int | None) -> list[dict[str, Any]]:
    for folder in ("shards", "slides"):
        for path in (root / folder).glob(".*.tmp*"):  # what a killed run left half-written
            path.unlink()
    done = {job.name: report for job in jobs if (report := finished(job)) is not None}
    left = [job for job in jobs if job.name not in done]
    if left:
        (root / "store.json").unlink(missing_ok=True)  # it counts on shards that are about to be replaced
    sizes = {job.name: len(job.images) for job in jobs}
    with tqdm(total=sum(sizes.values()), initial=sum(sizes[name] for name in done), desc="packing", unit="image",
              disable=not sys.stderr.isatty(), file=sys.stderr) as bar:  # fmt: skip
        for report in each(pack_group, left, workers):
            done[report["slide"]] = report
            bar.update(sizes[report["slide"]])
    return [done[job.name] for job in jobs]


def _present(root: Path, request: str) -> dict[str, Any] | None:
    """The summary on disk, where it is of the same images and nothing is left to write."""
    try:
        summary = json.loads((root / "store.json").read_text(encoding="utf-8"))
        return summary if summary["request"] == request and (root / "tiles.parquet").is_file() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_failed(path: Path, failed: Mapping[str, str]) -> None:
    if not failed:
        path.unlink(missing_ok=True)
        return
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "reason"), *failed.items()])


def _tidy(root: Path, names: set[str]) -> None:
    """Drop groups of images that are no longer there."""
    for folder, suffixes in (("shards", (".lmdb",)), ("slides", (".json", ".parquet"))):
        for path in (root / folder).iterdir():
            if path.suffix in suffixes and path.stem not in names:
                path.unlink()


def describe(root: Path, summary: Mapping[str, Any]) -> list[str]:
    """What was packed, in a few lines."""
    images, tiling = summary["images"], summary["tiling"]
    scale = f"{tiling['mpp']:g} um/px" if tiling["mpp"] else "um/px differ" if tiling["image_mpp"] else "um/px unknown"
    odd = [f"{images[key]:,} {words}" for key, words in
           (("resized", "resized"), ("enlarged", "of them enlarged"), ("cropped", "cropped to their centre"), ("kept", "kept as the JPEG they were"))
           if images[key]]  # fmt: skip
    lines = [
        f"pack: {root}{' (rehearsal: synthetic images)' if summary['rehearsal'] else ''}",
        f"{images['packed']:,} images as tiles of {tiling['tile']} px, {scale}, {len(summary['labels'])} labels, digest {summary['digest'][:16]}",
        *([", ".join(odd)] if odd else []),
        *summary["notes"],
    ]
    found = images["duplicates"]
    if found["sets"]:
        lines.append(
            f"{found['sets']:,} sets of equal images ({found['images']:,} images; {found['other_labels']} sets under several labels), "
            f"first {' = '.join(found['first'][0])}"
        )
    lines.append("they have no coordinates: spatial terms are switched off when a method pretrains on them")
    if not summary["known_slides"]:
        lines.append(
            "their slides are not known (table= may name them): splits by slide or patient cannot be made of them"
        )
    return [*lines, f"pretrain on them with: {shlex.join(['python', '-m', 'pretrain', f'store={root}'])} method=..."]
