"""`python -m pretrain quality cohort=...`: tile what is not tiled yet, measure every slide, write the page and `quality.json`."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from tqdm import tqdm

from pretrain.cohorts import Cohort
from pretrain.config import load
from pretrain.pages import data_uri
from pretrain.processes import each
from pretrain.quality.cohort import WORDS, by_group, mark
from pretrain.quality.page import render
from pretrain.quality.slide import Job, measure
from pretrain.stores import make_store, open_cohort, tiling, with_manifest
from pretrain.tiles import TileStore
from results.errors import UserError
from results.files import write_json, write_text
from results.settings import split_overrides

SCHEMA = 1
SOME_FAILED = 3
SIDES = ((100, 480), (400, 320), (1500, 200), (10**9, 120))
"""(slides up to, px of a picture's long side): pages of hundreds of slides stay below some 20 MB."""
ENTRY = ("status", "reason", "tiles", "slide_digest", "size", "mpp", "mpp_source", "level", "downsample", "resampled")


def command(arguments: list[str]) -> int:
    """Make the page of a cohort and return the exit status: 3 where slides failed.

    Raises:
        UserError: for every mistake of input or settings.
    """
    out = [argument.partition("=")[2] for argument in arguments if argument.startswith("out=")]
    settings = [argument for argument in arguments if not argument.startswith("out=")]
    config = with_manifest(load(settings), split_overrides(settings))
    if config.store:
        raise UserError(
            "quality looks at slides: give cohort= instead of store= ('python -m pretrain inspect' looks at stores)."
        )
    store = make_store(config)
    folder = Path(out[-1]).expanduser() if out and out[-1] else store.root / "quality"
    if folder.exists() and not folder.is_dir():
        raise UserError(f"out={folder} is a file: name a folder.")
    report = quality(config, open_cohort(config, make=False), store, folder)
    print("\n".join(summary(report, folder)))
    return SOME_FAILED if report["totals"]["failed"] else 0


def quality(config: DictConfig, cohort: Cohort, store: TileStore, folder: Path) -> dict[str, Any]:
    """Write `report.html` and `quality.json` into `folder`; return what the latter holds."""
    jobs = _jobs(config, cohort, store)
    measured = {}
    with tqdm(total=len(jobs), desc="quality", unit="slide", disable=not sys.stderr.isatty(), file=sys.stderr) as bar:
        for found in each(measure, jobs, config.tiling.workers):
            measured[found["slide"]] = found
            bar.update()
    slides = _slides(cohort, store, measured)
    mark(slides)
    report = {
        "schema": SCHEMA,
        **{key: store.summary.get(key, "") for key in ("cohort", "licence", "cite")},
        "rehearsal": store.rehearsal,
        "notes": list(store.summary.get("notes", [])),
        "store_digest": store.digest,
        "tiling": store.summary["tiling"],
        "totals": _totals(slides),
        "hospitals": by_group(slides, "hospital"),
        "patients": by_group(slides, "patient"),
        "slides": slides,
    }
    report = json.loads(json.dumps(report, sort_keys=True, allow_nan=False))
    pictures = {
        name: data_uri((jobs[0].folder / found["picture"]).read_bytes())
        for name, found in measured.items()
        if found["picture"]
    }
    write_json(folder / "quality.json", report)
    write_text(folder / "report.html", render(report, pictures))
    return report


def _jobs(config: DictConfig, cohort: Cohort, store: TileStore) -> list[Job]:
    """One job a slide that was tiled; its picture is as large as the number of slides allows."""
    known = {slide.name: slide for slide in cohort.slides}
    entries = {n: e for n, e in store.summary["slides"].items() if n in known and e["status"] != "failed"}
    side = next(px for most, px in SIDES if len(entries) <= most)
    origins = np.stack([store.index["x0"], store.index["y0"]], axis=1)
    bounds = dict(
        zip(store.slide_names, np.searchsorted(store.slide_codes, np.arange(len(store.slide_names))), strict=True)
    )
    jobs = []
    for name, entry in entries.items():
        tiles = np.arange(entry["tiles"]) + bounds.get(name, 0)
        jobs.append(
            Job(
                known[name],
                entry,
                tiling(config),
                store.root,
                store.root / "quality" / "slides",
                origins[tiles],
                tiles,
                side,
            )
        )
    return jobs


def _slides(cohort: Cohort, store: TileStore, measured: dict[str, Any]) -> list[dict[str, Any]]:
    """Everything that is known of each slide, sorted by name."""
    nothing = {"problem": "", "tissue_mm2": None, "ink_mm2": {}, "stated": {}, "focus": [], "colour": None}
    nothing |= {"focus_median": None, "focus_relative": None, "focus_low": None}
    rows = []
    for slide in cohort.slides:
        entry = store.summary["slides"].get(slide.name)
        if entry is None:
            continue  # a manifest may leave slides out
        found = {
            key: value for key, value in measured.get(slide.name, {}).items() if key not in ("key", "picture", "slide")
        }
        said = {
            "slide": slide.name,
            "file": slide.path.name,
            "patient": slide.patient,
            "hospital": slide.hospital,
            "label": slide.slide_label,
        }
        rows.append(
            {**said, **nothing, **{key: entry.get(key) for key in ENTRY}, **found, "reason": entry.get("reason") or ""}
        )
    return rows


def _totals(slides: list[dict[str, Any]]) -> dict[str, Any]:
    states = [slide["status"] for slide in slides]
    return {
        "slides": len(slides),
        **{state: states.count(state) for state in ("done", "empty", "failed")},
        "tiles": sum(slide["tiles"] for slide in slides),
        "tissue_mm2": round(sum(slide["tissue_mm2"] or 0 for slide in slides), 3),
        "patients": len({slide["patient"] for slide in slides} - {""}),
        "hospitals": len({slide["hospital"] for slide in slides} - {""}),
        "marked": sum(bool(slide["warnings"]) for slide in slides),
    }


def summary(report: dict[str, Any], folder: Path) -> list[str]:
    """The page in a few lines."""
    totals = report["totals"]
    lines = [
        f"quality: {folder / 'report.html'}",
        f"{report['cohort']}{' (rehearsal: synthetic slides)' if report['rehearsal'] else ''}: {totals['slides']} slides, {totals['failed']} failed, "
        f"{totals['empty']} empty; {totals['tissue_mm2']:,.1f} mm2 of tissue, {totals['tiles']:,} tiles",
    ]
    for kind, words in WORDS.items():
        names = [slide["slide"] for slide in report["slides"] if any(found == kind for found, _ in slide["warnings"])]
        if names:
            lines.append(f"{words}: {len(names)} slide(s) marked: {', '.join(names[:8])}{', ...' * (len(names) > 8)}")
    return lines
