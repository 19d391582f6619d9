"""`python -m pretrain manifest write | diff | show`."""

import json
from pathlib import Path

from pretrain.manifest.differences import compare
from pretrain.manifest.file import read_manifest, write_manifest
from pretrain.manifest.make import from_store
from pretrain.tiles import TileStore
from results.errors import UserError
from results.settings import split_overrides

USAGE = "write 'manifest write store=FOLDER out=FILE [list=NAME] [licence=TEXT] [cite=TEXT]', 'manifest diff FILE FILE' or 'manifest show FILE'"
KEYS = ("store", "out", "list", "licence", "cite")
DIFFERENT = 1


def command(arguments: list[str]) -> int:
    """Run one manifest command and return the exit status; `diff` returns 1 where the tiles differ.

    Raises:
        UserError: for every mistake of input or settings.
    """
    verb, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if verb == "write":
        return write(split_overrides(rest))
    if verb == "diff" and len(rest) == 2:
        found = compare(read_manifest(rest[0]), read_manifest(rest[1]))
        print("\n".join(found.lines()))
        return 0 if found.same_tiles else DIFFERENT
    if verb == "show" and len(rest) == 1:
        facts = read_manifest(rest[0]).facts
        print(json.dumps(facts, indent=1, sort_keys=True, ensure_ascii=False))
        return 0
    raise UserError(f"'manifest {' '.join(arguments)[:80]}' is not a command: {USAGE}.")


def write(settings: dict[str, str]) -> int:
    """Write the manifest of a store."""
    unknown = sorted(settings.keys() - set(KEYS))
    missing = [key for key in ("store", "out") if not settings.get(key)]
    if unknown or missing:
        raise UserError(
            f"manifest write: {f'unknown setting {unknown[0]}' if unknown else f'{missing[0]}= is missing'}; {USAGE}."
        )
    out = Path(settings["out"])
    if out.is_dir():
        raise UserError(f"out={out} is a folder: name a file, such as {out}/cohort.parquet.")
    store = TileStore(settings["store"])
    manifest = from_store(store, settings.get("list"), settings.get("licence", ""), settings.get("cite", ""))
    write_manifest(out, manifest)
    facts = manifest.facts
    print(f"manifest {out}: {facts['tiles']:,} tiles of {len(manifest.slide_names)} slides, id {facts['id'][:16]}")
    if store.failed:
        print(
            f"{len(store.failed)} slide(s) of the store had failed and are not in it: {', '.join(n for n, _ in store.failed[:10])}"
        )
    listed = facts["list"]
    if listed and "published_tiles" in listed:
        off = listed["tiles"] / listed["published_tiles"] - 1
        print(
            f"{listed['name']}: {listed['slides']} of {listed['of_slides']} training slides of this store, {listed['tiles']:,} tiles; "
            f"the published list has {listed['published_tiles']:,} ({off:+.1%})"
        )
    return 0
