"""The rehearsal cohort: synthetic slides with a known truth, made in seconds from a seed.

    slide number -> scene (um) -> pixels at any um/px -> slide, mask, and the truth in four public layouts

It stands in for real slides wherever the whole path is tried, and everything made from it carries `rehearsal: true`.
"""

import os
import shutil
import uuid
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from pretrain.cohorts.rehearsal import truth
from pretrain.cohorts.rehearsal.fields import Window
from pretrain.cohorts.rehearsal.layout import GLASS
from pretrain.cohorts.rehearsal.render import render
from pretrain.cohorts.rehearsal.scene import carrying, compose
from pretrain.cohorts.rehearsal.slides import MPP, write_slide
from pretrain.cohorts.rehearsal.tissues import TISSUES
from results.errors import UserError, leave_signals_to_parent
from results.settings import load_yaml

VERSIONS = {"seed 0": 3, "other seeds": 4}
"""Raised whenever the same parameters begin to give other bytes; those of seed 0 are as they were when names did not carry the seed."""

DEFAULTS: dict[str, int] = {"seed": 0, "slides": 12, "size_px": 2048}

HOSPITALS = ("H1", "H2", "H3")
"""NuCLS folds leave one out; the last one is the test set of NCT-CRC-HE."""

FOLDERS = (
    "slides", "masks", "nucls/rgb", "nucls/csv", "nucls/train_test_splits", "bcss/rgbs_colorNormalized", "bcss/masks",
    "bcss/meta", "camelyon16/annotations",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One slide of a cohort; `number` counts from 0."""

    root: Path
    number: int
    seed: int
    size_px: int

    @property
    def drawn_as(self) -> tuple[str, str]:
        """Slide and hospital as every seed draws by them."""
        hospital = HOSPITALS[self.number % len(HOSPITALS)]
        return f"RHSL-{hospital}-{self.number + 1:04d}-DX1", hospital

    @property
    def hospital(self) -> str:
        return carrying(self.seed, self.drawn_as[1])

    @property
    def patient(self) -> str:
        return self.slide.removesuffix("-DX1")

    @property
    def slide(self) -> str:
        slide, hospital = self.drawn_as
        return slide.replace(hospital, self.hospital)


def version(seed: int) -> int:
    """Return the version of a cohort's bytes."""
    return VERSIONS["other seeds" if seed else "seed 0"]


def generate(
    root: Path | str,
    seed: int = DEFAULTS["seed"],
    slides: int = DEFAULTS["slides"],
    size_px: int = DEFAULTS["size_px"],
    processes: int | None = None,
) -> Path:
    """Write a cohort of synthetic slides to the folder `root` and return it; at once when it is there already.

    Args:
        root: the folder to make. It appears when it is complete, and never takes the place of something else.
        seed: the same seed and library versions give the same bytes.
        slides: how many, taken in turn from three hospitals; one slide a patient.
        size_px: side of a slide in px of 0.5 um: a multiple of 256.
        processes: how many slides are made at once; by default as many as there are usable cores.

    Raises:
        UserError: for parameters out of range, or when `root` holds anything else.
    """
    root = Path(root).absolute()
    if slides < len(HOSPITALS):
        raise UserError(
            f"slides={slides} is too few for a rehearsal cohort: take {len(HOSPITALS)} or more, one a hospital."
        )
    if seed < 0:
        raise UserError(f"seed={seed} does not fit: take 0 or more.")
    if size_px < 1024 or size_px % 256:
        raise UserError(f"size_px={size_px} does not fit: take a multiple of 256 from 1024 up.")
    card = {
        "name": "rehearsal",
        "rehearsal": True,
        "generator": {"version": version(seed), "seed": seed, "slides": slides, "size_px": size_px},
    }
    if _is_finished(root, card):
        return root
    temporary = root.with_name(f".{root.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        _write_cohort(temporary, card, processes or len(os.sched_getaffinity(0)))
        os.replace(temporary, root)
    except OSError:
        if not _is_finished(root, card):  # finished by another process meanwhile
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return root


def _is_finished(root: Path, card: dict[str, Any]) -> bool:
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    path = root / "cohort.yaml"
    if path.is_file() and load_yaml(path) == card:
        return True
    raise UserError(f"{root} holds something else than this rehearsal cohort: name another folder or remove it.")


def _write_cohort(root: Path, card: dict[str, Any], processes: int) -> None:
    settings = card["generator"]
    for folder in FOLDERS:
        (root / folder).mkdir(parents=True)
    jobs = [Job(root, number, settings["seed"], settings["size_px"]) for number in range(settings["slides"])]
    with ProcessPoolExecutor(min(processes, len(jobs)), initializer=leave_signals_to_parent) as pool:
        try:
            found = list(pool.map(_write_slide, jobs))
        finally:
            pool.shutdown(cancel_futures=True)
    truth.write_tables(root, [fields for fields, _ in found], [roi for _, roi in found])
    rows = [
        (job.slide, f"slides/{job.slide}.tif", job.patient, job.hospital, MPP, f"masks/{job.slide}.png") for job in jobs
    ]
    truth.write_table(root / "cohort.csv", ("slide", "path", "patient", "hospital", "mpp", "mask"), rows)
    labels = [(GLASS, "glass", "background"), *((tissue.code, tissue.name, "tissue") for tissue in TISSUES)]
    truth.write_table(root / "labels.csv", ("code", "label", "kind"), labels)
    (root / "cohort.yaml").write_text(yaml.safe_dump(card), encoding="utf-8")


def _write_slide(job: Job) -> tuple[list[truth.Field], truth.Roi]:
    """Write all files of one slide; return its annotated NuCLS windows and its BCSS region."""
    side = job.size_px * MPP
    scene = compose(job.seed, job.number, *job.drawn_as, side, side)
    level_0 = Window(0.0, 0.0, job.size_px, job.size_px, MPP)
    write_slide(job.root / "slides" / f"{job.slide}.tif", render(scene, level_0))
    Image.fromarray(scene.layout.codes(scene.layout.whole)).save(job.root / "masks" / f"{job.slide}.png")
    truth.write_nct(scene, job.root / "nct-crc", is_test=job.drawn_as[1] == HOSPITALS[-1])
    truth.write_camelyon(scene, job.root / "camelyon16" / "annotations" / f"{job.slide}.xml")
    return truth.write_nucls(scene, job.root / "nucls"), truth.write_bcss(scene, job.root / "bcss")
