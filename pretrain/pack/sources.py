"""Which images a folder holds, what they are labelled, and which slide, patient and hospital they come from."""

import hashlib
import json
import math
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pretrain.cohorts.folder import no_name
from pretrain.cohorts.tables import read_rows, refuse_bad
from pretrain.pack.images import SUFFIXES
from results.errors import UserError

IMAGES_A_GROUP = 4096
MOST_SLIDES = 20_000
MOST_JSON = 2**30
MOST_IMAGES = 50_000_000
COLUMNS = ("slide", "patient", "hospital", "label")


@dataclass(frozen=True)
class Source:
    """One image: its path below the folder, and what is known of it."""

    path: str
    label: str = ""
    slide: str = ""
    patient: str = ""
    hospital: str = ""


def find_images(root: Path, folders: bool) -> list[Source]:
    """Return every image below `root`, sorted; hidden files and folders are passed over, links to folders are not followed.

    Args:
        root: the folder.
        folders: whether the folder that holds an image is its label; images in `root` itself have none.

    Raises:
        UserError: the folder is missing or cannot be read, or holds no image.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a folder: give the folder that holds the images.")
    found = [Source(path, path.split("/")[-2] if folders and "/" in path else "") for path in _paths(root)]
    if not found:
        raise UserError(f"{root} holds no image: looked in all folders for files ending in {', '.join(SUFFIXES)}.")
    return sorted(found, key=lambda source: source.path)


def _paths(root: Path) -> Iterator[str]:
    def refuse(error: OSError) -> None:
        raise UserError(f"folder {error.filename} cannot be read ({error.strerror}).") from error

    for folder, folders, files in os.walk(root, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES:
                path = Path(folder, name).relative_to(root).as_posix()
                if not path.isprintable():
                    raise UserError(f"image {path!r} has a name that cannot be printed: rename it.")
                yield path


def with_table(sources: list[Source], table: Path) -> list[Source]:
    """Take slide, patient, hospital and label from a CSV with the column `image` (path below the folder) and any of these.

    Raises:
        UserError: an image has no row or two, a row has no image, or a slide's name cannot name a file.
    """
    if not table.is_file():
        raise UserError(
            f"table={table} is not there: give a CSV with the columns image and any of {', '.join(COLUMNS)}."
        )
    rows: dict[str, dict[str, str]] = {}
    bad, known = [], {source.path for source in sources}
    for line, row in read_rows(table, ("image",), COLUMNS, MOST_IMAGES):
        path = row["image"].replace("\\", "/").removeprefix("./")
        if path in rows:
            bad.append((line, f": the image {path} is listed twice"))
        elif path not in known:
            bad.append((line, f": the image '{path}' is not in the folder"))
        elif row.get("slide") and (wrong := no_name(row["slide"])):
            bad.append((line, f": {wrong}"))
        rows[path] = {key: row[key] for key in COLUMNS if key in row}
    refuse_bad(table, bad)
    absent = [source.path for source in sources if source.path not in rows]
    if absent:
        raise UserError(
            f"{table} lacks {len(absent)} of the images, first {absent[0]}: list each, or take it out of the folder."
        )
    return [replace(source, **rows[source.path]) for source in sources]


def with_coco(sources: list[Source], file: Path) -> tuple[list[Source], str]:
    """Label images by a COCO file: those whose annotations are all of one category.

    Returns:
        The sources, and a note on images of several categories or none, empty without such.

    Raises:
        UserError: it is no COCO file, or names images that are not there.
    """
    content = _coco(file)
    names = {entry["id"]: str(entry["file_name"]) for entry in content["images"]}
    categories = {entry["id"]: str(entry["name"]) for entry in content["categories"]}
    labels: dict[str, set[str]] = defaultdict(set)
    for entry in content["annotations"]:
        if entry["image_id"] in names and entry["category_id"] in categories:
            labels[names[entry["image_id"]]].add(categories[entry["category_id"]])
    known = {source.path for source in sources} | {source.path.split("/")[-1] for source in sources}
    absent = sorted(name for name in names.values() if name not in known)
    if absent:
        raise UserError(
            f"{file} names {len(absent)} images that are not in the folder, first {absent[0]}: give the folder of this file."
        )
    several = unlabelled = 0
    found = []
    for source in sources:
        named = labels.get(source.path) or labels.get(source.path.split("/")[-1]) or set()
        several, unlabelled = several + (len(named) > 1), unlabelled + (not named)
        found.append(replace(source, label=next(iter(named)) if len(named) == 1 else ""))
    note = f"{several} images with annotations of several categories and {unlabelled} with none have no label"
    return found, note if several or unlabelled else ""


def _coco(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > MOST_JSON:
            raise UserError(f"{file} has over {MOST_JSON >> 20} MiB: no annotation file is that large.")
        content = json.loads(file.read_text(encoding="utf-8"))
        for part, keys in (
            ("images", ("id", "file_name")),
            ("annotations", ("image_id", "category_id")),
            ("categories", ("id", "name")),
        ):
            for entry in content[part]:
                _ = [hash(entry[key]) for key in keys]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{file} is no COCO annotation file ({type(error).__name__}: {str(error)[:80]}): expected images, annotations and categories."
        ) from error
    return content


def groups(sources: list[Source]) -> dict[str, list[Source]]:
    """Deal images into the store's groups, each a shard: by slide where every image has one, else by the sha256 of the path.

    Raises:
        UserError: some images have a slide and others none, or there are too many slides.
    """
    named = sum(bool(source.slide) for source in sources)
    if 0 < named < len(sources):
        first = next(source.path for source in sources if not source.slide)
        raise UserError(
            f"{len(sources) - named} images have no slide in the table, first {first}: name the slide of all, or of none."
        )
    count = math.ceil(len(sources) / IMAGES_A_GROUP)
    dealt: dict[str, list[Source]] = defaultdict(list)
    for source in sources:
        drawn = int(hashlib.sha256(source.path.encode()).hexdigest()[:8], 16) % count
        dealt[source.slide or f"images-{drawn:05d}"].append(source)
    if len(dealt) > MOST_SLIDES and named:
        raise UserError(
            f"the table names {len(dealt):,} slides, and a store keeps one file each, {MOST_SLIDES:,} at most: name patients only."
        )
    return dict(sorted(dealt.items()))
