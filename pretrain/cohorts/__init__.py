"""Cohorts: which slides there are, whose they are, and what their code masks mean."""

from dataclasses import dataclass, field
from pathlib import Path

from pretrain.annotations import LesionRule
from results.errors import UserError


@dataclass(frozen=True)
class Slide:
    """One slide.

    `mpp` is um/px at level 0 when the cohort states it; `mask` is an 8-bit PNG of codes over the whole slide. `annotation` is an
    ASAP file of lesions, and `tissue_label` the label of all tissue outside them, empty where that is not known. `part` is
    the list the slide belongs to (train, validation, test), `remark` what a reader of its tiles should know. `slide_label` is what is
    known of the slide as a whole (a diagnosis); it labels no tile.
    """

    name: str
    path: Path
    patient: str = ""
    hospital: str = ""
    mpp: float | None = None
    mask: Path | None = None
    annotation: Path | None = None
    tissue_label: str = ""
    part: str = ""
    remark: str = ""
    slide_label: str = ""


@dataclass(frozen=True)
class Cohort:
    """A named set of slides with unique names, sorted by name.

    `codes` maps a mask code of kind tissue to its label; two codes may share one. `background` and `ignore` hold the
    codes of those kinds. `rehearsal` marks synthetic slides. `lesion` says when a tile of an annotated slide is lesion. `notes`
    says what is missing or was left out; `licence` and `cite` go into manifests.
    """

    name: str
    root: Path
    slides: tuple[Slide, ...]
    codes: dict[int, str] = field(default_factory=dict)
    background: frozenset[int] = frozenset()
    ignore: frozenset[int] = frozenset()
    rehearsal: bool = False
    lesion: LesionRule | None = None
    notes: tuple[str, ...] = ()
    licence: str = ""
    cite: str = ""

    @property
    def labels(self) -> list[str]:
        """Every label a tile may have, sorted."""
        lesion = [self.lesion.label] if self.lesion else []
        return sorted({*self.codes.values(), *lesion, *(slide.tissue_label for slide in self.slides)} - {""})


def open_cohort(spec: str | Path) -> Cohort:
    """Open a folder of slides, a folder with `cohort.csv`, or a CSV of that form.

    A slide whose file is missing stays in the cohort: it fails alone, with its reason, when it is tiled.

    Raises:
        UserError: nothing is there, no slide is found, or a table beside the slides is wrong.
    """
    from pretrain.cohorts import folder

    path = Path(spec).expanduser()
    if path.is_dir():
        table = path / "cohort.csv"
        return folder.from_table(table) if table.is_file() else folder.from_folder(path)
    if path.is_file() and path.suffix.lower() == ".csv":
        return folder.from_table(path)
    if path.is_file():
        raise UserError(f"cohort {path} is a single file: give the folder that holds the slides, or a CSV.")
    raise UserError(f"cohort {path} does not exist: give a folder of slides, or a CSV with the columns slide and path.")
