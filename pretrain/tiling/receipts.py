"""Decoder receipts: which libraries turned slides into pixels, and what they make of three small fixed files.

Versions alone say little (a library may be patched, or built with other arithmetic), so the receipt also holds the sha256 of
pixels: the canary files here, and fixed regions of every slide (`SlideReader.canary`).
"""

import ctypes
import hashlib
import re
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import openslide
from openslide import lowlevel
from PIL import Image, features

from pretrain.tiling.reader import SlideReader
from results.files import file_digest, value_digest

SCHEMA = 1
CANARIES = Path(__file__).parent / "canaries"
CANARY_FILES = {"jpeg": "jpeg.tif", "jpeg2000": "jpeg2000.svs"}
RESIZED = {"tile": 96, "mpp": 0.61}
BUNDLED = {
    "4.0.1.2": {"libtiff": "4.7.1", "openjpeg": "2.5.4"},
    "4.0.0.11": {"libtiff": "4.7.1", "openjpeg": "2.5.4"},
}
"""What openslide-bin links in without leaving its version in the library; from the release notes of openslide/openslide-bin."""


@cache
def decoder_receipt() -> dict[str, Any]:
    """Return the receipt of this process: `schema`, `versions` {library: version} and `canaries` {name: sha256 of RGB bytes}.

    `versions` has openslide, openslide-python, openslide-bin or the system's library, the sha256 of that library
    (`openslide-library`), libjpeg-turbo, openjpeg, libtiff and zlib-ng as OpenSlide uses them, and Pillow with its own
    libjpeg-turbo, which resamples and stores tiles.
    """
    return {"schema": SCHEMA, "versions": _versions(), "canaries": _canaries()}


def receipt_id(receipt: Mapping[str, Any]) -> str:
    """Return 12 hex digits that name a receipt."""
    return value_digest(receipt)[:12]


def changed_versions(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Name the libraries that two receipts do not share, as `libtiff 4.7.1 -> 4.6.0`."""
    old, new = first["versions"], second["versions"]
    names = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    return [f"{name} {_short(old.get(name))} -> {_short(new.get(name))}" for name in names]


def changed_canaries(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Name the canaries that two receipts decode to different pixels."""
    old, new = first["canaries"], second["canaries"]
    return sorted(name for name in old.keys() & new.keys() if old[name] != new[name])


def decoder_warnings(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Say where two stores decoded the same slide, or the canaries, to different pixels; empty when they did not.

    Args:
        first, second: `TileStore.summary`, or the metadata of a manifest. Stores from before receipts warn of nothing.

    Returns:
        One sentence each for the slides and for the canaries.
    """
    slides, others = first["slides"], second["slides"]
    shared = [n for n in sorted(slides.keys() & others.keys()) if _canary(slides[n]) and _canary(others[n])]
    same_file = [n for n in shared if slides[n]["slide_digest"] == others[n]["slide_digest"]]
    differing = [n for n in same_file if slides[n]["canary"] != others[n]["canary"]]
    warnings = []
    if differing:
        warnings.append(
            f"{len(differing)} of {len(same_file)} slides that both hold decoded to different pixels, first {differing[0]}."
        )
    receipts = [tuple(summary.get("receipts", {}).values()) for summary in (first, second)]
    pairs = [(a, b) for a in receipts[0] for b in receipts[1]]
    canaries = sorted({name for a, b in pairs for name in changed_canaries(a, b)})
    if canaries:
        libraries = sorted({change for a, b in pairs for change in changed_versions(a, b)})
        warnings.append(
            f"the decoders make other pixels of the canary {', '.join(canaries)} ({'; '.join(libraries) or 'same versions'})."
        )
    return warnings


def _canary(slide: Mapping[str, Any]) -> bool:
    return bool(slide.get("canary") and slide.get("slide_digest"))


def _short(version: str | None) -> str:
    return "none" if version is None else version[:12] if len(version) == 64 else version


def _canaries() -> dict[str, str]:
    found = {}
    for name, file in CANARY_FILES.items():
        with SlideReader(CANARIES / file) as reader:
            plan = reader.plan(min(reader.size), reader.mpp)
            found[name] = _digest(reader.read_tile(0, 0, plan))
            if name == "jpeg":
                resized = reader.plan(RESIZED["tile"], RESIZED["mpp"])
                found["resized"] = _digest(reader.read_tile(0, 0, resized))
    with Image.open(CANARIES / "stored.jpg") as image:
        found["stored"] = _digest(np.asarray(image))
    return found


def _digest(pixels: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def _versions() -> dict[str, str]:
    library = Path(lowlevel._lib._name)
    found = {
        "openslide": openslide.__library_version__,
        "openslide-python": openslide.__version__,
        "pillow": metadata.version("pillow"),
        "pillow-libjpeg-turbo": features.version("libjpeg_turbo") or "none",
        "numpy": metadata.version("numpy"),
    }
    if library.parent.name == "openslide_bin" and library.is_file():
        found["openslide-bin"] = metadata.version("openslide-bin")
        found["openslide-library"] = file_digest(library)
        return found | _unknown(found["openslide-bin"]) | _read_from(library.read_bytes())
    linked = _linked_libraries()
    for name, path in linked.items():
        found[f"{name}-library"] = file_digest(path)
    return found | {"openjpeg": "unknown", "libtiff": "unknown", "libjpeg-turbo": "unknown"} | _asked(linked)


def _unknown(bundle: str) -> dict[str, str]:
    """Versions that only the release notes of the bundle tell."""
    said = f"as in openslide-bin {bundle}"
    return {"openjpeg": said, "libtiff": said, "libjpeg-turbo": said} | BUNDLED.get(bundle, {})


def _read_from(library: bytes) -> dict[str, str]:
    """Versions that a compiled library names in its texts."""
    patterns = {"libjpeg-turbo": rb"libjpeg-turbo version ([\d.]+)", "zlib-ng": rb"zlib-ng-(\d[\d.]*\d)/"}
    found = {name: re.search(pattern, library) for name, pattern in patterns.items()}
    return {name: match[1].decode() for name, match in found.items() if match}


def _linked_libraries() -> dict[str, Path]:
    """Files of a system's OpenSlide and its decoders that this process has loaded; those that wheels bring along left out."""
    maps = Path("/proc/self/maps")
    paths = {line.split()[-1] for line in maps.read_text().splitlines() if ".so" in line} if maps.is_file() else set()
    names = {"openslide": "libopenslide", "libjpeg": "libjpeg", "openjpeg": "libopenjp2", "libtiff": "libtiff"}
    return {
        name: Path(path)
        for name, start in names.items()
        for path in sorted(paths)
        if Path(path).name.startswith(start) and "site-packages" not in path and Path(path).is_file()
    }


def _asked(linked: Mapping[str, Path]) -> dict[str, str]:
    """Versions that loaded libraries tell when asked."""
    found = {}
    for name, function, pattern in (
        ("openjpeg", "opj_version", r"([\d.]+)"),
        ("libtiff", "TIFFGetVersion", r"Version ([\d.]+)"),
    ):
        if name in linked:
            ask = getattr(ctypes.CDLL(str(linked[name])), function)
            ask.restype = ctypes.c_char_p
            match = re.search(pattern, ask().decode())
            found[name] = match[1] if match else "unknown"
    return found | (_read_from(linked["libjpeg"].read_bytes()) if "libjpeg" in linked else {})
