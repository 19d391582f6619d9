"""Why OpenSlide does not open a file, and what to do about it, from its first bytes (TIFF 6.0, BigTIFF)."""

import struct
from pathlib import Path
from typing import BinaryIO

MOST_TAGS = 4096
SMALL = 4096
"""A picture of at most this many px a side may be meant as an image of its own."""
WIDTH, HEIGHT, DESCRIPTION, TILE_WIDTH = 256, 257, 270, 322
VALUES = {3: "H", 4: "I", 16: "Q"}
CONVERT = "vips tiffsave {name} slide.tif --tile --pyramid --compression jpeg --Q 90"
PICTURES = {b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"BM": "BMP", b"GIF8": "GIF", b"PK\x03\x04": "zip archive"}

DAMAGED = "the file is damaged or cut short, copy it again"


def why_unreadable(path: Path, reason: str) -> str:
    """Return a sentence, without its full stop, on a file that OpenSlide refused with `reason`.

    A TIFF without tiles or with an OME header is a picture that OpenSlide does not take; the sentence says how to convert it.
    """
    said = f"OpenSlide cannot open {path.name} ({reason})"
    try:
        with open(path, "rb") as file:
            start = file.read(16)
            tags = _tags(file, start) if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+") else None
    except (OSError, struct.error, ValueError):
        return f"{said}: it begins like a TIFF but is cut short or damaged, get it again"
    convert = CONVERT.format(name=path.name)
    if tags is None:
        kind = next((kind for magic, kind in PICTURES.items() if start.startswith(magic)), None)
        if kind:
            return f"{path.name} is a {kind}, no slide: convert it with '{convert}', or pack a folder of pictures with 'python -m pretrain pack'"
        return f"{said}: it begins like no slide format, get it again or name its format"
    size = f" of {tags[WIDTH]} x {tags[HEIGHT]} px" if {WIDTH, HEIGHT} <= tags.keys() else ""
    if "ome" in tags:
        what = f"an OME-TIFF{size}, which OpenSlide does not read"
    elif TILE_WIDTH not in tags:
        what = f"a flat TIFF{size}, a picture without the tiles of a slide, which OpenSlide does not read"
    else:
        return said
    small = max(tags.get(WIDTH, 0), tags.get(HEIGHT, 0)) <= SMALL
    pack = ", or pack a folder of such pictures with 'python -m pretrain pack'" if small else ""
    return (
        f"{path.name} is {what}: convert it with '{convert}' and give its um/px in the mpp column of cohort.csv{pack}"
    )


def _tags(file: BinaryIO, start: bytes) -> dict[int | str, int]:
    """Read the numbers of a TIFF's first directory, one value a tag, and `ome` where its description is OME-XML."""
    order = "<" if start[:2] == b"II" else ">"
    big = start[2:4] in (b"+\0", b"\0+")
    head, entry, inline = ("Q", 20, 8) if big else ("H", 12, 4)
    offset = struct.unpack(order + ("Q" if big else "I"), start[8:16] if big else start[4:8])[0]
    file.seek(offset)
    count = struct.unpack(order + head, file.read(struct.calcsize(order + head)))[0]
    if not 0 < count <= MOST_TAGS:
        raise ValueError(f"{count} tags")
    data = file.read(count * entry)
    found: dict[int | str, int] = {}
    for at in range(0, count * entry, entry):
        tag, kind = struct.unpack(order + "HH", data[at : at + 4])
        length = struct.unpack(order + ("Q" if big else "I"), data[at + 4 : at + 4 + inline])[0]
        value = data[at + 4 + inline : at + entry]
        if kind in VALUES and length * struct.calcsize(order + VALUES[kind]) <= inline:
            found[tag] = struct.unpack(order + VALUES[kind], value[: struct.calcsize(order + VALUES[kind])])[0]
        elif tag == DESCRIPTION and length > inline:
            file.seek(struct.unpack(order + ("Q" if big else "I"), value)[0])
            if b"<OME" in file.read(min(length, 4096)):
                found["ome"] = 1
    return found
