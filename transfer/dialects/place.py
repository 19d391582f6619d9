"""Where a bundle may be written: a new or empty folder, or one that holds an earlier bundle and nothing else."""

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from results.errors import UserError
from results.files import replacing

CARD, OWN = "card.json", ("card.json", "USE.md")
MOST_BYTES = 2**24
"""A larger card.json is none of ours."""


def check_place(out: Path) -> None:
    """Refuse to write over anything but a bundle; a UserError names the first file that belongs to none."""
    if not out.is_dir():
        if out.exists():
            raise UserError(f"out={out} is a file: give a folder.")
        return
    present = sorted(out.iterdir())
    if not present:
        return
    known = _files_of(out / CARD)
    if known is None:
        raise UserError(
            f"out={out} holds files that are no bundle of this command ({present[0].name}): give a new folder."
        )
    foreign = [path.name for path in present if path.name not in known or path.is_symlink() or not path.is_file()]
    if foreign:
        raise UserError(
            f"out={out} holds {foreign[0]}, which is not of the bundle there: move it away or give a new folder."
        )


def _files_of(card: Path) -> set[str] | None:
    """Names that a bundle's card lists, with those every bundle has; None where there is no such card."""
    try:
        if card.is_symlink() or not card.is_file() or card.stat().st_size > MOST_BYTES:
            return None
        content = json.loads(card.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    bundle = content.get("bundle") if isinstance(content, dict) else None
    files = bundle.get("files") if isinstance(bundle, dict) else None
    if not isinstance(files, dict | list) or not all(isinstance(name, str) for name in files):
        return None
    return {*files, *OWN}


@contextlib.contextmanager
def bundle_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder whose files are those of the bundle `out` when the block ends without an error.

    A new `out` appears whole. One that is there stays, for it may be a mount point or somebody's working folder: the files move
    into it one by one, card.json last, and those of the earlier bundle that are not among them go.
    """
    out = out.resolve()
    if not out.exists():
        with replacing(out) as temporary:
            temporary.mkdir()
            yield temporary
        return
    temporary = out / f".bundle.{uuid.uuid4().hex[:8]}.tmp"
    temporary.mkdir()
    try:
        yield temporary
        before = (_files_of(out / CARD) or set()) & {path.name for path in out.iterdir()}
        names = sorted((path.name for path in temporary.iterdir()), key=lambda name: (name == CARD, name))
        for name in names:
            os.replace(temporary / name, out / name)
        for name in before.difference(names):
            (out / name).unlink()
    finally:
        shutil.rmtree(temporary)
