"""The parts of trials for images that come from slides: given folds or folds by rule, and a validation part from the rest."""

import hashlib
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass

from results.errors import UserError
from transfer.tasks.boxes import BoxedImage, Parts

FEWEST_HOSPITALS = 4
"""A whole hospital is held out for validation only where at least three remain to train on."""
OWN_FOLDS = 5


@dataclass(frozen=True)
class Fold:
    """Slides of one published (or dealt) fold."""

    name: str
    train: Set[str]
    test: Set[str]


def deal_folds(images: Sequence[BoxedImage], seed: int, where: str) -> tuple[list[Fold], str]:
    """Deal slides into at most five folds, by hospital where there are five hospitals or more, else by patient.

    Raises:
        UserError: when all images come from one patient.
    """
    hospitals, patients = {image.hospital for image in images}, {image.patient for image in images}
    level = "hospital" if len(hospitals) >= OWN_FOLDS else "patient"
    names = sorted(hospitals if level == "hospital" else patients, key=lambda name: _drawn("fold", seed, name))
    if len(names) < 2:
        raise UserError(f"{where} holds images of one patient only: two are needed, one to train and one to test on.")
    count = min(OWN_FOLDS, len(names))
    slides: list[set[str]] = [set() for _ in range(count)]
    for image in images:
        slides[names.index(getattr(image, level)) % count].add(image.slide)
    every = set().union(*slides)
    folds = [Fold(f"own fold {number}", every - held, held) for number, held in enumerate(slides, start=1)]
    return folds, f"no fold files fit: {count} folds were dealt by {level} (seed {seed})"


def parts_of(
    images: Sequence[BoxedImage], folds: Sequence[Fold], trials: int, seed: int, share: float
) -> tuple[Parts, ...]:
    """Turn folds into the parts of trials: trial t tests on fold t modulo their number.

    Args:
        images: of the task; one whose slide the fold does not name is in no part of that trial.
        folds: each with images to train and to test on.
        trials: how many.
        seed: with the trial it decides what is held out for validation.
        share: of the training images that validation takes at least.
    """
    return tuple(_parts(images, folds[trial % len(folds)], seed, trial, share) for trial in range(trials))


def _parts(images: Sequence[BoxedImage], fold: Fold, seed: int, trial: int, share: float) -> Parts:
    rest = [position for position, image in enumerate(images) if image.slide in fold.train]
    test = tuple(position for position, image in enumerate(images) if image.slide in fold.test)
    validation, rule = _hold_out(images, rest, share, f"{seed} {trial}")
    held = set(validation)
    train = tuple(position for position in rest if position not in held) or tuple(rest)
    return Parts(train, tuple(sorted(validation)), test, f"{fold.name}; {rule}")


def _hold_out(images: Sequence[BoxedImage], rest: list[int], share: float, draw: str) -> tuple[list[int], str]:
    """Hold out whole hospitals, else patients, else images, in drawn order until `share` is reached; never all."""
    levels: Mapping[str, tuple[Callable[[BoxedImage], str], int]] = {
        "hospital": (lambda image: image.hospital, FEWEST_HOSPITALS),
        "patient": (lambda image: image.patient, 2),
        "image": (lambda image: image.name, 2),
    }
    for level, (group_of, fewest) in levels.items():
        names = sorted({group_of(images[position]) for position in rest}, key=lambda name: _drawn("hold", draw, name))
        if len(names) < fewest:
            continue
        held: list[int] = []
        taken = 0
        while len(held) < share * len(rest) and taken < len(names) - 1:
            held += [position for position in rest if group_of(images[position]) == names[taken]]
            taken += 1
        whose = " of the one patient" if level == "image" else ""
        return held, f"validation on {taken} {level}{'s' if taken > 1 else ''}{whose}"
    return list(rest), "validation on the one training image"


def _drawn(purpose: str, seed: int | str, name: str) -> str:
    return hashlib.sha256(f"{purpose} {seed} {name}".encode()).hexdigest()
