"""Small text files from others, read within bounds: tables and ASAP annotations."""

import csv
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO
from xml.etree.ElementTree import Element, ParseError

from benchmarks.data.report import Unreadable, check_regular

MOST_LINE, MOST_COLUMNS, MOST_ROWS, MOST_XML = 1 << 20, 64, 2_000_000, 32 << 20
NAMED = 5


def read_rows(path: Path, columns: tuple[str, ...] = (), delimiter: str = ",") -> Iterator[dict[str, str]]:
    """Yield the rows of a table with a header line; the unnamed index column of pandas is called "".

    Args:
        path: UTF-8 text.
        columns: names that must be in the header.
        delimiter: what stands between cells.

    Raises:
        Unreadable: no text, too long or too wide, a column missing, or a row of another length than the header.
    """
    lines = read_lines(path, delimiter)
    header = next(lines, [])
    missing = [name for name in columns if name not in header]
    if missing:
        raise Unreadable("bad table", f"lacks the column {missing[0]}; it has {', '.join(header[:12]) or 'none'}")
    for number, cells in enumerate(lines, 2):
        if len(cells) != len(header):
            raise Unreadable("bad table", f"row {number} has {len(cells)} cells under {len(header)} columns")
        yield dict(zip(header, cells, strict=True))


def read_lines(path: Path, delimiter: str = ",") -> Iterator[list[str]]:
    """Yield the cells of every line that is not empty; see `read_rows`."""
    check_regular(path)
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            for number, cells in enumerate(csv.reader(_bounded(file), delimiter=delimiter)):
                if len(cells) > MOST_COLUMNS:
                    raise Unreadable(
                        "bad table", f"has {len(cells):,} columns, and at most {MOST_COLUMNS} are plausible"
                    )
                if number > MOST_ROWS:
                    raise Unreadable("bad table", f"has more than {MOST_ROWS:,} rows")
                if any(cells):
                    yield cells
    except (UnicodeDecodeError, csv.Error) as error:
        raise Unreadable("bad table", f"is not a UTF-8 table ({error})") from error


def _bounded(file: TextIO) -> Iterator[str]:
    while line := file.readline(MOST_LINE):
        if len(line) == MOST_LINE:
            raise Unreadable("bad table", f"has a line of more than {MOST_LINE:,} characters")
        yield line


def read_polygons(path: Path) -> dict[str, int]:
    """Count the polygons of an ASAP annotation file by group.

    Returns:
        group name -> polygons of three corners or more.

    Raises:
        Unreadable: too large, not XML, with entities or a document type, not ASAP's, or a corner that is no number.
    """
    from defusedxml.common import DefusedXmlException
    from defusedxml.ElementTree import iterparse

    check_regular(path)
    if path.stat().st_size > MOST_XML:
        raise Unreadable("bad annotation", f"is larger than {MOST_XML >> 20} MiB")
    groups: dict[str, int] = {}
    try:
        events = iterparse(path, events=("start", "end"), forbid_dtd=True)
        _, root = next(events)
        if root.tag != "ASAP_Annotations":
            raise Unreadable("bad annotation", f"is <{root.tag[:40]}>, not <ASAP_Annotations>")
        for event, element in events:
            if event == "end" and element.tag == "Annotation":
                _count(element, groups)
                element.clear()
    except DefusedXmlException as error:
        raise Unreadable("bad annotation", f"defines entities or a document type ({type(error).__name__})") from error
    except (ParseError, ValueError, LookupError, StopIteration) as error:
        raise Unreadable("bad annotation", f"is not XML ({error})") from error
    return groups


def _count(annotation: Element, groups: dict[str, int]) -> None:
    corners = annotation.findall("Coordinates/Coordinate")
    for corner in corners:
        try:
            is_place = math.isfinite(float(corner.get("X", ""))) and math.isfinite(float(corner.get("Y", "")))
        except ValueError:
            is_place = False
        if not is_place:
            raise Unreadable("bad annotation", "has a corner whose X or Y is no number")
    if len(corners) >= 3:
        group = annotation.get("PartOfGroup", "")
        groups[group] = groups.get(group, 0) + 1


def some(names: Iterable[object]) -> str:
    """Return the first few of sorted names and how many more there are, for a sentence."""
    names = sorted(map(str, names))
    rest = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + rest
