"""Small CSV tables that people write: read within bounds, with commas, semicolons or tabs, and every bad row named."""

import csv
import difflib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

from results.errors import UserError

MOST_COLUMNS, MOST_ROWS, MOST_LINE = 64, 200_000, 1 << 20
DELIMITERS = ",;\t"
SHOWN = 10
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class BadRow(Exception):
    """What is wrong with one row, in a few words that follow its line number."""


def read_rows(
    table: Path, required: tuple[str, ...], optional: tuple[str, ...] = (), most_rows: int = MOST_ROWS
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line number, stripped cells) of a table with a header; unknown columns pass unless they look like a misspelt known one.

    UTF-8 with or without a byte order mark, any line ends; the header tells whether commas, semicolons or tabs part the cells.

    Raises:
        UserError: no such table, no text, too wide or too long, a column missing, or a row longer than the header.
    """
    for _ in _rows(table, required, optional, most_rows):
        pass  # all rows are known to be sound before the first is used: a table of millions is refused at once
    for line, header, row in _rows(table, required, optional, most_rows):
        cells = dict.fromkeys(header, "") | {n: c.strip() for n, c in zip(header, row, strict=False)}
        cells.pop("", None)
        for name in (*required, *optional):
            if CONTROL.search(cells.get(name, "")):
                raise UserError(
                    f"{table} line {line} has a line end or control character in the column '{name}': write it in one line."
                )
        if any(cells.values()):
            yield line, cells


def _rows(
    table: Path, required: tuple[str, ...], optional: tuple[str, ...], most_rows: int
) -> Iterator[tuple[int, list[str], list[str]]]:
    """Yield (line number, header, cells) of every row."""
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            lines = _bounded(table, file)
            first = next(lines, "")
            reader = csv.reader(_chain(first, lines), delimiter=delimiter(first))
            header = [name.strip() for name in next(reader, [])]
            _check_header(table, header, required, optional)
            for number, row in enumerate(reader):
                if number >= most_rows:
                    raise UserError(
                        f"{table} has more than {most_rows:,} rows: no cohort has so many; give the right file."
                    )
                if any(cell.strip() for cell in row[len(header) :]):
                    raise UserError(f"{table} line {reader.line_num} has more cells than the header has columns.")
                yield reader.line_num, header, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{table} cannot be read as a UTF-8 CSV ({error}): save it as 'CSV UTF-8'.") from error


def delimiter(header: str) -> str:
    """Return what parts the cells of a header line: the most frequent of comma, semicolon and tab outside quotes."""
    bare = "".join(header.split('"')[::2])
    return max(DELIMITERS, key=bare.count)


def refuse_bad(table: Path, bad: Iterable[tuple[int, str]]) -> None:
    """Name every bad row, (line number, what is wrong), in one sentence.

    Raises:
        UserError: there is one.
    """
    bad = sorted(bad)
    if len(bad) == 1:
        raise UserError(f"{table} line {bad[0][0]}{bad[0][1]}.")
    if bad:
        shown = "; ".join(f"line {line}{what}" for line, what in bad[:SHOWN])
        raise UserError(f"{table} has {len(bad)} bad rows: {shown}{'; ...' * (len(bad) > SHOWN)}.")


def _check_header(table: Path, header: list[str], required: tuple[str, ...], optional: tuple[str, ...]) -> None:
    if len(header) > MOST_COLUMNS:
        raise UserError(
            f"{table} has {len(header):,} columns, and a table of this kind has at most {MOST_COLUMNS}: give the right file."
        )
    missing = [name for name in required if name not in header]
    if missing:
        raise UserError(
            f"{table} needs the column{'s' * (len(missing) > 1)} {', '.join(missing)}; "
            f"its header is {','.join(header)[:200] or 'empty'}."
        )
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise UserError(f"{table} has the column '{twice[0]}' twice: keep one.")
    absent = [name for name in optional if name not in header]
    for name in header:
        near = difflib.get_close_matches(name.lower(), absent, n=1, cutoff=0.8)
        if name not in required + optional and near:
            raise UserError(f"{table} has the column '{name}': did you mean '{near[0]}'?")


def _bounded(table: Path, file: TextIO) -> Iterator[str]:
    while line := file.readline(MOST_LINE):
        if len(line) == MOST_LINE:
            raise UserError(f"{table} has a line of over {MOST_LINE:,} characters: it is no table of this kind.")
        yield line


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    if first:
        yield first
        yield from rest
