"""NuCLS: a folder of images, tables of nuclei and annotated windows becomes a detection task, and every row is accounted for."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from results.errors import UserError
from transfer.tasks.boxes import IGNORED, BoxedImage, DetectionTask, Parts, digests, opened_field
from transfer.tasks.nucls_rows import GROUPINGS, Ledger, Window, boxes_of, read_table
from transfer.tasks.sample import named_by_size
from transfer.tasks.schema import Kind, readable
from transfer.tasks.slide_parts import Fold, deal_folds, parts_of

IMAGE_FOLDERS = ("rgb", "rgbs", "rgbs_colorNormalized")
WINDOWS = "all_fov_locations.csv"
DEBUG_FOLD = 999
"""Ships with the data as a tiny fold for trying things out."""
SYNTHETIC = "RHSL-"
"""How the barcodes of the synthetic cohort begin."""
ROUNDING = 2
"""px by which a window may reach beyond its image."""


@dataclass
class NuclsSettings:
    """The keys of `nucls.yaml`; its comments say what they mean."""

    name: str = "nucls"
    version: int = 1
    kind: str = "nucls"
    classes: str = "super"
    images: str | None = None
    mpp: float = 0.2
    match_um: float = 3.0
    min_inside: float = 0.25
    full_set: int | None = None
    validation_share: float = 0.15

    def check(self, where: str) -> None:
        """Raise a UserError for a value that does not fit."""
        if self.classes not in GROUPINGS:
            raise UserError(f"task.classes={self.classes} is not known: choose {', '.join(GROUPINGS)}.")
        if self.images is not None and self.images not in IMAGE_FOLDERS:
            raise UserError(f"{where}: images={self.images} is not known: choose {', '.join(IMAGE_FOLDERS)}.")
        for name, most in (("mpp", 10.0), ("match_um", 100.0), ("min_inside", 1.0), ("validation_share", 0.9)):
            if not 0 < getattr(self, name) <= most:
                raise UserError(f"{where}: {name}={getattr(self, name)} must lie above 0 and at most at {most:g}.")


def load_nucls(settings: NuclsSettings, root: Path, trials: int, seed: int) -> DetectionTask:
    """Read a NuCLS folder.

    Args:
        settings: of the task.
        root: holds `rgb` (or `rgbs`, `rgbs_colorNormalized`), `csv`, the table of annotated windows and, if there are any,
            `train_test_splits/fold_N_{train,test}.csv`.
        trials: trial t tests on fold t modulo the number of folds.
        seed: decides what is held out for validation, and the folds where there are no files of them.

    Raises:
        UserError: when a folder, table or image is missing or broken, images of only one patient are there, or a trial has no
            nucleus to train or to test on.
    """
    folder = _image_folder(root, settings.images)
    tables = {name: path for name, path in _named(root / "csv", "*.csv").items() if path.name.lower() != WINDOWS}
    pictures = _named(folder, "*.png")
    windows, classes, ledger = _windows(root), GROUPINGS[settings.classes], Ledger()
    images = []
    for name in sorted(tables.keys() | pictures.keys() | windows.keys()):
        table, picture, window = tables.get(name), pictures.get(name), windows.get(name)
        if table is None or picture is None or window is None:
            ledger.leave_out(name, table, picture, window)
            continue
        clipped = _clipped(window, picture)
        if clipped is None:
            ledger.leave_out(name, table, picture, None)
            continue
        boxes, labels = boxes_of(table, clipped, settings.classes, settings.min_inside, ledger)
        slide, patient, hospital = barcode(name, picture)
        images.append(BoxedImage(name, picture, slide, patient, hospital, clipped, boxes, labels))
    if not images:
        raise UserError(
            f"{root} holds no field with an image in {folder.name}/, a table in csv/ and an annotated window: "
            "give the folder of the NuCLS download."
        )
    folds, remarks = _folds(root, images, seed)
    dealt = parts_of(images, folds, max(trials, len(folds)), seed, settings.validation_share)
    splits = dealt[:trials]
    _check_nuclei(root, images, splits)
    split_digest, data_digest = digests(images, classes, dealt[: len(folds)])
    rehearsal = any(image.slide.startswith(SYNTHETIC) for image in images)
    name = f"{'rehearsal-' if rehearsal else ''}{settings.name}-{settings.classes}"
    name += "-normalised" if folder.name == IMAGE_FOLDERS[-1] else ""
    notes: tuple[str, ...] = ()
    if not rehearsal:
        name, notes = named_by_size(name, len(images), settings.full_set, "fields")
    notes += (*_repeated(len(folds), splits), *_shared(images, splits))
    report = (
        *ledger.lines(len(images), folder.name),
        *remarks,
        *(f"trial {number}: {_told(split)}" for number, split in enumerate(splits, start=1)),
    )
    return DetectionTask(
        name,
        settings.version,
        classes,
        rehearsal,
        settings.mpp,
        settings.match_um / settings.mpp,
        tuple(images),
        splits,
        split_digest,
        data_digest,
        (*report, *notes),
        notes,
    )


def barcode(name: str, path: Path) -> tuple[str, str, str]:
    """Read slide, patient and hospital off a field's name: `TCGA-A1-A0SP-DX1_id-...` -> TCGA-A1-A0SP-DX1, TCGA-A1-A0SP, A1."""
    slide = name.partition("_id")[0]
    fields = slide.split("-")
    if len(fields) < 3:
        raise UserError(
            f"{path}: the name must begin with a barcode such as TCGA-A1-A0SP-DX1_id-: rename or remove it."
        )
    return slide, "-".join(fields[:3]), fields[1]


def _check_nuclei(root: Path, images: list[BoxedImage], splits: tuple[Parts, ...]) -> None:
    """Raise a UserError where the train or test part of a trial has nothing to be found."""
    for number, split in enumerate(splits, start=1):
        for part in ("train", "test"):
            if not any((images[position].labels != IGNORED).any() for position in getattr(split, part)):
                raise UserError(
                    f"{root}: the {part} part of trial {number} ({split.rule}) has no nucleus of a known class inside its windows: "
                    "add annotated images, or take another fold."
                )


def _repeated(folds: int, splits: tuple[Parts, ...]) -> tuple[str, ...]:
    """Say which trials test on the same images."""
    tested: dict[int, int] = {}
    pairs = {
        (tested[row], trial)
        for trial, split in enumerate(splits[:folds], start=1)
        for row in split.test
        if tested.setdefault(row, trial) != trial
    }
    others = ", and other trials as well" if len(pairs) > 1 else ""
    notes: tuple[str, ...] = ()
    if pairs:
        notes += ("Trials {} and {} share test images, since their folds do{}.".format(*min(pairs), others),)
    if len(splits) <= folds:
        return notes
    if folds == 1:
        return ("All trials test on the same images, those of the only fold, and differ in seed and validation only.",)
    return (
        *notes,
        f"There are {folds} folds: trial {folds + 1} tests on the images of trial 1 again, and so on.",
    )


def _shared(images: list[BoxedImage], splits: tuple[Parts, ...]) -> tuple[str, ...]:
    """Say what the parts of small folders share; the published folds keep hospitals apart."""
    notes: tuple[str, ...] = ()
    hospitals = [[{images[row].hospital for row in rows} for rows in (split.test, split.train)] for split in splits]
    if any(tested & trained for tested, trained in hospitals):
        notes += ("Test and training share hospitals.",)
    if any(set(split.validation) & set(split.train) for split in splits):
        notes += ("The score threshold was chosen on the one training image.",)
    return notes


def _told(split: Parts) -> str:
    counts = f"{len(split.train)} train, {len(split.validation)} validation, {len(split.test)} test images"
    return f"{counts} ({split.rule})"


def _image_folder(root: Path, wanted: str | None) -> Path:
    for name in (wanted,) if wanted else IMAGE_FOLDERS:
        if (root / name).is_dir():
            return root / name
    names = wanted or ", ".join(IMAGE_FOLDERS)
    raise UserError(f"{root} has no folder of images ({names}): give task.root the folder of the NuCLS download.")


def _named(folder: Path, pattern: str) -> dict[str, Path]:
    """Return the files of a folder by name without ending; hidden ones, which some systems put beside each file, are passed over."""
    return {path.stem: readable(path) for path in sorted(folder.glob(pattern)) if not path.name.startswith(".")}


def _windows(root: Path) -> dict[str, Window]:
    """Read the annotated window of every field, px of its image."""
    places = [
        path for folder in (root / "csv", root) for path in sorted(folder.glob("*.csv")) if path.name.lower() == WINDOWS
    ]
    if not places:
        raise UserError(
            f"{root} has no ALL_FOV_LOCATIONS.csv, in csv/ or beside it: images are annotated in that window only, so fetch it."
        )
    windows = {}
    for row in read_table(places[0], ("fovname", "xmin", "ymin", "xmax", "ymax")):
        try:
            window = tuple(round(float(row[key])) for key in ("xmin", "ymin", "xmax", "ymax"))
        except (ValueError, OverflowError) as error:
            raise UserError(
                f"{places[0]}: the window of {row['fovname']} is not four numbers: mend the row."
            ) from error
        name = row["fovname"].removesuffix(".png")
        if windows.setdefault(name, window) != window:
            raise UserError(f"{places[0]} names {name} more than once, with different windows: remove the wrong row.")
    return windows


def _clipped(window: Window, path: Path) -> Window | None:
    """Decode an image once and cut its window at the rim; None for a window without area."""
    with opened_field(path) as image:
        width, height = image.size
    if min(window) < -ROUNDING or window[2] > width + ROUNDING or window[3] > height + ROUNDING:
        raise UserError(
            f"{path} is {width} x {height} px and its annotated window {window} reaches beyond it: fetch the image or the table of "
            "windows again."
        )
    x0, y0, x1, y1 = max(0, window[0]), max(0, window[1]), min(width, window[2]), min(height, window[3])
    return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None


def _folds(root: Path, images: list[BoxedImage], seed: int) -> tuple[list[Fold], list[str]]:
    """Take the published folds that have images to train and to test on here, else deal folds."""
    slides = {image.slide for image in images}
    usable, remarks = [], []
    for number, parts in sorted(_fold_files(root).items()):
        if set(parts) != {"train", "test"}:
            remarks.append(f"fold {number} has no {'test' if 'train' in parts else 'train'} file and is not used")
            continue
        train, test = (
            {row["slide_name"] for row in read_table(parts[key], ("slide_name",))} for key in ("train", "test")
        )
        if train & test:
            raise UserError(f"{parts['test']} and {parts['train'].name} both name slide {min(train & test)}: mend one.")
        if not train & slides or not test & slides:
            remarks.append(f"fold {number} has no images to train or to test on here and is not used")
            continue
        unnamed = sorted(slides - train - test)
        if unnamed:
            left = Counter(image.slide in unnamed for image in images)[True]
            remarks.append(f"fold {number} does not name {len(unnamed)} slides ({unnamed[0]}): {left} images left out")
        usable.append(Fold(f"fold {number}", train, test))
    if usable:
        return usable, [*remarks, f"published folds used: {len(usable)}"]
    folds, remark = deal_folds(images, seed, str(root))
    return folds, [*remarks, remark]


def _fold_files(root: Path) -> dict[int, dict[str, Path]]:
    files: dict[int, dict[str, Path]] = {}
    for path in sorted((root / "train_test_splits").glob("fold_*.csv")):
        match = re.fullmatch(r"fold_(\d+)_(train|test)\.csv", path.name)
        if match and int(match[1]) != DEBUG_FOLD:
            files.setdefault(int(match[1]), {})[match[2]] = path
    return files


KIND = Kind(
    NuclsSettings,
    lambda settings, request: load_nucls(settings, Path(request.root), request.trials, request.seed),
    "detection",
)
