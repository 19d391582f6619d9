"""Tile stores as plain folders or WebDataset shards; tiles are copied as they are stored, never encoded again."""

import csv
import io
import json
import re
import shutil
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pretrain.tiles import TileStore, shard_path
from results.errors import UserError
from results.files import replacing, value_digest, write_json

FORMS = ("folders", "webdataset")
STATE = "export.json"
SUFFIX = {"jpeg": "jpg", "png": "png"}
FACTS = (
    "slide",
    "patient",
    "hospital",
    "label",
    "label_share",
    "mpp",
    "level",
    "x0",
    "y0",
    "grid_x",
    "grid_y",
    "tissue",
    "digest",
)
RESERVE = 1.1


def export_store(store: TileStore, out: Path, settings: Any) -> str:
    """Export a store into `out`; what is there of the same export already is kept, and the rest is added.

    Args:
        store: the store.
        out: a folder that is not there, empty, or of an export of the same store and settings.
        settings: `export`, `by`, `shard`, `shuffle`, `seed`.

    Returns:
        A line that says what was written.

    Raises:
        UserError: `out` holds something else, the disk is too small, or a setting does not fit.
    """
    by = settings.by or ("label" if store.labels else "slide")
    if by not in ("label", "slide") or (by == "label" and not store.labels):
        raise UserError(f"by={by} does not fit: choose {'label or ' if store.labels else ''}slide.")
    wanted = {"form": settings.export, "store_digest": store.digest, "tiles": len(store)}
    wanted |= (
        {"by": by}
        if settings.export == "folders"
        else {"shard": settings.shard, "shuffle": settings.shuffle, "seed": settings.seed}
    )
    state = _begin(out, wanted)
    if state.get("done"):
        return f"export: {out} is exported already"
    _check_disk(store, out)
    write: Callable[..., int] = _folders if settings.export == "folders" else _webdataset
    files = write(store, out, wanted)
    facts = {
        key: store.summary.get(key)
        for key in ("cohort", "rehearsal", "labels", "label_rule", "licence", "cite", "tiling")
    }
    write_json(out / STATE, {**wanted, "id": value_digest(wanted), "done": True, "files": files, "store": facts})
    return f"export: {len(store):,} tiles in {files:,} files under {out}"


def _begin(out: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """Claim the folder, and return what is known of an equal export in it."""
    path = out / STATE
    if out.is_dir() and path.is_file():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["id"] == value_digest(wanted):
                return found
        except (OSError, ValueError, KeyError, TypeError):
            pass  # told below: not an export of these settings
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(
            f"out={out} holds something else than this export: give a folder that is empty or not there yet."
        )
    write_json(path, {**wanted, "id": value_digest(wanted), "done": False})
    return {}


def _check_disk(store: TileStore, out: Path) -> None:
    needed = RESERVE * sum(shard_path(store.root, name).stat().st_size for name in store.slide_names)
    there = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    free = shutil.disk_usage(out).free
    if needed - there > free:
        raise UserError(
            f"out={out} has {free / 2**30:.1f} GiB free, and the export needs about {(needed - there) / 2**30:.1f} GiB more."
        )


def _folders(store: TileStore, out: Path, wanted: dict[str, Any]) -> int:
    """Write `<label or slide>/<slide>_<x>_<y>.<suffix>` and `index.csv`."""
    suffix = SUFFIX[store.summary["tiling"]["encoding"]]
    names = _safe_names([*store.labels, ""] if wanted["by"] == "label" else store.slide_names)
    slides = _safe_names(store.slide_names)
    for folder in {*names.values()} if len(store) else ():
        (out / folder).mkdir(exist_ok=True)
        for path in (out / folder).glob(".*.tmp*"):  # what a killed export left half-written
            path.unlink()
    rows = []
    for tile in _progress(len(store)):
        facts = _facts(store, tile)
        folder = names[facts[wanted["by"]]]
        path = f"{folder}/{slides[facts['slide']]}_{facts['grid_x']}_{facts['grid_y']}.{suffix}"
        if not (out / path).exists():
            with replacing(out / path) as temporary:
                temporary.write_bytes(_content(store, tile, suffix))
        rows.append([path, tile, *(("" if facts[key] is None else facts[key]) for key in FACTS)])
    for folder in {*names.values()}:
        if (out / folder).is_dir() and not any((out / folder).iterdir()):
            (out / folder).rmdir()
    with replacing(out / "index.csv") as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["path", "tile", *FACTS], *rows])
    return len(rows)


def _webdataset(store: TileStore, out: Path, wanted: dict[str, Any]) -> int:
    """Write `tiles-000000.tar` and so on: `<tile id>.jpg` or `.png`, and `<tile id>.json`, for each tile."""
    suffix = SUFFIX[store.summary["tiling"]["encoding"]]
    order = np.arange(len(store))
    if wanted["shuffle"]:
        order = np.random.default_rng(wanted["seed"]).permutation(order)
    parts = [order[start : start + wanted["shard"]] for start in range(0, len(order), wanted["shard"])]
    for path in out.glob(".*.tmp*"):  # what a killed export left half-written
        path.unlink()
    labels = {label: code for code, label in enumerate(store.labels)}
    for number in _progress(len(parts)):
        path = out / f"tiles-{number:06d}.tar"
        if path.exists():
            continue
        with replacing(path) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
            for tile in parts[number].tolist():
                facts = _facts(store, tile)
                facts |= {"label_code": labels.get(facts["label"], -1)}
                _add(tar, f"{tile:09d}.{suffix}", _content(store, tile, suffix))
                _add(tar, f"{tile:09d}.json", json.dumps(facts, sort_keys=True, allow_nan=False).encode())
    return len(parts)


def _content(store: TileStore, tile: int, suffix: str) -> bytes:
    content = store.encoded(tile)
    magic = {"jpg": b"\xff\xd8", "png": b"\x89PNG"}[suffix]
    if not content.startswith(magic):
        raise UserError(
            f"tile {tile} of {store.root} is no {suffix}: the store is damaged, 'python -m pretrain inspect' it with verify=true."
        )
    return content


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o644
    tar.addfile(entry, io.BytesIO(content))


def _facts(store: TileStore, tile: int) -> dict[str, Any]:
    """What the index says of a tile, in plain types; None for what is not known."""
    found = {}
    for key in FACTS:
        value = store.index[key][tile]
        value = value.decode() if isinstance(value, bytes) else value.item() if isinstance(value, np.generic) else value
        found[key] = None if isinstance(value, float) and not np.isfinite(value) else value
    return found


def _safe_names(names: list[str]) -> dict[str, str]:
    """Map names to different names of folders: letters, digits, '.', '_' and '-', not only dots."""
    safe: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        base = re.sub(r"[^\w.-]+", "-", name).strip(".-")[:150] or ("unlabelled" if not name else "x")
        found, count = base, 1
        while found.casefold() in taken:
            count += 1
            found = f"{base}-{count}"
        taken.add(found.casefold())
        safe[name] = found
    return safe


def _progress(count: int) -> Iterator[int]:
    yield from tqdm(range(count), desc="export", disable=not sys.stderr.isatty(), file=sys.stderr)
