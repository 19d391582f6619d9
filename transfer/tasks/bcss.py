"""BCSS: regions of breast cancer slides with a mask of tissue codes (Amgad et al., Bioinformatics 2019, btz083)."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from results.errors import UserError
from results.files import file_digest
from results.settings import load_yaml
from transfer.tasks import segmentation
from transfer.tasks.bcss_files import CODES, Pair, check_code_table, find_pairs, resolutions
from transfer.tasks.sample import named_by_size
from transfer.tasks.schema import Kind
from transfer.tasks.segmentation import (
    IGNORE,
    Region,
    SegmentationTask,
    count_codes,
    image_size,
    official_split,
    read_mask,
    split_in_turn,
)

CLASSES = ("tumour", "stroma", "inflammatory", "necrosis", "other")
COLOURS = ((214, 39, 40), (255, 187, 120), (31, 119, 180), (240, 228, 66), (148, 103, 189))

GROUPINGS: dict[str, dict[str, tuple[int, ...]]] = {
    "clean": {
        "tumour": (1, 19, 20),
        "stroma": (2,),
        "inflammatory": (3, 10, 11),
        "necrosis": (4,),
        "ignore": (0, 7, 15),
    },
    "reference": {
        "tumour": (1, 19, 20),
        "stroma": (2,),
        "inflammatory": (3, 10, 11, 14),
        "necrosis": (4,),
        "ignore": (0,),
    },
    "eva": {"tumour": (19, 20), "stroma": (2,), "inflammatory": (3, 10, 11), "necrosis": (4,), "ignore": (0,)},
}
"""Codes of each class; what is named nowhere is `other`.

`clean` is the challenge's baseline grouping with exclude and undetermined ignored. `reference` is the research code's
(sgcl-method.md, section 1.4): lymphatics are inflammatory; exclude and undetermined are other. `eva` is that of kaiko-ai's eva,
whose table leaves out code 1, so that tumour itself is other: for comparison with numbers made there, and for nothing else.
"""

READERS, RESAMPLERS = 4, 2
"""Threads; the second kind holds whole images."""


@dataclass
class BcssSettings:
    """The keys of the task's YAML; `test` and `validation` name institutes, the second field of a slide's name."""

    name: str = "bcss"
    version: int = 1
    kind: str = "bcss"
    grouping: str = "clean"
    mpp: float = 0.5
    full_set: int | None = None
    test: list[str] = field(default_factory=list)
    validation: list[str] = field(default_factory=list)

    def check(self, where: str) -> None:
        """Raise a UserError for a value that does not fit."""
        if self.grouping not in GROUPINGS:
            raise UserError(f"{where}: grouping={self.grouping} is not known: choose {', '.join(GROUPINGS)}.")
        if not 0.05 <= self.mpp <= 8:
            raise UserError(f"{where}: mpp={self.mpp} does not fit: give 0.05 to 8 um/px.")
        if both := sorted(set(self.test) & set(self.validation)):
            raise UserError(f"{where}: institute {both[0]} is in test and in validation: take it out of one of them.")


def load(settings: BcssSettings, root: Path, trials: int, cache: Path) -> SegmentationTask:
    """Read a BCSS folder, or the cohort's of that layout, and split it.

    Where the folder holds none of the official test institutes the regions are split in turn (`split_in_turn`), and the task's
    name says so: `-rehearsal` for synthetic images, `-subset` for others. The name of a sample says that it is one.

    Raises:
        UserError: for a file, a code, a size or a setting that does not fit.
    """
    root = next((path for path in (root, *sorted(root.glob("0_Public-data*"))) if (path / "masks").is_dir()), root)
    check_code_table(root / "meta" / "gtruth_codes.tsv")
    pairs, remarks = find_pairs(root)
    scales, said = resolutions(pairs, root / "meta")
    codes = code_classes(settings.grouping)
    with ThreadPoolExecutor(READERS) as readers:
        regions = list(readers.map(lambda item: _region(*item, codes, settings.mpp), zip(pairs, scales, strict=True)))
    remarks += said + [
        f"{region.name} has no px that counts and is left out" for region in regions if not sum(region.pixels)
    ]
    regions = [region for region in regions if sum(region.pixels)]
    card = root.parent / "cohort.yaml"
    rehearsal = card.is_file() and load_yaml(card).get("rehearsal") is True
    name, split = settings.name, official_split(regions, settings.test, settings.validation)
    dealt, notes = (split,) if split else (), ()
    if not split:
        dealt, level = split_in_turn(regions, trials, str(root))
        name += "-rehearsal" if rehearsal else "-subset"
        shared = {"institute": "", "slide": "; test and training share an institute"}.get(
            level, "; test and training share slides"
        )
        level = "region" if level == "name" else level
        notes += (f"None of the official test institutes is there, so every {level} is tested in turn{shared}.",)
    if not rehearsal:
        name, size = named_by_size(name, len(regions), settings.full_set, "regions")
        notes += size
    task = SegmentationTask(
        name, settings.version, CLASSES, COLOURS, codes, settings.mpp, rehearsal, tuple(regions), dealt, trials, cache,
        (*remarks, *notes), notes,
    )  # fmt: skip
    _resample_all(task)
    return task


def _resample_all(task: SegmentationTask) -> None:
    """Decode every image once, so that a damaged one is named before anything is trained; what is resampled already was whole."""
    try:
        with ThreadPoolExecutor(RESAMPLERS) as resamplers:
            for _ in resamplers.map(task.resampled, task.regions):
                pass
    except OSError as error:
        raise UserError(
            f"{task.cache} cannot keep the resampled regions ({error.strerror}): make room there."
        ) from error


def code_classes(grouping: str) -> tuple[int, ...]:
    """Return the class of each of 256 codes under a grouping; `IGNORE` for codes that do not count or are not known."""
    classes = np.full(256, IGNORE)
    classes[: len(CODES)] = CLASSES.index("other")
    for name, codes in GROUPINGS[grouping].items():
        classes[list(codes)] = IGNORE if name == "ignore" else CLASSES.index(name)
    return tuple(classes.tolist())


def _region(pair: Pair, mpp: float, codes: tuple[int, ...], task_mpp: float) -> Region:
    size = image_size(pair.image)
    if size != image_size(pair.mask):
        raise UserError(
            f"{pair.mask} is {image_size(pair.mask)} px and its image {size}: fetch both again, they must agree."
        )
    if size[0] * size[1] * (mpp / task_mpp) ** 2 > segmentation.MOST_PX:
        raise UserError(
            f"{pair.image} ({mpp:.4g} um/px) has more than {segmentation.MOST_PX // 10**6} million px at the task's {task_mpp} um/px: "
            "raise mpp of the task, or cut it into smaller regions."
        )
    count = count_codes(read_mask(pair.mask))
    strange = np.flatnonzero(count[len(CODES) :]) + len(CODES)
    if len(strange):
        raise UserError(
            f"{pair.mask} has the code {strange[0]}, which is not in the table of BCSS (0 to {len(CODES) - 1}): fetch it again."
        )
    classes = np.array(codes)
    pixels = tuple(int(count[classes == index].sum()) for index in range(len(CLASSES)))
    fields = pair.slide.split("-")
    institute = fields[1] if len(fields) > 1 else pair.slide
    digests = file_digest(pair.image), file_digest(pair.mask)
    return Region(pair.image.stem, pair.slide, institute, pair.image, pair.mask, *size, mpp, digests, pixels)


KIND = Kind(
    BcssSettings,
    lambda settings, request: load(settings, Path(request.root), request.trials, request.work / "transfer" / "regions"),
    "segmentation",
)
