"""Reports of slides: what makes two jobs equal, and where the report of an equal one lies."""

import hashlib
import json
import stat
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pretrain.annotations import read_bytes
from pretrain.cohorts import Slide
from pretrain.tiles import STORE_SCHEMA, shard_path
from pretrain.tiling.labels import Codes
from pretrain.tiling.settings import Tiling
from pretrain.tiling.tissue import RULE
from pretrain.tiling.wanted import WantedTiles
from results.errors import UserError
from results.files import file_digest, value_digest, write_json


def finished_report(
    slide: Slide, codes: Codes, tiling: Tiling, root: Path, wanted: WantedTiles | None = None
) -> dict[str, Any] | None:
    """Return the report of an equal job that ended as `done` or `empty`, or None; a failed slide is tried again."""
    report = _read(report_path(root, slide.name))
    if not report:
        return None
    wished = identity(slide, codes, tiling, wanted)
    equal = wished["fingerprint"] is not None and all(report.get(key) == value for key, value in wished.items())
    return report if equal and _is_whole(report, slide, root) else None


def moved_report(
    slide: Slide, codes: Codes, tiling: Tiling, root: Path, wanted: WantedTiles | None = None
) -> dict[str, Any] | None:
    """Return the report of a job on the same bytes under other names and times, brought up to date, or None.

    Slide and labels are compared by their sha256, so this reads the slide once; it costs less than tiling it.
    """
    report = _read(report_path(root, slide.name))
    wished = identity(slide, codes, tiling, wanted)
    if report.get("content") != content(slide, codes, tiling, wanted) or not _is_whole(report, slide, root):
        return None
    size = (wished["fingerprint"] or {}).get("size")
    if size is None or size != report.get("bytes") or file_digest(slide.path) != report.get("slide_digest"):
        return None
    report |= wished
    write_json(report_path(root, slide.name), report)
    return report


def absent_report(slide: Slide) -> dict[str, Any] | None:
    """Return a report that says so when no file of a slide can be reached, else None; what an earlier run made of it stays on disk."""
    try:
        reason = "" if stat.S_ISREG(slide.path.stat().st_mode) else "is not there or is not a file"
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL in the path
        reason = "is not there or is not a file"
    except OSError as error:
        reason = f"cannot be reached ({error.strerror or type(error).__name__})"
    if not reason:
        return None
    return {
        "slide": slide.name,
        "status": "failed",
        "reason": f"{slide.path} {reason}.",
        "tiles": 0,
        "slide_digest": "",
    }


def identity(slide: Slide, codes: Codes, tiling: Tiling, wanted: WantedTiles | None = None) -> dict[str, Any]:
    """What makes two jobs equal: the file, what the cohort says of it, and the settings."""
    facts = _facts(slide, codes)
    if slide.mask:
        facts["mask"] = _fingerprint(slide.mask)
    settings = {"tiling": asdict(tiling), "tissue": asdict(RULE)}
    if wanted:
        facts, settings = {"manifest": wanted.identity}, {"tiling": asdict(tiling)}
    return {
        "schema": STORE_SCHEMA,
        "slide": slide.name,
        "fingerprint": _fingerprint(slide.path),
        "facts": value_digest(facts),
        "settings": value_digest(settings),
    }


def content(slide: Slide, codes: Codes, tiling: Tiling, wanted: WantedTiles | None = None) -> str:
    """Digest of all that a job's result depends on beside the slide's bytes, whatever the files' names and times."""
    settings = {"tiling": asdict(tiling), "tissue": asdict(RULE), "schema": STORE_SCHEMA}
    manifest = wanted.identity if wanted else None
    return value_digest([_facts(slide, codes), labels_digest(slide), settings, manifest])


def labels_digest(slide: Slide) -> str:
    """Return the sha256 of the slide's mask or annotation; empty without one, and while it cannot be read."""
    try:
        if slide.annotation:
            return hashlib.sha256(read_bytes(slide.annotation)).hexdigest()
        return file_digest(slide.mask) if slide.mask and slide.mask.is_file() else ""  # a pipe would be waited for
    except (OSError, UserError):
        return ""


def report_path(root: Path, slide: str) -> Path:
    """Return the file of a slide's report."""
    return root / "slides" / f"{slide}.json"


def rows_path(root: Path, slide: str) -> Path:
    """Return the file of a slide's rows."""
    return root / "slides" / f"{slide}.parquet"


def _facts(slide: Slide, codes: Codes) -> dict[str, Any]:
    facts = {
        "patient": slide.patient,
        "hospital": slide.hospital,
        "mpp": slide.mpp,
        "mask": None,
        "codes": sorted(codes.tissue.items()) if slide.mask else [],
        "others": sorted(codes.background | codes.ignore) if slide.mask else [],
    }
    if slide.annotation or slide.tissue_label:
        facts["lesions"] = {
            "annotation": labels_digest(slide),
            "elsewhere": slide.tissue_label,
            "rule": asdict(codes.lesion) if codes.lesion else None,
        }
    return facts


def _fingerprint(path: Path) -> dict[str, int] | None:
    try:
        status = path.stat()
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return None
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _read(path: Path) -> dict[str, Any]:
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return report if isinstance(report, dict) else {}


def _is_whole(report: dict[str, Any], slide: Slide, root: Path) -> bool:
    if report.get("status") == "empty":
        return True
    shard = shard_path(root, slide.name)
    return (
        report.get("status") == "done"
        and "tiles" in report
        and shard.is_file()
        and shard.stat().st_size == report.get("shard_bytes")
        and rows_path(root, slide.name).is_file()
    )
