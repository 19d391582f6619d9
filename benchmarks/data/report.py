"""What a check found: problems by kind, remarks, facts."""

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from results.files import write_json


class Unreadable(Exception):
    """A file that is not what it should be.

    Attributes:
        kind: the heading it is named under, such as `truncated`.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def check_regular(path: Path | str) -> None:
    """Refuse pipes and devices before they are opened: they would never end, or never begin.

    Raises:
        Unreadable: the path is there and no regular file.
        OSError: it cannot be looked at.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise Unreadable("unreadable", "is no regular file")


class Report:
    """Problems, remarks and facts of one data set.

    Attributes:
        problems: kind -> sentences, in the order they were met; any makes the data set not whole.
        remarks: sentences that change nothing, such as known traps that apply to this copy.
        facts: name -> number or text that was counted.
    """

    def __init__(self, name: str, root: Path) -> None:
        self.name, self.root = name, root
        self.problems: dict[str, list[str]] = {}
        self.remarks: list[str] = []
        self.facts: dict[str, Any] = {}

    @property
    def is_whole(self) -> bool:
        """Whether no problem was found."""
        return not self.problems

    def problem(self, kind: str, text: str) -> None:
        """Name one thing that is wrong under a heading."""
        self.problems.setdefault(kind, []).append(text)

    def each(self, kind: str, texts: Iterable[str]) -> None:
        """Name several things under one heading, sorted."""
        for text in sorted(texts):
            self.problem(kind, text)

    def lines(self, show: int) -> Iterator[str]:
        """Yield the report as text, at most `show` sentences a kind and then how many more there are."""
        for name, value in self.facts.items():
            yield f"  {name}: {value:,}" if isinstance(value, int) else f"  {name}: {value}"
        for remark in self.remarks:
            yield f"  remark: {remark}"
        for kind, texts in self.problems.items():
            yield f"  {kind} ({len(texts):,}):"
            yield from (f"    {text}" for text in texts[:show])
            if len(texts) > show:
                yield f"    ... and {len(texts) - show:,} more (show={len(texts)} or out=FILE.json names all)"

    def write(self, path: Path) -> None:
        """Write everything as JSON."""
        content = {"facts": self.facts, "problems": self.problems, "remarks": self.remarks}
        write_json(path, {"data_set": self.name, "root": str(self.root), "whole": self.is_whole, **content})
