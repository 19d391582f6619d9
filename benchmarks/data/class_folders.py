"""Tiles in one folder a class, as the three NCT-CRC-HE sets are laid out."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.data.dataset import Part, files_below, names_in
from benchmarks.data.headers import read_header
from benchmarks.data.report import Report, Unreadable
from benchmarks.data.tables import some

CLASSES = ("ADI", "BACK", "DEB", "LYM", "MUC", "MUS", "NORM", "STR", "TUM")
TRAIN_COUNTS = dict(zip(CLASSES, (10407, 10566, 11512, 11557, 8896, 13536, 8763, 10446, 14317), strict=True))
VALIDATION_COUNTS = dict(zip(CLASSES, (1338, 847, 339, 634, 1035, 592, 741, 421, 1233), strict=True))
"""Tiles a class; they add up to the published 100,000 and 7,180. The 7,180 as counted in the test part of PathMNIST, which is that set."""

SUFFIXES = (".tif", ".tiff")
SIDE = 224
TILE = re.compile(r"([A-Z]+)-(?:TCGA-)?[A-Z]{8}")
LICENCE = "CC BY 4.0"
CITE = (
    "Kather, Halama, Marx: 100,000 histological images of human colorectal cancer and healthy tissue, Zenodo 2018, "
    "doi 10.5281/zenodo.1214456; Kather et al., PLOS Medicine 2019, doi 10.1371/journal.pmed.1002730"
)
HOME = "https://zenodo.org/records/1214456"


@dataclass(frozen=True)
class ClassFolders:
    """`<set>/<CLASS>/<CLASS>-<code>.tif`, RGB of 224 x 224 px.

    Attributes:
        folder: name of the set's folder.
        counts: class -> tiles.
    """

    folder: str
    counts: Mapping[str, int]

    def place(self, root: Path) -> Path:
        """Return the folder of the classes: `<root>/<set>`, or `root` itself when the classes lie there."""
        is_it = not (root / self.folder).is_dir() and any((root / name).is_dir() for name in self.counts)
        return root if is_it else root / self.folder

    @property
    def parts(self) -> Callable[[Path], list[Part]]:
        def count(root: Path) -> list[Part]:
            place = self.place(root)
            return [Part(name, len(names_in(place / name, *SUFFIXES)), most) for name, most in self.counts.items()]

        return count

    def verify(self, root: Path, report: Report) -> None:
        """Check classes, counts, names, and the header of every tile."""
        place = self.place(root)
        found: dict[str, int] = {name: 0 for name in self.counts if (place / name).is_dir()}
        seen: dict[str, str] = {}
        odd: list[str] = []
        for path, entry in files_below(place):
            label, _, name = path.rpartition("/")
            if label not in self.counts or not name.lower().endswith(SUFFIXES):
                report.problem("stray file", f"{path} is no tile of a class folder ({', '.join(self.counts)})")
                continue
            found[label] = found.get(label, 0) + 1
            stem = name.rpartition(".")[0]
            tile = TILE.fullmatch(stem)
            if not tile or tile[1] != label:
                odd.append(path)
                continue
            if stem in seen:
                report.problem("duplicate", f"{path} is the tile of {seen[stem]} once more")
                continue
            seen[stem] = path
            self._check(path, entry.path, report)
        self._name_odd(odd, seen, report)
        self._count(found, report)

    def _name_odd(self, paths: list[str], seen: dict[str, str], report: Report) -> None:
        """Tell copies of tiles from files that are none, once all tiles are known."""
        for path in paths:
            label, _, name = path.rpartition("/")
            tile = TILE.match(name)
            if tile and tile[0] in seen:
                report.problem("duplicate", f"{path} is the tile of {seen[tile[0]]} once more")
            else:
                report.problem("stray file", f"{path} is not named {label}-XXXXXXXX.tif or {label}-TCGA-XXXXXXXX.tif")

    def _check(self, path: str, file: str, report: Report) -> None:
        try:
            header = read_header(file)
        except (Unreadable, OSError) as error:
            report.problem(getattr(error, "kind", "unreadable"), f"{path} {error}")
            return
        if (header.width, header.height, header.channels, header.bits) != (SIDE, SIDE, 3, 8):
            shape = f"{header.width} x {header.height} px, {header.channels} channels of {header.bits} bits"
            report.problem("wrong size", f"{path} has {shape}; {SIDE} x {SIDE} px, 3 of 8 is expected")

    def _count(self, found: dict[str, int], report: Report) -> None:
        missing = [name for name in self.counts if not found.get(name)]
        if missing:
            report.problem("missing class", f"no tile of {some(missing)} in {self.folder}")
        for name, most in self.counts.items():
            if found.get(name) and found[name] != most:
                word = "missing tiles" if found[name] < most else "too many tiles"
                report.problem(word, f"{name} has {found[name]:,} tiles, {most:,} are expected")
        report.facts |= {
            "tiles": sum(found.values()),
            "tiles a class": ", ".join(f"{k} {v:,}" for k, v in found.items()),
        }
