"""Lesion outlines drawn in ASAP: XML -> polygons -> the share of each tile that is lesion."""

import hashlib
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

import numpy as np

from results.errors import UserError

LESION_GROUPS = frozenset({"Tumor", "_0", "_1"})
HOLE_GROUPS = frozenset({"_2"})
"""Values of PartOfGroup; the README of Camelyon16 names _0 and _1 tumour and _2 what is cut out of it, `Tumor` stands in its files."""
OUTLINES = frozenset({"Polygon", "Spline", "Rectangle"})
MAX_BYTES = 32 * 2**20
RULES = ("centre", "any", "share")
RASTER = 2048
"""Side in px of the largest square that is drawn at once."""


@dataclass(frozen=True)
class LesionRule:
    """When a tile has the label of the lesion; every field is written into store and manifest.

    Attributes:
        rule: `centre` (any lesion px in the middle square), `any` (any lesion px in the tile) or `share` (see `min_share`).
        centre: side of the middle square as a share of the tile's; 1/3 is PatchCamelyon's 32 of 96 px.
        min_share: least share of the tile's area that is lesion, for `share`.
        label: the label.
        version: raised when what is computed changes.

    Raises:
        UserError: a value that makes no sense, from the constructor.
    """

    rule: str = "centre"
    centre: float = 1 / 3
    min_share: float = 0.5
    label: str = "tumor"
    version: int = 1

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise UserError(f"rule={self.rule} is not a rule for lesions: choose one of {', '.join(RULES)}.")
        for name in ("centre", "min_share"):
            if not 0 < getattr(self, name) <= 1:
                raise UserError(f"{name}={getattr(self, name)} must be a share above 0, at most 1.")


@dataclass(frozen=True, eq=False)
class Annotation:
    """What one ASAP file draws.

    Attributes:
        lesions, holes: polygons, (n, 2) float64 of x, y in level-0 px, n at least 3.
        problems: what was left out and why, one short text each.
        digest: sha256 of the XML.
    """

    lesions: tuple[np.ndarray, ...]
    holes: tuple[np.ndarray, ...]
    problems: tuple[str, ...]
    digest: str

    @property
    def facts(self) -> dict[str, object]:
        """What a report says of it."""
        counts = {"lesions": len(self.lesions), "holes": len(self.holes)}
        return {"digest": self.digest, **counts, "problems": list(self.problems)}


def read_bytes(path: Path) -> bytes:
    """Return the bytes of an XML file, or of a member of a zip when `path` is `<archive>.zip/<member>`.

    Raises:
        UserError: it is not there, larger than 32 MiB, or the archive is damaged.
    """
    try:
        if path.parent.suffix.lower() == ".zip" and path.parent.is_file():
            with zipfile.ZipFile(path.parent) as archive:
                member = next(name for name in archive.namelist() if name.rpartition("/")[2] == path.name)
                with archive.open(member) as file:
                    content = file.read(MAX_BYTES + 1)
        else:
            with open(path, "rb") as file:
                content = file.read(MAX_BYTES + 1)
    except StopIteration:
        raise UserError(f"annotation {path.name} is not in {path.parent}.") from None
    except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        raise UserError(f"annotation {path} cannot be read ({error}).") from error
    if len(content) > MAX_BYTES:
        raise UserError(f"annotation {path} is larger than {MAX_BYTES >> 20} MiB, which no ASAP file of a slide is.")
    return content


def read_asap(path: Path) -> Annotation:
    """Read `ASAP_Annotations/Annotations/Annotation[@Type, @PartOfGroup]/Coordinates/Coordinate[@Order, @X, @Y]`.

    Points are put in the order of their `Order`. Outlines with fewer than three points, of another group or of another type
    (points, measurements) are left out and named in `problems`.

    Raises:
        UserError: no such XML, one with a DTD or entities, or coordinates that are not numbers.
    """
    from defusedxml.common import DefusedXmlException
    from defusedxml.ElementTree import parse

    content = read_bytes(path)
    try:
        root = parse(io.BytesIO(content), forbid_dtd=True).getroot()
    except DefusedXmlException as error:
        raise UserError(
            f"annotation {path} declares a DTD or entities, which ASAP never writes: do not use it."
        ) from error
    except (ParseError, ValueError, RecursionError) as error:
        raise UserError(f"annotation {path} is not whole XML ({error}).") from error
    if root.tag != "ASAP_Annotations":
        raise UserError(f"annotation {path} is not from ASAP: its root is <{root.tag[:40]}>, not <ASAP_Annotations>.")
    lesions, holes, problems = [], [], []
    for number, node in enumerate(root.iterfind("Annotations/Annotation")):
        name, kind, group = (node.get(key, "") for key in ("Name", "Type", "PartOfGroup"))
        where = f"outline {number} '{name[:40]}'"
        if kind not in OUTLINES:
            problems.append(f"{where}: type '{kind[:40]}' is no outline")
        elif group not in LESION_GROUPS | HOLE_GROUPS:
            problems.append(f"{where}: group '{group[:40]}' is neither lesion nor hole")
        else:
            points = _points(node, f"annotation {path}, {where}")
            if len(points) < 3:
                problems.append(f"{where}: {len(points)} point(s), an area needs 3")
            else:
                (lesions if group in LESION_GROUPS else holes).append(points)
    return Annotation(tuple(lesions), tuple(holes), tuple(problems), hashlib.sha256(content).hexdigest())


def _points(node: Element, where: str) -> np.ndarray:
    found = node.findall("Coordinates/Coordinate")
    try:
        values = np.array(
            [(float(p.get("Order", i)), float(p.get("X")), float(p.get("Y"))) for i, p in enumerate(found)]
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"{where} has a coordinate that is not a number: mend X, Y and Order there.") from error
    values = values.reshape(-1, 3)
    if not (np.isfinite(values).all() and (np.abs(values) < 1e9).all()):
        raise UserError(f"{where} has a coordinate that lies on no slide: mend X, Y and Order there.")
    return values[np.argsort(values[:, 0], kind="stable"), 1:]


def polygon_area(points: np.ndarray) -> float:
    """Return the area of a polygon (n, 2) that does not cross itself, by the shoelace formula, in px2 of its coordinates."""
    x, y = (points - points[0]).T
    return abs(float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))) / 2


def rasterise(
    polygons: tuple[np.ndarray, ...], left: float, top: float, pixel: float, width: int, height: int
) -> np.ndarray:
    """Return the (height, width) bool of px whose centre lies inside any polygon; what a line goes round twice is inside.

    Args:
        polygons: (n, 2) x, y in level-0 px.
        left, top: level-0 px of the window's corner.
        pixel: side of a px of the window in level-0 px.
        width, height: of the window, in its px.
    """
    inside = np.zeros((height, width), dtype=bool)
    for polygon in polygons:
        # px centres lie on whole numbers
        x, y = (polygon[:, 0] - left) / pixel - 0.5, (polygon[:, 1] - top) / pixel - 0.5
        low, high = (
            np.clip(np.ceil([v.min(), v.max() + 1]), 0, end).astype(int) for v, end in ((x, width), (y, height))
        )
        columns, rows = slice(low[0], low[1]), slice(high[0], high[1])
        if columns.start < columns.stop and rows.start < rows.stop:
            shape = rows.stop - rows.start, columns.stop - columns.start
            inside[rows, columns] |= _winding(x - columns.start, y - rows.start, *shape) != 0
    return inside


def _winding(x: np.ndarray, y: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the (height, width) winding number of a closed line round the whole-numbered points of a window."""
    next_x, next_y = np.roll(x, -1), np.roll(y, -1)
    first = np.clip(np.ceil(np.minimum(y, next_y)), 0, height).astype(np.int64)
    count = np.clip(np.ceil(np.maximum(y, next_y)), 0, height).astype(np.int64) - first
    edge = np.repeat(np.arange(len(x)), count)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count - first, count)
    slope = np.divide(next_x - x, next_y - y, out=np.zeros_like(x), where=next_y != y)
    column = np.clip(np.ceil(x[edge] + (row - y[edge]) * slope[edge]), 0, width).astype(np.int64)
    turns = np.zeros((height, width + 1), dtype=np.int32)
    np.add.at(turns, (row, column), np.where(next_y > y, 1, -1)[edge])
    return np.cumsum(turns, axis=1)[:, :width]


def lesion_shares(
    annotation: Annotation, cells: np.ndarray, step: float, tile: int, centre: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Measure lesions (holes taken out) under the cells of a grid, drawn at the px of the stored tile.

    Args:
        annotation: the polygons.
        cells: (N, 2) grid coordinates x, y.
        step: side of a cell in level-0 px.
        tile: side of a stored tile in px.
        centre: side of the middle square as a share of the tile's.

    Returns:
        (N,) float32 share of the tile's area; (N,) bool any lesion px; (N,) bool any lesion px in the middle square.
    """
    share = np.zeros(len(cells), dtype=np.float32)
    whole, middle = np.zeros(len(cells), dtype=bool), np.zeros(len(cells), dtype=bool)
    if not annotation.lesions or not len(cells):
        return share, whole, middle
    side = max(1, round(tile * centre))
    inner = slice((tile - side) // 2, (tile - side) // 2 + side)
    many = max(1, RASTER // tile)
    boxes = np.array([(*p.min(0), *p.max(0)) for p in annotation.lesions])
    blocks, member = np.unique(cells // many, axis=0, return_inverse=True)
    for number, (x, y) in enumerate(blocks):
        left, top, span = x * many * step, y * many * step, many * step
        near = (boxes[:, :2] < (left + span, top + span)).all(1) & (boxes[:, 2:] > (left, top)).all(1)
        if not near.any():
            continue
        window = (left, top, step / tile, many * tile, many * tile)
        lesions = tuple(annotation.lesions[i] for i in np.flatnonzero(near))
        mask = rasterise(lesions, *window)
        mask &= ~rasterise(annotation.holes, *window)
        parts = mask.reshape(many, tile, many, tile)
        here = np.flatnonzero(member.ravel() == number)
        column, row = (cells[here] - (x * many, y * many)).T
        share[here] = parts.mean(axis=(1, 3), dtype=np.float64)[row, column]
        whole[here] = parts.any(axis=(1, 3))[row, column]
        middle[here] = parts[:, inner, :, inner].any(axis=(1, 3))[row, column]
    return share, whole, middle
