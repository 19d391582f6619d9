"""`python -m pretrain inspect STORE`: what a tile store holds, whether it is whole, and a sheet of its tiles."""

import hashlib
import json
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from omegaconf import OmegaConf
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from pretrain.store_export import FORMS, export_store
from pretrain.tiles import INDEX_SCHEMA, TileStore, shard_path
from pretrain.tiling.index import rows_digest
from pretrain.tiling.reports import report_path
from results.errors import UserError
from results.files import file_digest, replacing
from results.settings import compose, split_overrides

USAGE = "write 'inspect STORE [verify=true] [rows=N] [sheet=FILE.png|none] [export=folders|webdataset out=FOLDER]'"
COLUMNS, ROWS, CELL, CAPTION = 12, 8, 112, 24
"""The contact sheet: at most 96 tiles of 112 px."""
DAMAGED = 3
SHOWN = 10


@dataclass
class InspectSettings:
    """What the command takes.

    `rows` limits the table of slides. `sheet` is a PNG, by default `contact-sheet.png` in the store; none writes none. `export` is folders or
    webdataset, into `out`: `by` (label or slide) names the folders, `shard` is the number of tiles in a WebDataset shard, whose order is
    drawn by `seed`, or that of the store with `shuffle=false`.
    """

    verify: bool = False
    rows: int = 40
    sheet: str | None = None
    export: str | None = None
    out: str | None = None
    by: str | None = None
    shard: int = 1000
    shuffle: bool = True
    seed: int = 0


def command(arguments: list[str]) -> int:
    """Inspect the store that the arguments name, export it if asked, and return the exit status: 3 where it is damaged.

    Raises:
        UserError: for every mistake of input or settings.
    """
    if not arguments or "=" in arguments[0]:
        raise UserError(f"inspect needs the folder of a tile store: {USAGE}.")
    settings = compose(OmegaConf.structured(InspectSettings), [], split_overrides(arguments[1:]))
    if settings.rows < 0 or settings.shard < 1:
        raise UserError(f"rows={settings.rows} must be 0 or more, and shard={settings.shard} 1 or more.")
    if (settings.export is None) != (settings.out is None) or (settings.export and settings.export not in FORMS):
        raise UserError(
            f"export={settings.export} out={settings.out} do not fit: give both, export={' or export='.join(FORMS)}; {USAGE}."
        )
    store = TileStore(Path(arguments[0]).expanduser())
    if settings.export:
        print(export_store(store, Path(settings.out).expanduser(), settings))
        return 0
    print("\n".join(describe(store, settings.rows)))
    wrong = []
    if settings.verify:
        found, wrong = verify(store)
        print(f"verify: {found}")
        for line in wrong[:SHOWN]:
            print(f"damaged: {line}", file=sys.stderr)
    else:
        _check_rows(store, wrong)
        print(f"digest of the index: {wrong[0] if wrong else 'right'}; verify=true reads every tile")
    if settings.sheet != "none" and not wrong:
        path = Path(settings.sheet).expanduser() if settings.sheet else store.root / "contact-sheet.png"
        write_sheet(store, path)
        print(f"contact sheet: {path}")
    return DAMAGED if wrong else 0


def describe(store: TileStore, rows: int) -> list[str]:
    """The store in lines of text: what it is, its labels, and at most `rows` of its slides."""
    summary = store.summary
    shards = [shard_path(store.root, name).stat().st_size for name in store.slide_names]
    size = sum(path.stat().st_size for path in store.root.rglob("*") if path.is_file())
    scale = f"{store.mpp:g} um/px" if store.mpp else "um/px unknown, or not the same for all"
    what = "slides" if store.has_slides else "groups of images, whose slides are unknown"
    lines = [
        f"{store.root}",
        f"cohort {summary['cohort']}{' (rehearsal: synthetic)' if store.rehearsal else ''}, made {summary.get('created', 'at an unknown time')}",
        f"{len(store):,} tiles of {store.tile} px at {scale}, {summary['tiling']['encoding']}, of {len(store.slide_names)} {what}",
        f"{_bytes(size)} on disk, {_bytes(sum(shards) / max(1, len(store)))} a tile in the shards; digest {store.digest}",
        *(f"{key}: {summary[key]}" for key in ("licence", "cite") if summary.get(key)),
        *(f"note: {note}" for note in summary.get("notes", [])),
    ]
    if store.failed:
        lines.append(
            f"{len(store.failed)} failed: " + "; ".join(f"{n}: {reason}" for n, reason in store.failed[:SHOWN])
        )
    if summary.get("images", {}).get("failed"):
        lines.append(f"{len(summary['images']['failed'])} images could not be packed: see {store.root / 'failed.csv'}")
    lines += ["", *_labels(store), "", *_slides(store, shards, rows), ""]
    return lines


def _labels(store: TileStore) -> list[str]:
    if not store.labels:
        return ["no labels"]
    counts = Counter(np.asarray(store.index["label"]).tolist())
    width = max(len(name) for name in [*store.labels, "(none)"])
    return ["label shares:"] + [
        f"  {name or '(none)':{width}} {counts[name]:>10,} {counts[name] / max(1, len(store)):7.1%}"
        for name in [*store.labels, *([""] if counts[""] else [])]
    ]


def _slides(store: TileStore, shards: list[int], rows: int) -> list[str]:
    counts = np.bincount(store.slide_codes, minlength=len(store.slide_names))
    first = np.searchsorted(store.slide_codes, np.arange(len(store.slide_names)))
    patients, hospitals = (np.asarray(store.index[key])[first] if len(first) else [] for key in ("patient", "hospital"))
    labels = [Counter() for _ in store.slide_names]
    for code, label in Counter(zip(store.slide_codes.tolist(), store.index["label"].tolist(), strict=True)).items():
        labels[code[0]][code[1] or "(none)"] = label
    width = min(48, max([5, *(len(name) for name in store.slide_names[:rows])]))
    table = [f"{'slide':{width}} {'tiles':>8} {'size':>10}  {'patient':12} {'hospital':10} labels"]
    for i, name in enumerate(store.slide_names[:rows]):
        shares = (
            ", ".join(f"{label} {count / counts[i]:.0%}" for label, count in labels[i].most_common(3))
            if store.labels
            else ""
        )
        table.append(
            f"{name[:width]:{width}} {counts[i]:>8,} {_bytes(shards[i]):>10}  {patients[i] or '-':12} {hospitals[i] or '-':10} {shares}"
        )
    if len(store.slide_names) > rows:
        table.append(f"... {len(store.slide_names) - rows} more (rows=N shows them)")
    return table


def verify(store: TileStore) -> tuple[str, list[str]]:
    """Check the digest of the index, the shards' own digests, and every tile.

    A lossless tile is hashed again. A JPEG tile's digest is that of its pixels before they were encoded, so it is decoded, and its shard is
    compared with the sha256 that was taken when it was written, where one was.

    Returns:
        What was checked, and what is wrong, one line each.
    """
    wrong: list[str] = []
    _check_rows(store, wrong)
    shards = 0
    for name in store.slide_names:
        stated = _stated(store, name)
        if stated:
            shards += 1
            if file_digest(shard_path(store.root, name)) != stated:
                wrong.append(f"shard {name}.lmdb is not what was written (its sha256 differs)")
    hashed, lossless = 0, store.summary["tiling"]["encoding"] == "png"
    digests = store.index["digest"]
    for tile in tqdm(range(len(store)), desc="verify", unit="tile", disable=not sys.stderr.isatty(), file=sys.stderr):
        try:
            found = hashlib.sha256(store.read(tile).tobytes()).hexdigest().encode()
        except UserError as error:
            wrong.append(str(error))
            continue
        hashed += found == digests[tile]
        if lossless and found != digests[tile]:
            wrong.append(f"tile {tile} of {store.index['slide'][tile]} has other pixels than its digest says")
    rest = "" if hashed == len(store) else " (the digest of a JPEG tile is that of its pixels before encoding)"
    said = f"{len(store):,} tiles decoded, {hashed:,} have the pixels of their digest{rest}; "
    return f"{said}{shards} of {len(store.slide_names)} shards compared with their sha256; {len(wrong)} wrong", wrong


def _check_rows(store: TileStore, wrong: list[str]) -> None:
    table = pq.read_table(store.root / "tiles.parquet", schema=INDEX_SCHEMA)
    if rows_digest(table, SimpleNamespace(**store.summary["tiling"])) != store.digest:
        wrong.append("tiles.parquet is not what store.json was written for (its digest differs)")


def _stated(store: TileStore, slide: str) -> str:
    try:
        report: dict[str, Any] = json.loads(report_path(store.root, slide).read_text(encoding="utf-8"))
        return str(report.get("shard_digest", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def write_sheet(store: TileStore, path: Path) -> None:
    """Write a PNG of evenly spaced tiles with slide and label under each, 1,344 x 1,088 px at most."""
    if path.suffix.lower() != ".png":
        raise UserError(f"sheet={path} must end in .png, or be none.")
    tiles = np.unique(np.linspace(0, len(store) - 1, min(len(store), COLUMNS * ROWS)).round().astype(int))
    columns = min(COLUMNS, len(tiles))
    sheet = Image.new("RGB", (columns * CELL, -(-len(tiles) // columns) * (CELL + CAPTION)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(10)
    for place, tile in enumerate(tiles.tolist()):
        x, y = place % columns * CELL, place // columns * (CELL + CAPTION)
        picture = Image.fromarray(store.read(tile)).resize((CELL - 4, CELL - 4), Image.Resampling.BOX)
        sheet.paste(picture, (x + 2, y + 2))
        for line, text in enumerate((store.index["slide"][tile], store.index["label"][tile])):
            draw.text((x + 2, y + CELL - 2 + 11 * line), _fitting(str(text), draw, font), fill=(40, 40, 40), font=font)
    with replacing(path) as temporary:
        sheet.save(temporary)


def _fitting(text: str, draw: ImageDraw.ImageDraw, font: Any) -> str:
    """Cut a text in its middle until it fits under a tile; the default font knows Latin letters."""
    text = "".join(letter if letter.isprintable() else "?" for letter in text[:200])
    cut = text
    while cut and draw.textlength(cut, font=font) > CELL - 4:
        half = (len(cut) - 1) // 2
        cut = f"{text[:half]}…{text[len(text) - half + 1 :]}" if half > 1 else text[:1]
        if half <= 1:
            break
    return cut


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
