"""What is true of a scene, in the layouts of NCT-CRC-HE, NuCLS, BCSS and Camelyon16.

Names, columns and traps are those of the real files: NuCLS windows smaller than their images, polylines, points without a box
and corrected names; BCSS images that are called MPP-0.2500 and are 0.30 um/px; Camelyon holes in a group of their own.
"""

import csv
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import uniform_filter

from pretrain.cohorts.rehearsal.contours import area, rings
from pretrain.cohorts.rehearsal.fields import Window, generator
from pretrain.cohorts.rehearsal.layout import GLASS, STEP, Layout
from pretrain.cohorts.rehearsal.nuclei import outlines
from pretrain.cohorts.rehearsal.render import render
from pretrain.cohorts.rehearsal.scene import Scene, filled
from pretrain.cohorts.rehearsal.slides import MPP
from pretrain.cohorts.rehearsal.tissues import KINDS, TISSUES, VARIANTS

NCT_TILE, NCT_PURE = 224, 0.9
"""Side of a tile in px of 0.5 um, and the least share of its class in it."""

NCT_CLASSES = {
    "ADI": "fat", "BACK": "glass", "DEB": "necrosis", "LYM": "inflammatory", "MUC": "mucin", "MUS": "muscle",
    "NORM": "gland", "STR": "stroma", "TUM": "tumour",
}  # fmt: skip

NUCLS_MPP, NUCLS_SPAN = 0.2, 136
"""um/px of the images, and their side in level-0 px."""

NUCLS_COLUMNS = (
    "", "raw_classification", "main_classification", "super_classification", "type", "xmin", "ymin", "xmax", "ymax",
    "coords_x", "coords_y",
)  # fmt: skip
NUCLS_MAIN = {
    "tumor": "tumor_nonMitotic", "mitotic_figure": "tumor_mitotic", "fibroblast": "nonTILnonMQ_stromal",
    "vascular_endothelium": "nonTILnonMQ_stromal", "macrophage": "macrophage", "lymphocyte": "lymphocyte",
    "plasma_cell": "plasma_cell", "neutrophil": "other_nucleus", "ductal_epithelium": "other_nucleus",
    "apoptotic_body": "AMBIGUOUS", "unlabeled": "AMBIGUOUS",
}  # fmt: skip
NUCLS_SUPER = {
    "tumor_nonMitotic": "tumor_any", "tumor_mitotic": "tumor_any", "nonTILnonMQ_stromal": "nonTIL_stromal",
    "macrophage": "nonTIL_stromal", "lymphocyte": "sTIL", "plasma_cell": "sTIL",
}  # fmt: skip

BCSS_MPP = 0.30
"""True um/px of the images, whatever their names say."""

BCSS_CODES = (
    "outside_roi", "tumor", "stroma", "lymphocytic_infiltrate", "necrosis_or_debris", "glandular_secretions", "blood",
    "exclude", "metaplasia_NOS", "fat", "plasma_cells", "other_immune_infiltrate", "mucoid_material",
    "normal_acinus_or_duct", "lymphatics", "undetermined", "nerve", "skin_adnexa", "blood_vessel", "angioinvasion",
    "dcis", "other",
)  # fmt: skip

CAMELYON_MPP, CAMELYON_SMALLEST = 2.0, 100
"""um/px of the mask that is traced, and the px of the smallest patch or hole that gets a polygon."""

Field = tuple[str, int, int, int, int]
"""A NuCLS field and its annotated window: name, xmin, ymin, xmax, ymax in px of the image."""

Roi = tuple[str, int, int, int, int, str]
"""A BCSS region: slide, xmin, ymin, xmax, ymax in level-0 px, where its mask is."""


def write_nct(scene: Scene, folder: Path, is_test: bool) -> None:
    """Write one 224 px tile of each of the nine classes from the purest place of the slide, RGB TIFF at 0.5 um/px.

    A class that the slide does not hold purely enough comes from a scene filled with it, in the stain of the slide.
    """
    side = NCT_TILE * MPP
    by_name = {tissue.name: tissue for tissue in TISSUES + VARIANTS}
    for name, tissue in NCT_CLASSES.items():
        source, corner = scene, _purest_corner(scene.layout, tissue, side)
        if corner is None:
            source, corner = filled(scene, by_name.get(tissue), side, side), (0.0, 0.0)
        code = "".join(generator(scene.seed, scene.slide, name).choice(list("ABCDEFGHIJKLMNOPQRSTUVWXYZ"), 8))
        path = folder / ("CRC-VAL-HE-7K" if is_test else "NCT-CRC-HE-100K") / name
        path.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(render(source, Window(*corner, NCT_TILE, NCT_TILE, MPP)))
        image.save(path / f"{name}-{'RHSL-' if is_test else ''}{code}.tif", compression="packbits")


def _purest_corner(layout: Layout, tissue: str, side: float) -> tuple[float, float] | None:
    """Return left and top in um of the square with the largest share of a tissue, None when no square is pure."""
    whole = layout.whole
    code = {known.name: known.code for known in layout.tissues}.get(tissue, GLASS)
    is_it = layout.codes(whole) == code
    if code == GLASS:
        is_it &= (layout.pen(whole) < -8) & (whole.x > layout.edge_width + 4) & (tissue == "glass")
    share = _window_share(is_it, side, side)
    row, column = np.unravel_index(np.argmax(share), share.shape)
    return (float(column * STEP), float(row * STEP)) if share[row, column] >= NCT_PURE else None


def _window_share(is_it: NDArray[np.bool_], width: float, height: float) -> NDArray[np.float32]:
    """Return the share of a mask in the window of `width` x `height` um that starts at each node, whole windows only."""
    rows, columns = int(np.ceil(height / STEP)), int(np.ceil(width / STEP))
    share = uniform_filter(is_it.astype(np.float32), (rows, columns), mode="constant")
    top, left = rows // 2, columns // 2
    return share[top : top + is_it.shape[0] - rows + 1, left : left + is_it.shape[1] - columns + 1]


def write_nucls(scene: Scene, folder: Path) -> list[Field]:
    """Write image and nuclei of three fields a slide, centred on tumour, stroma and inflammation, at 0.2 um/px."""
    random = generator(scene.seed, scene.slide, "nucls")
    mark = hashlib.sha256(scene.name.encode()).hexdigest()[:24]
    span, size = NUCLS_SPAN * MPP, round(NUCLS_SPAN * MPP / NUCLS_MPP)
    codes = scene.layout.codes(scene.layout.whole)
    is_free = _window_share(codes != GLASS, span, span) > 0.99
    reach, middle = int(np.ceil(span / STEP)), round(span / STEP / 2)
    centre = codes[middle : middle + is_free.shape[0], middle : middle + is_free.shape[1]]
    windows = []
    for code in (1, 2, 3):
        places = np.argwhere(is_free & (centre == code))
        if not len(places):
            continue
        row, column = places[random.integers(len(places))]
        is_free[max(0, row - reach) : row + reach, max(0, column - reach) : column + reach] = False
        left, top = round(column * STEP / MPP), round(row * STEP / MPP)
        field = f"{scene.name}_id-{mark}_left-{left}_top-{top}_bottom-{top + NUCLS_SPAN}_right-{left + NUCLS_SPAN}"
        xmin, ymin = (int(v) for v in random.integers(6, 10, 2))
        xmax, ymax = xmin + int(random.integers(314, 324)), ymin + int(random.integers(314, 324))
        windows.append((field, xmin, ymin, xmax, ymax))
        image = render(scene, Window(left * MPP, top * MPP, size, size, NUCLS_MPP))
        Image.fromarray(image).save(folder / "rgb" / f"{field}.png", compress_level=1)
        rows = _nuclei_rows(scene, random, (left * MPP, top * MPP), size, (xmin, ymin, xmax, ymax))
        write_table(folder / "csv" / f"{field}.csv", NUCLS_COLUMNS, rows)
    return windows


def _nuclei_rows(
    scene: Scene,
    random: np.random.Generator,
    corner: tuple[float, float],
    size: int,
    window: tuple[int, int, int, int],
) -> list[list[Any]]:
    """Return the rows of all nuclei that reach into the window of an image of `size` px, boxes cut at the image rim."""
    polygons = np.clip(np.rint((outlines(scene.nuclei) - np.array(corner)) / NUCLS_MPP), 0, size).astype(int)
    low, high = polygons.min(axis=1), polygons.max(axis=1)
    is_in = ((high > window[:2]) & (low < window[2:])).all(axis=1)
    rows = []
    for number in np.flatnonzero(is_in):
        name = KINDS[scene.nuclei["kind"][number]].name
        main = NUCLS_MAIN[name]
        chance, (x0, y0), (x1, y1) = random.random(2), low[number].tolist(), high[number].tolist()
        shape, box, xs, ys = "rectangle", [x0, y0, x1, y1], [x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0]
        if chance[0] < 0.2:
            shape, (xs, ys) = "polyline", polygons[number].T.tolist()
        elif chance[0] < 0.205:
            shape, box, xs, ys = "point", [""] * 4, [(x0 + x1) // 2], [(y0 + y1) // 2]
        raw = f"correction_{name}" if chance[1] < 0.04 else name
        coordinates = [",".join(map(str, xs)), ",".join(map(str, ys))]
        rows.append([len(rows), raw, main, NUCLS_SUPER.get(main, main), shape, *box, *coordinates])
    return rows


def write_bcss(scene: Scene, folder: Path) -> Roi:
    """Write one region of about 600 x 500 um as image and code mask, and return its row of roiBounds.csv."""
    width, height = min(600.0, 0.8 * scene.layout.width), min(500.0, 0.8 * scene.layout.height)
    share = _window_share(scene.layout.codes(scene.layout.whole) != GLASS, width, height)
    row, column = np.unravel_index(np.argmax(share), share.shape)
    left, top = round(column * STEP / MPP), round(row * STEP / MPP)
    right, bottom = left + int(width / MPP), top + int(height / MPP)
    name = f"{scene.name}_xmin{left}_ymin{top}_MPP-0.2500.png"
    size = round((right - left) * MPP / BCSS_MPP), round((bottom - top) * MPP / BCSS_MPP)
    window = Window(left * MPP, top * MPP, *size, BCSS_MPP)
    Image.fromarray(render(scene, window)).save(folder / "rgbs_colorNormalized" / name, compress_level=1)
    Image.fromarray(scene.layout.codes(window)).save(folder / "masks" / name)
    return scene.name, left, top, right, bottom, f"masks/{name}"


def write_camelyon(scene: Scene, path: Path) -> None:
    """Write the tumour of a slide as ASAP polygons in level-0 px: group Tumor, and _2 for the holes in it."""
    width, height = (round(side / CAMELYON_MPP) for side in (scene.layout.width, scene.layout.height))
    is_tumour = scene.layout.codes(Window(0.0, 0.0, width, height, CAMELYON_MPP)) == TISSUES[0].code
    lines = ['<?xml version="1.0"?>', "<ASAP_Annotations>", "\t<Annotations>"]
    for number, ring in enumerate(rings(is_tumour, smallest=CAMELYON_SMALLEST)):
        group, colour = ("Tumor", "#F4FA58") if area(ring) > 0 else ("_2", "#ff0000")
        lines.append(
            f'\t\t<Annotation Name="Annotation {number}" Type="Polygon" PartOfGroup="{group}" Color="{colour}">'
        )
        lines.append("\t\t\t<Coordinates>")
        for order, (x, y) in enumerate(ring * CAMELYON_MPP / MPP):
            lines.append(f'\t\t\t\t<Coordinate Order="{order}" X="{x:g}" Y="{y:g}" />')
        lines += ["\t\t\t</Coordinates>", "\t\t</Annotation>"]
    lines += ["\t</Annotations>", "\t<AnnotationGroups>"]
    for group, colour in (("Tumor", "#00ff00"), ("_2", "#ff0000")):
        lines.append(f'\t\t<Group Name="{group}" PartOfGroup="None" Color="{colour}">')
        lines += ["\t\t\t<Attributes />", "\t\t</Group>"]
    lines += ["\t</AnnotationGroups>", "</ASAP_Annotations>"]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_tables(root: Path, fields: list[list[Field]], regions: list[Roi]) -> None:
    """Write what spans slides: NuCLS windows and folds by hospital, BCSS bounds and codes; one entry a slide."""
    nucls, bcss = root / "nucls", root / "bcss"
    located = [(number, *field) for number, field in enumerate(field for found in fields for field in found)]
    write_table(nucls / "csv" / "ALL_FOV_LOCATIONS.csv", ("", "fovname", "xmin", "ymin", "xmax", "ymax"), located)
    slides = [(region[0], region[0].split("-")[1]) for region in regions]
    for fold, left_out in enumerate(sorted({hospital for _, hospital in slides}), start=1):
        for part in ("train", "test"):
            chosen = [entry for entry in slides if (entry[1] == left_out) == (part == "test")]
            rows = [(number, *entry, part, fold) for number, entry in enumerate(chosen)]
            path = nucls / "train_test_splits" / f"fold_{fold}_{part}.csv"
            write_table(path, ("", "slide_name", "hospital", "type", "fold"), rows)
    write_table(bcss / "meta" / "roiBounds.csv", ("", "xmin", "ymin", "xmax", "ymax", "mask_link"), regions)
    codes = [(label, code) for code, label in enumerate(BCSS_CODES)]
    write_table(bcss / "meta" / "gtruth_codes.tsv", ("label", "GT_code"), codes, delimiter="\t")


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]], delimiter: str = ",") -> None:
    """Write a header and rows with plain line ends."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
