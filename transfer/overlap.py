"""What an encoder's pretraining may have seen of the slides that a task tests on.

A card lists the slides, patients and hospitals of its pretraining tiles, and the sha256 of the slides' files; a task knows those of its
test part. Names are brought to one form first, since one slide is called `TCGA-A1-A0SP-01Z-00-DX1.<uuid>` by its archive and
`TCGA-A1-A0SP-DX1` by two data sets. The sums find a slide that goes by another name.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

LEVELS = ("same slide", "same patient", "same hospital")
"""From the worst down; below them `clean`, and `unknown` where names are missing on either side."""

BARCODE = re.compile(r"(?P<archive>TCGA|RHSL)-(?P<site>[A-Z0-9]{2}(?:S\d+)?)-(?P<case>[A-Z0-9]{4})(?:-.*?(?P<slide>[DTBM][SX]?[0-9A-Z]{1,2})(?![0-9A-Z]).*)?")  # fmt: skip
"""Archive, hospital, patient and slide of a barcode (TCGA's code tables; the synthetic cohort uses the same form, where S and a seed may follow the hospital)."""

CAMELYON = re.compile(
    r"(?:camelyon(?:16)?_)?(?:(?:train|test)_)?(?P<kind>normal|tumor|test)_(?P<number>\d{1,3})", re.IGNORECASE
)
"""A slide of Camelyon16 under its own name or PatchCamelyon's, `camelyon16_train_tumor_001` and `camelyon16_test_001`."""


@dataclass(frozen=True)
class Origins:
    """Slides, patients and hospitals by names that compare across archives; an empty set means not known. `digests`: of slides' files."""

    slides: frozenset[str]
    patients: frozenset[str]
    hospitals: frozenset[str]
    digests: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls,
        slides: Iterable[str],
        patients: Iterable[str] = (),
        hospitals: Iterable[str] = (),
        digests: Iterable[str] = (),
    ) -> Self:
        """Bring names to one form; what a barcode tells of patient and hospital is used where names are not given."""
        slides = {str(name) for name in slides if name}
        found = {name: BARCODE.match(name) for name in slides}
        told_patients = {str(name) for name in patients if name}
        told_hospitals = {str(name) for name in hospitals if name}
        return cls(
            frozenset(_slide(name, match) for name, match in found.items()),
            frozenset(_patient(name) for name in told_patients | {name for name, match in found.items() if match}),
            frozenset(told_hospitals | {match["site"] for match in found.values() if match}),
            frozenset(str(digest) for digest in digests if digest),
        )


def camelyon_slide(name: str) -> str | None:
    """Return the published name of a slide of Camelyon16, such as `tumor_001`; None for other names."""
    match = CAMELYON.fullmatch(name.removesuffix(".tif"))
    return f"{match['kind'].lower()}_{int(match['number']):03d}" if match else None


def _slide(name: str, match: re.Match[str] | None) -> str:
    if match is None and (camelyon := camelyon_slide(name)):
        return camelyon
    if match is None or not match["slide"]:
        return name
    return f"{match['archive']}-{match['site']}-{match['case']}-{match['slide']}"


def _patient(name: str) -> str:
    match = BARCODE.match(name)
    return f"{match['archive']}-{match['site']}-{match['case']}" if match else camelyon_slide(name) or name


def overlap(seen: Origins, tested: Origins) -> str:
    """Return the worst level at which two sets of slides meet, `clean` where they do at none, `unknown` where names are missing.

    One file under two names is the same slide; other files may be the same slide still, saved anew, and go by their names.
    Hospitals of one code in different archives count as the same one. A side without patient names cannot be cleared of a shared
    patient, nor one without hospitals of a shared hospital.
    """
    if seen.digests & tested.digests:
        return LEVELS[0]
    pairs = ((seen.slides, tested.slides), (seen.patients, tested.patients), (seen.hospitals, tested.hospitals))
    for level, (one, other) in zip(LEVELS, pairs, strict=True):
        if one & other:
            return level
    return "clean" if all(one and other for one, other in pairs) else "unknown"


def mark(card: Mapping[str, Any] | None, kind: str, task: Any, trial: int) -> str:
    """Say what a record's `contamination` is.

    Args:
        card: of the encoder; None for weights without one.
        kind: of the encoder; floors saw no slide.
        task: may offer `tested(trial) -> Origins`, and has `rehearsal` and `data_digest`.
        trial: whose test part is scored.
    """
    if card is None:
        return "clean" if kind == "floor" else "unknown"
    data = card["data"]
    if bool(data.get("rehearsal")) != bool(task.rehearsal):
        return "clean"
    if data.get("store_digest") == task.data_digest:
        return "same slide"
    tested = task.tested(trial) if hasattr(task, "tested") else None
    seen = data.get("seen")
    if not seen or tested is None:
        return "unknown"
    return overlap(Origins.of(seen["slides"], seen["patients"], seen["hospitals"], seen.get("digests", ())), tested)


def origins_of(images: Sequence[Any], rows: Iterable[int]) -> Origins:
    """Return the origins of images with `slide` and, where they have them, `patient` and `hospital` (or `institute`)."""
    chosen = [images[row] for row in rows]
    return Origins.of(
        (image.slide for image in chosen),
        (getattr(image, "patient", "") for image in chosen),
        (getattr(image, "hospital", getattr(image, "institute", "")) for image in chosen),
    )
