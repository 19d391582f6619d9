"""Tile classification on patches in HDF5 files with a given split and a table of their slides: PatchCamelyon."""

import csv
import hashlib
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from results.errors import UserError
from results.files import file_digest, value_digest, write_json
from results.hdf5 import Hdf5Error, Hdf5Rows
from transfer.overlap import Origins, camelyon_slide
from transfer.tasks.image_files import is_rehearsal, read_known
from transfer.tasks.image_folders import COARSEST, LARGEST
from transfer.tasks.sample import named_by_size
from transfer.tasks.schema import Kind, Request, TaskSettings, task_root
from transfer.tasks.tile_task import Split, TileTask, split_digest

MOST_PATCHES, MOST_LINE = 50_000_000, 4096


@dataclass
class Hdf5Patches(TaskSettings):
    """The keys of a task on HDF5 files: pixels `x` (n, tile, tile, 3), classes `y` (n, 1, 1, 1), a CSV with a row a patch.

    Attributes:
        layout: name of the data set and of its folder below a root that holds several.
        files: name of a file, with `{part}` and `{what}` (`x.h5`, `y.h5`, `meta.csv`).
        train, validation, test: names of the parts; `validation_share` is not used.
        classes: names of the values 0, 1, ... of `y`.
        slide_column: of the CSV.
        patient_is_slide: whether each slide is a patient of its own.
        hospitals: where the slides come from, as a whole.
        tile: side of a patch in px; mpp: um/px.
        full_set: patches of all parts as published; files with fewer go by the name of a sample.
    """

    kind: str = "hdf5_patches"
    layout: str = ""
    files: str = ""
    train: str = "train"
    validation: str = "valid"
    test: str = "test"
    classes: list[str] = field(default_factory=list)
    slide_column: str = ""
    patient_is_slide: bool = False
    hospitals: list[str] = field(default_factory=list)
    tile: int = 96
    mpp: float = 1.0
    full_set: int | None = None

    @property
    def parts(self) -> tuple[str, str, str]:
        return self.train, self.validation, self.test

    def check(self, where: str) -> None:
        super().check(where)
        for key in ("name", "layout", "files", "slide_column"):
            if not getattr(self, key):
                raise UserError(f"{where}: {key} is missing, a task on HDF5 files needs it.")
        if "{part}" not in self.files or "{what}" not in self.files or Path(self.files).name != self.files:
            raise UserError(f"{where}: files={self.files} must be a file name with {{part}} and {{what}} in it.")
        if len(set(self.parts)) < 3:
            raise UserError(f"{where}: train, validation and test must be three different parts.")
        if not 2 <= len(set(self.classes)) == len(self.classes) <= 256:
            raise UserError(f"{where}: classes={self.classes} must name two or more different classes.")
        if not 8 <= self.tile <= LARGEST or not 0 < self.mpp <= COARSEST:
            raise UserError(
                f"{where}: tile={self.tile} must be 8 to {LARGEST} px, and mpp={self.mpp} above 0 and at most {COARSEST} um/px."
            )

    def name_of(self, part: str, what: str) -> str:
        """Return the name of one file."""
        return self.files.replace("{part}", part).replace("{what}", what)


def load_hdf5_patches(settings: Hdf5Patches, request: Request) -> TileTask:
    """Open the files, read classes and slides, and return the task; pixels are read when they are asked for.

    Raises:
        UserError: when a file is missing, damaged or of other shapes, or a slide is in two parts.
    """
    if request.store:
        raise UserError(f"task {settings.name} is on HDF5 files: give task.root=FOLDER instead of store=.")
    if not request.root:
        raise UserError(f"there is no {settings.layout} data: give task.root=FOLDER, the folder of its files.")
    root = task_root(request, settings.layout)
    below = root / settings.layout
    root = below if not _path(settings, root, settings.test, "x.h5").exists() and below.is_dir() else root
    source = PatchFiles(root, settings, request.work)
    rows = np.arange(len(source.labels), dtype=np.int64)
    split = Split(*(rows[source.part == number] for number in range(3)))
    for part, own in zip(settings.parts, (split.train, split.validation, split.test), strict=True):
        if len(np.unique(source.labels[own])) < 2:
            raise UserError(
                f"{_path(settings, root, part, 'y.h5')} has patches of fewer than 2 classes: fetch it again."
            )
    splits, classes = (split,) * request.trials, tuple(settings.classes)
    digest = split_digest(source.digest, rows, source.labels, classes, splits)
    slides = [len(np.unique(source.slides[own])) for own in (split.train, split.validation, split.test)]
    remark = f"the published split: {slides[0]} slides train, {slides[1]} validate, {slides[2]} test"
    name, notes = str(settings.name), ()
    if not source.rehearsal:
        name, notes = named_by_size(name, len(rows), settings.full_set, "patches")
    return TileTask(
        name,
        settings.version,
        source,
        rows,
        source.units,
        source.labels,
        source.slides,
        classes,
        splits,
        digest,
        remark,
        notes,
    )


class PatchFiles:
    """Patches of three parts by one number, train first, then validation, then test.

    Attributes:
        tile: side in px; mpp: um/px.
        labels: (N,) int32; slides: (N,) names as published; part: (N,) 0, 1 or 2; units: (N,) `test/17`.
        digest: sha256 over the nine files.
        rehearsal: whether they are synthetic.
    """

    def __init__(self, root: Path, settings: Hdf5Patches, work: Path) -> None:
        self._settings, self.tile, self.mpp = settings, settings.tile, settings.mpp
        self.rehearsal = is_rehearsal(root, ())
        self._pixels, labels, slides = [], [], []
        for part in settings.parts:
            self._pixels.append(_open(settings, root, part, "x.h5", "x", (settings.tile, settings.tile, 3)))
            count = self._pixels[-1].shape[0]
            labels.append(_labels(_open(settings, root, part, "y.h5", "y", (1, 1, 1), count), len(settings.classes)))
            slides.append(_slides(_path(settings, root, part, "meta.csv"), settings.slide_column, count))
        counts = [len(own) for own in labels]
        self._starts = np.cumsum([0, *counts])
        self.part = np.repeat(np.arange(3), counts)
        self.labels, self.slides = np.concatenate(labels), np.concatenate(slides)
        self.units = np.array(
            [f"{part}/{row}" for part, count in zip(settings.parts, counts, strict=True) for row in range(count)]
        )
        _refuse_shared_slides(root, settings.parts, slides)
        self.digest = _digest(root, settings, work)

    def read_many(self, tile_ids: Iterable[int]) -> np.ndarray:
        """Return tiles as (n, tile, tile, 3) uint8, in the order asked for."""
        wanted = np.fromiter(tile_ids, np.int64)
        tiles = np.empty((len(wanted), self.tile, self.tile, 3), np.uint8)
        for number, pixels in enumerate(self._pixels):
            mine = np.flatnonzero((wanted >= self._starts[number]) & (wanted < self._starts[number + 1]))
            if len(mine):
                try:
                    tiles[mine] = pixels.read((wanted[mine] - self._starts[number]).tolist())
                except (Hdf5Error, OSError) as error:
                    raise UserError(f"{pixels.path} {error}: fetch it again.") from error
        return tiles

    def origins_of(self, tile_ids: np.ndarray) -> Origins:
        """Return slides, patients (where each slide is one) and hospitals of tiles."""
        slides = np.unique(self.slides[tile_ids]).tolist()
        return Origins.of(slides, slides if self._settings.patient_is_slide else (), self._settings.hospitals)


def _path(settings: Hdf5Patches, root: Path, part: str, what: str) -> Path:
    return root / settings.name_of(part, what)


def _open(
    settings: Hdf5Patches, root: Path, part: str, what: str, key: str, shape: tuple[int, ...], count: int | None = None
) -> Hdf5Rows:
    path = _path(settings, root, part, what)
    if not path.is_file():
        packed = path.with_name(f"{path.name}.gz").is_file()
        way = (
            f"unpack it with: python -m benchmarks data prepare {settings.layout} {shlex.quote(f'root={root}')}"
            if packed
            else "give task.root=FOLDER, the folder with all parts."
        )
        raise UserError(f"{path} is {'still packed' if packed else 'missing'}: {way}")
    try:
        found = Hdf5Rows(path, key)
    except (Hdf5Error, OSError) as error:
        raise UserError(f"{path} {error}: fetch it again.") from error
    if found.shape[1:] != shape or not 0 < found.shape[0] <= MOST_PATCHES or count not in (None, found.shape[0]):
        raise UserError(f"{path} holds {found.shape} instead of {(count or 'n', *shape)} bytes: fetch it again.")
    return found


def _labels(found: Hdf5Rows, classes: int) -> np.ndarray:
    try:
        labels = found.all().reshape(-1).astype(np.int32)
    except (Hdf5Error, OSError) as error:
        raise UserError(f"{found.path} {error}: fetch it again.") from error
    if labels.max() >= classes:
        raise UserError(
            f"{found.path} has the label {labels.max()}, and there are {classes} classes from 0 on: fetch it again."
        )
    return labels


def _slides(path: Path, column: str, count: int) -> np.ndarray:
    """Return the slide of every patch; known names are brought to their published form."""
    if not path.is_file():
        raise UserError(
            f"{path} is missing: without it no slide is known, and slides are what scores are marked and spread by."
        )
    found: list[str] = []
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(iter(lambda: file.readline(MOST_LINE), ""))
            header = next(rows, [])
            place = header.index(column) if column in header else -1
            for row in rows if place >= 0 else ():
                if len(row) != len(header) or not row[place].strip() or len(found) >= count:
                    raise UserError(
                        f"{path} row {len(found) + 2} fits no patch ({count:,} are expected): fetch it again."
                    )
                found.append(row[place].strip())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a UTF-8 table ({error}): fetch it again.") from error
    if place < 0 or len(found) != count:
        fault = f"has no column {column}" if place < 0 else f"has {len(found):,} rows for {count:,} patches"
        raise UserError(f"{path} {fault}: fetch it again.")
    published = {name: camelyon_slide(name) or name for name in set(found)}
    return np.array([published[name] for name in found])


def _refuse_shared_slides(root: Path, parts: tuple[str, ...], slides: list[np.ndarray]) -> None:
    known: dict[str, str] = {}
    for part, own in zip(parts, slides, strict=True):
        for slide in np.unique(own).tolist():
            if slide in known:
                raise UserError(
                    f"{root}: slide {slide} is in {known[slide]} and in {part}, and parts share no slide: fetch them again."
                )
            known[slide] = part


def _digest(root: Path, settings: Hdf5Patches, work: Path) -> str:
    """Return the sha256 over all files; one that has not changed (size, time) since an earlier call is not read again."""
    kept = work / "transfer" / f"hdf5-{value_digest(str(root.resolve()))[:12]}.json"
    known, now = read_known(kept), {}
    for part in settings.parts:
        for what in ("x.h5", "y.h5", "meta.csv"):
            path = _path(settings, root, part, what)
            mark = [path.stat().st_size, path.stat().st_mtime_ns, 0]
            before = known.get(path.name, [])
            now[path.name] = before if before[:3] == mark else [*mark, file_digest(path)]
    if now != known:
        write_json(kept, now)
    return hashlib.sha256(repr([(name, row[3]) for name, row in sorted(now.items())]).encode()).hexdigest()


KIND = Kind(Hdf5Patches, load_hdf5_patches)
