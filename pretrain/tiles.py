"""The tile store: the one door between tiling and everything that needs tiles."""

import io
import json
import math
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from results.errors import UserError
from results.files import value_digest

STORE_SCHEMA = 1
INDEX_SCHEMA = pa.schema(
    [
        ("slide", pa.string()),
        ("patient", pa.string()),
        ("hospital", pa.string()),
        ("slide_digest", pa.string()),
        ("level", pa.int32()),
        ("x0", pa.int64()),
        ("y0", pa.int64()),
        ("grid_x", pa.int32()),
        ("grid_y", pa.int32()),
        ("mpp", pa.float64()),
        ("tissue", pa.float32()),
        ("label", pa.string()),
        ("label_share", pa.float32()),
        ("digest", pa.string()),
    ]
)
"""Columns of `tiles.parquet`, explained in docs/architecture.md."""
OPEN_SHARDS = 64
"""LMDB environments that one process keeps open."""


def tile_key(grid_x: int, grid_y: int) -> bytes:
    """Return the LMDB key of a tile."""
    return b"%d_%d" % (int(grid_x), int(grid_y))


def shard_path(root: Path, slide: str) -> Path:
    """Return the LMDB file of a slide."""
    return root / "shards" / f"{slide}.lmdb"


class TileStore:
    """Read access to a finished tile store. It may be pickled and used in forked or spawned processes and in threads.

    Attributes:
        root: the store's folder.
        summary: `store.json`.
        digest: sha256 over all rows; the data digest that runs and records quote.
        rehearsal: whether the slides are synthetic.
        tile: side of a tile in px.
        mpp: um/px of the tiles; None where nobody knows it, or where it differs from tile to tile (`index["mpp"]`).
        has_coordinates: whether `grid_x` and `grid_y` are places on a slide. Packed images have none: theirs are mere numbers.
        has_slides: whether `slide` names slides. Packed images without a table of them have groups of images instead.
        labels: label names, sorted; empty for a cohort without masks.
        decoder: 64 hex digits for what the decoders made of the canary files, whatever their versions; empty for a store from
            before receipts. Scores on stores that differ here come from differently decoded slides.
        failed: (slide, reason) of every slide that could not be tiled.
        slide_names: names of the slides that have tiles, sorted.
        slide_codes: (N,) int32, the position in `slide_names` of each tile's slide.
        label_codes: (N,) int32, the position in `labels` of each tile's label, -1 for none.
        index: a mapping from each column of `tiles.parquet` to an (N,) array, loaded when first asked for. Text columns
            are object arrays that share their few strings, `digest` is bytes (`S64`).

    Raises:
        UserError: the folder is missing, unfinished, of another schema, or its parts do not fit together.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root).resolve()
        self.summary = _read_summary(self.root)
        tiling = self.summary["tiling"]
        self.digest: str = self.summary["digest"]
        self.rehearsal: bool = self.summary["rehearsal"]
        self.tile: int = tiling["tile"]
        self.mpp: float | None = tiling["mpp"]
        self.has_coordinates: bool = self.summary.get("coordinates", True)
        self.has_slides: bool = self.summary.get("known_slides", True)
        self.labels: list[str] = list(self.summary["labels"])
        self.decoder: str = _decoder(self.summary.get("receipts", {}))
        slides = self.summary["slides"]
        self.failed = [(name, slides[name]["reason"]) for name in sorted(slides) if slides[name]["status"] == "failed"]
        self.slide_names = sorted(name for name in slides if slides[name]["tiles"])
        _check_parts(self.root, self.summary, self.slide_names)
        _SHARDS.close(self.root)
        self.index: Mapping[str, np.ndarray] = _Columns(self.root / "tiles.parquet", self.summary["tiles"])
        self.slide_codes = np.repeat(
            np.arange(len(self.slide_names), dtype=np.int32), [slides[name]["tiles"] for name in self.slide_names]
        )

    def __len__(self) -> int:
        return self.summary["tiles"]

    def origins(self) -> dict[str, list[str]]:
        """Return the names of the `slides`, `patients` and `hospitals` that have tiles, and the sha256 (`digests`) of the slides' files.

        Sorted; what is unknown is left out.
        """
        if not self.has_slides:
            return {"slides": [], "patients": [], "hospitals": [], "digests": []}
        first = np.unique(self.slide_codes, return_index=True)[1]
        columns = {"patients": "patient", "hospitals": "hospital", "digests": "slide_digest"}
        known = {key: sorted(set(self.index[column][first].astype(str)) - {""}) for key, column in columns.items()}
        return {"slides": list(self.slide_names), **known}

    def __reduce__(self) -> tuple[type["TileStore"], tuple[Path]]:
        return TileStore, (self.root,)

    @property
    def label_codes(self) -> np.ndarray:
        """(N,) int32, the position in `labels` of each tile's label, -1 for none."""
        position = {name: code for code, name in enumerate(self.labels)}
        return np.array([position.get(label, -1) for label in self.index["label"]], dtype=np.int32)

    def read(self, tile_id: int) -> np.ndarray:
        """Return one tile as (tile, tile, 3) uint8 RGB.

        Raises:
            IndexError: no such tile id.
            UserError: the tile is missing in its shard or cannot be decoded.
        """
        path, key = self._place(tile_id)
        try:
            with Image.open(io.BytesIO(_SHARDS.get(path, key))) as image:
                pixels = np.array(image)
        except (OSError, SyntaxError, TypeError) as error:
            raise UserError(f"{path} is damaged: tile {key.decode()} cannot be decoded; {_MEND}") from error
        if pixels.shape != (self.tile, self.tile, 3):
            raise UserError(f"{path} is damaged: tile {key.decode()} has the shape {pixels.shape}; {_MEND}")
        return pixels

    def encoded(self, tile_id: int) -> bytes:
        """Return one tile as the file that is stored, a JPEG or PNG.

        Raises:
            IndexError: no such tile id.
            UserError: the tile is missing in its shard.
        """
        return _SHARDS.get(*self._place(tile_id))

    def _place(self, tile_id: int) -> tuple[Path, bytes]:
        """Return shard and key of a tile."""
        if not 0 <= tile_id < len(self):
            raise IndexError(f"tile {tile_id} is not in 0..{len(self) - 1} of {self.root}")
        slide = self.slide_names[self.slide_codes[tile_id]]
        return shard_path(self.root, slide), tile_key(self.index["grid_x"][tile_id], self.index["grid_y"][tile_id])

    def read_many(self, tile_ids: Iterable[int]) -> np.ndarray:
        """Return tiles as (n, tile, tile, 3) uint8, in the order asked for and read in the order of the store."""
        ids = np.fromiter(tile_ids, dtype=np.int64)
        pixels = np.empty((len(ids), self.tile, self.tile, 3), dtype=np.uint8)
        for place in np.argsort(ids, kind="stable"):
            pixels[place] = self.read(int(ids[place]))
        return pixels


def latest_store(work: Path | str, labelled: bool = True) -> Path:
    """Return the folder of the newest finished store below `work/tiles`, by the time of its `store.json`.

    Args:
        work: the work folder.
        labelled: leave out stores whose cohort has no labels.

    Raises:
        UserError: there is none.
    """
    tiles = Path(work) / "tiles"
    newest = sorted(tiles.glob("*/store.json"), key=lambda path: (path.stat().st_mtime_ns, path), reverse=True)
    for path in newest:
        if not labelled or _read_summary(path.parent)["labels"]:
            return path.parent
    kind = "labelled tile store" if labelled else "tile store"
    raise UserError(f"no {kind} lies below {tiles}: make one with 'python -m pretrain tile cohort=...'.")


_MEND = "delete that shard and its slides/*.json, then run 'python -m pretrain tile' again."


def _read_summary(root: Path) -> dict[str, Any]:
    if not root.is_dir():
        raise UserError(f"tile store {root} does not exist: make it with 'python -m pretrain tile cohort=...'.")
    path = root / "store.json"
    if not path.is_file():
        raise UserError(f"tile store {root} is unfinished, it has no store.json: run 'python -m pretrain tile' again.")
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        schema = summary["schema"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}): run 'python -m pretrain tile' again.") from error
    if schema != STORE_SCHEMA:
        raise UserError(
            f"{path} has schema {schema}, this version reads {STORE_SCHEMA}: run 'python -m pretrain tile' again."
        )
    missing = {"tiling", "digest", "rehearsal", "labels", "slides", "tiles"} - set(summary)
    if missing:
        raise UserError(
            f"{path} is damaged, it lacks {', '.join(sorted(missing))}: run 'python -m pretrain tile' again."
        )
    if wrong := _misfit(summary):
        raise UserError(
            f"{path} is damaged, its {wrong} is not as it was written: run 'python -m pretrain tile' again."
        )
    return summary


def _misfit(summary: dict[str, Any]) -> str:
    """Name the first key whose value has another form than a store's, empty where all are right."""
    tiling, slides, receipts = summary["tiling"], summary["slides"], summary.get("receipts", {})
    shapes = {
        "tiling": isinstance(tiling, dict) and type(tiling.get("tile")) is int and _is_mpp(tiling.get("mpp")),
        "digest": isinstance(summary["digest"], str),
        "rehearsal": isinstance(summary["rehearsal"], bool),
        "labels": isinstance(summary["labels"], list) and all(isinstance(label, str) for label in summary["labels"]),
        "slides": isinstance(slides, dict) and all(_is_slide(slide) for slide in slides.values()),
        "tiles": type(summary["tiles"]) is int,
        "receipts": isinstance(receipts, dict)
        and all(isinstance(receipt, dict) and "canaries" in receipt for receipt in receipts.values()),
    }
    return next((key for key, fits in shapes.items() if not fits), "")


def _is_mpp(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and 0 < value < math.inf)


def _is_slide(slide: Any) -> bool:
    return (
        isinstance(slide, dict)
        and type(slide.get("tiles")) is int
        and slide["tiles"] >= 0
        and isinstance(slide.get("status"), str)
        and (slide["status"] != "failed" or isinstance(slide.get("reason"), str))
    )


def _decoder(receipts: Mapping[str, Mapping[str, Any]]) -> str:
    seen = sorted({value_digest(receipt["canaries"]) for receipt in receipts.values()})
    return value_digest(seen) if seen else ""


def _check_parts(root: Path, summary: dict[str, Any], slides: list[str]) -> None:
    table = root / "tiles.parquet"
    try:
        metadata = pq.read_metadata(table)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{table} is missing or damaged: run 'python -m pretrain tile' again.") from error
    rows, stated = metadata.num_rows, summary["tiles"]
    counted = sum(summary["slides"][name]["tiles"] for name in slides)
    if not rows == stated == counted:
        raise UserError(
            f"{table} has {rows} rows where store.json counts {stated}, {counted} by slide: run 'python -m pretrain tile' again."
        )
    if (metadata.metadata or {}).get(b"digest", b"").decode() != summary["digest"]:
        raise UserError(f"{table} and store.json have different digests: run 'python -m pretrain tile' again.")
    for name in slides:
        if not shard_path(root, name).is_file():
            raise UserError(f"{shard_path(root, name)} is missing: run 'python -m pretrain tile' again.")


class _Columns(Mapping[str, np.ndarray]):
    """The columns of `tiles.parquet`, each read when first asked for."""

    def __init__(self, path: Path, rows: int) -> None:
        self._path, self._rows = path, rows
        self._loaded: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._loaded:
            if name not in INDEX_SCHEMA.names:
                raise KeyError(name)
            self._loaded[name] = self._load(name)
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(INDEX_SCHEMA.names)

    def __len__(self) -> int:
        return len(INDEX_SCHEMA.names)

    def _load(self, name: str) -> np.ndarray:
        try:
            column = pq.read_table(self._path, columns=[name]).column(name)
        except (OSError, KeyError, pa.ArrowException) as error:
            raise UserError(f"{self._path} is damaged, column {name}: run 'python -m pretrain tile' again.") from error
        if len(column) != self._rows:
            raise UserError(f"{self._path} changed while it was in use: start again.")
        if name == "digest":
            return np.array(column.to_pylist(), dtype="S64")
        if column.type == pa.string():
            coded = column.combine_chunks().dictionary_encode()
            return np.array(coded.dictionary.to_pylist(), dtype=object)[coded.indices.to_numpy()]
        return np.array(column.to_numpy())


def _open_shard(path: Path) -> lmdb.Environment:
    environment = lmdb.open(str(path), subdir=False, readonly=True, lock=False, readahead=False)
    if path.stat().st_size < (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]:
        environment.close()  # reading a mapped page behind the end of the file would kill the process
        raise lmdb.CorruptedError("the file is cut short")
    return environment


class _Shards:
    """Open LMDB environments of this process, least recently used closed first.

    LMDB allows one environment a file and process, so all stores share these. A forked child closes what it inherits.
    """

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._open: OrderedDict[Path, lmdb.Environment] = OrderedDict()

    def get(self, path: Path, key: bytes) -> bytes:
        """Return a value; a missing key or shard is a UserError."""
        self._own()
        with self._lock:
            try:
                if path not in self._open:
                    while len(self._open) >= OPEN_SHARDS:
                        self._open.popitem(last=False)[1].close()
                    self._open[path] = _open_shard(path)
                self._open.move_to_end(path)
                with self._open[path].begin() as transaction:
                    value = transaction.get(key)
            except lmdb.Error as error:
                raise UserError(
                    f"{path} is missing or damaged ({error}): run 'python -m pretrain tile' again."
                ) from error
        if value is None:
            raise UserError(f"{path} is damaged: it lacks tile {key.decode()}; {_MEND}")
        return value

    def close(self, root: Path) -> None:
        """Close the environments below `root`, whose files may have been replaced."""
        self._own()
        with self._lock:
            for path in [path for path in self._open if path.parent.parent == root]:
                self._open.pop(path).close()

    def _own(self) -> None:
        if self._pid != os.getpid():
            inherited = self._open
            self._start()
            for environment in inherited.values():
                environment.close()


_SHARDS = _Shards()
