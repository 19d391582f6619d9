"""Tiles that a manifest names: what they must come out as, and how a slide or tile that does not is told."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pretrain.tiling.grid import Grid
from pretrain.tiling.reader import SlideReader, TilePlan
from pretrain.tiling.receipts import changed_canaries, changed_versions, decoder_receipt
from results.errors import UserError

END_BYTES = 2**20
DIGEST_BYTES = 16
"""A manifest keeps this much of a tile's sha256; the store's digest, over whole ones, is verified as well."""


@dataclass(frozen=True, eq=False)
class WantedTiles:
    """The tiles of one slide.

    Attributes:
        rows: the columns of the store's index but `digest`, sorted like them.
        digests: (N, 16) uint8, the first bytes of the sha256 of each tile's raw pixels.
        facts: the slide in the manifest: `slide_digest`, and, where known, `bytes`, `ends_digest`, `canary`, `mpp`, `mpp_source`.
        receipt: the receipt of the decoders that made them, or None.
        identity: digest of all of this.
    """

    rows: pa.Table
    digests: np.ndarray
    facts: Mapping[str, Any]
    receipt: Mapping[str, Any] | None
    identity: str


@dataclass(frozen=True, eq=False)
class Rebuild:
    """A whole manifest as a job: the tiles by slide, and what `store.json` takes over from it.

    `identity` names the store, `summary` replaces keys of `store.json`, `slides` adds keys to the entries of slides.
    """

    identity: str
    wanted: Mapping[str, WantedTiles]
    summary: Mapping[str, Any]
    slides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def file_ends(path: Path) -> dict[str, Any]:
    """Return the cheap fingerprint of a file: `bytes`, and `ends_digest`, the sha256 over its first and last MiB."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        digest = hashlib.sha256(file.read(END_BYTES))
        file.seek(max(0, size - END_BYTES))
        digest.update(file.read(END_BYTES))
    return {"bytes": size, "ends_digest": digest.hexdigest()}


def check_file(name: str, path: Path, facts: Mapping[str, Any]) -> None:
    """Compare size and ends of a slide with a manifest's, before anything long begins.

    Raises:
        UserError: it is another file.
    """
    found = file_ends(path)
    for key, what in (("bytes", "bytes"), ("ends_digest", "first and last MiB")):
        if facts.get(key) is not None and facts[key] != found[key]:
            detail = f": {found[key]} instead of {facts[key]}" if key == "bytes" else ""
            raise UserError(
                f"slide {name} is not the file of the manifest, its {what} differ{detail} ({path}): get the same release of the slide."
            )


def check_digest(name: str, digest: str, facts: Mapping[str, Any]) -> None:
    """Compare the sha256 of the whole slide with the manifest's.

    Raises:
        UserError: it is another file.
    """
    if digest != facts["slide_digest"]:
        raise UserError(
            f"slide {name} is not the file of the manifest, its sha256 is {digest[:12]} instead of {facts['slide_digest'][:12]}: "
            "get the same release of the slide."
        )


def check_places(name: str, wanted: WantedTiles, grid: Grid, plan: TilePlan) -> None:
    """Check that the manifest's tiles lie on the grid of its settings on this slide, each once.

    Raises:
        UserError: naming the first tile that does not.
    """
    columns = {key: wanted.rows.column(key).to_numpy() for key in ("grid_x", "grid_y", "x0", "y0", "level")}
    cells = np.stack([columns["grid_x"], columns["grid_y"]], axis=1)
    origins = grid.origin(cells)
    wrong = (
        (origins[:, 0] != columns["x0"]) | (origins[:, 1] != columns["y0"]) | (columns["level"] != plan.level)
        | (cells < 0).any(axis=1) | (cells >= (grid.columns, grid.rows)).any(axis=1)
    )  # fmt: skip
    if wrong.any():
        i = int(np.flatnonzero(wrong)[0])
        raise UserError(
            f"slide {name}, tile {cells[i, 0]}_{cells[i, 1]} of the manifest (level {columns['level'][i]}, x0 {columns['x0'][i]}, "
            f"y0 {columns['y0'][i]}) is not where its settings put it here (level {plan.level}, x0 {origins[i, 0]}, "
            f"y0 {origins[i, 1]}): check the um/px of the slide."
        )
    if len(np.unique(cells, axis=0)) != len(cells):
        raise UserError(f"slide {name} has a tile twice in the manifest: the manifest is damaged.")


def check_pixels(name: str, wanted: WantedTiles, digests: list[str], canary: str) -> None:
    """Compare the tiles' digests with the manifest's.

    Raises:
        UserError: naming how many tiles differ, the first, and whether the decoders or the resampling do.
    """
    found = np.frombuffer(bytes.fromhex("".join(digests)), dtype=np.uint8).reshape(len(digests), -1)
    wrong = np.flatnonzero((found[:, :DIGEST_BYTES] != wanted.digests).any(axis=1))
    if not len(wrong):
        return
    x, y = (wanted.rows.column(key)[int(wrong[0])].as_py() for key in ("grid_x", "grid_y"))
    raise UserError(
        f"slide {name}: {len(wrong)} of {len(digests)} tiles decode to other pixels than in the manifest, first tile {x}_{y}; "
        f"{_why(wanted, canary)}."
    )


def _why(wanted: WantedTiles, canary: str) -> str:
    if wanted.receipt is None:
        return "the manifest does not say with which decoders it was made"
    here = decoder_receipt()
    libraries = "; ".join(changed_versions(wanted.receipt, here)) or "of the same versions"
    if wanted.facts.get("canary") not in (None, canary):
        return f"the slide's canary regions differ too, so the decoder is another one ({libraries})"
    if changed_canaries(wanted.receipt, here):
        return f"the slide's canary regions are the same, but resampling is not ({libraries})"
    return f"the decoders agree on their canaries ({libraries}), so the manifest may be damaged"


def open_reader(path: Path, wanted: WantedTiles, mpp_override: float | None) -> SlideReader:
    """Open a slide with the um/px the manifest used, where slide and settings did not say it themselves."""
    stated = wanted.facts["mpp"] if wanted.facts.get("mpp_source") == "cohort" else None
    return SlideReader(path, mpp_override, stated)
