"""Full data sets in the right tree with tiny files: hard links to one valid file, sparse files, headers without pixels."""

import csv
import os
import struct
import zlib
from itertools import cycle, islice

import h5py
import numpy as np

from benchmarks.data.class_folders import TRAIN_COUNTS, VALIDATION_COUNTS
from benchmarks.data.sets import camelyon16, nucls, pcam
from benchmarks.data.sets.bcss import CODES

MOST_LINKS = 20_000
"""File systems allow some 65,000 names a file, some fewer."""

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"


def png_mask(width, height, code=0):
    """A PNG of one channel, the same code everywhere."""
    rows = zlib.compress((b"\0" + bytes([code]) * width) * height, 1)
    body = b"IDAT" + rows
    pixels = struct.pack(">I", len(rows)) + body + struct.pack(">I", zlib.crc32(body))
    return png(width, height, channels=1, tail=pixels + PNG_END)


def png(width, height, channels=3, bits=8, tail=PNG_END):
    """A PNG with a true header and no pixels."""
    colour = {1: 0, 3: 2, 4: 6}[channels]
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body)) + tail


def tiff(width, height, tile=None, channels=3, order="<", is_big=False, pixels=64, claim=None):
    """A TIFF whose strips or tiles all are the same few bytes; `claim` is the length they are said to have."""
    count = -(-width // tile) * -(-height // tile) if tile else 4
    start = 16 if is_big else 8
    wide, code = ("Q", 16) if is_big else ("I", 4)
    item = struct.calcsize(wide)
    after = start + pixels
    offsets = struct.pack(f"{order}{count}{wide}", *[start] * count)
    counts = struct.pack(f"{order}{count}{wide}", *[claim or pixels] * count)
    bits = struct.pack(f"{order}{channels}H", *[8] * channels)
    at_offsets, at_counts, at_bits = after, after + item * count, after + 2 * item * count
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, channels, at_bits), (259, 3, 1, 1), (262, 3, 1, 2)]
    if not tile:
        tags.append((273, code, count, at_offsets))
    tags.append((277, 3, 1, channels))
    tags += [] if tile else [(278, 4, 1, -(-height // 4))]
    tags += [(322, 4, 1, tile), (323, 4, 1, tile), (324, code, count, at_offsets)] if tile else []
    tags.append((325 if tile else 279, code, count, at_counts))
    if channels == 1 or (is_big and channels <= 4):
        tags[2] = (258, 3, channels, int.from_bytes(bits, "little" if order == "<" else "big"))
    directory = at_bits + len(bits)
    entries = b""
    for tag, kind, number, value in tags:
        size = {3: 2, 4: 4, 16: 8}[kind] * number
        room = 8 if is_big else 4
        if number == 1:
            data = struct.pack(order + {3: "H", 4: "I", 16: "Q"}[kind], value).ljust(room, b"\0")
        elif size <= room:
            data = bits.ljust(room, b"\0")
        else:
            data = struct.pack(order + ("Q" if is_big else "I"), value)
        entries += struct.pack(order + ("HHQ" if is_big else "HHI"), tag, kind, number) + data
    mark = b"II" if order == "<" else b"MM"
    if is_big:
        head = mark + struct.pack(order + "HHHQ", 43, 8, 0, directory)
        listed = struct.pack(order + "Q", len(tags)) + entries + struct.pack(order + "Q", 0)
    else:
        head = mark + struct.pack(order + "HI", 42, directory)
        listed = struct.pack(order + "H", len(tags)) + entries + struct.pack(order + "I", 0)
    return head + b"\x7f" * pixels + offsets + counts + bits + listed


class Links:
    """Hands out further names of one file, a fresh copy when the file has as many as it may."""

    def __init__(self, folder, content):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.content, self.count = folder, content, 0

    def to(self, path):
        model = self.folder / f".model-{self.count // MOST_LINKS}"
        if self.count % MOST_LINKS == 0:
            model.write_bytes(self.content)
        os.link(model, path)
        self.count += 1


def replaced(path, content):
    """Put other content in the place of one name, and leave the file it shared alone."""
    path.unlink()
    path.write_bytes(content)


def code_of(number, length=8):
    letters = ""
    for _ in range(length):
        number, digit = divmod(number, 26)
        letters = LETTERS[digit] + letters
    return letters


def write_class_folders(root, folder, counts, prefix=""):
    links, number = Links(root / ".models", tiff(224, 224)), 0
    for name, count in counts.items():
        place = root / folder / name
        place.mkdir(parents=True)
        for _ in range(count):
            links.to(place / f"{name}-{prefix}{code_of(number)}.tif")
            number += 1


def write_nct(root):
    write_class_folders(root, "NCT-CRC-HE-100K", TRAIN_COUNTS)


def write_crc(root):
    write_class_folders(root, "CRC-VAL-HE-7K", VALIDATION_COUNTS, "TCGA-")


POLYGON = (
    '<?xml version="1.0"?>\n<ASAP_Annotations><Annotations><Annotation Name="a" Type="Polygon" PartOfGroup="Tumor">'
    '<Coordinates><Coordinate Order="0" X="1" Y="2.5"/><Coordinate Order="1" X="9" Y="2"/>'
    '<Coordinate Order="2" X="4" Y="8"/></Coordinates></Annotation></Annotations></ASAP_Annotations>\n'
)


def write_camelyon(root, layout="bucket", is_older=False):
    """All slides in the folders of the AWS bucket, or in those of GigaDB and Drive."""
    slides = Links(root / ".models", tiff(16384, 16384, tile=1024, is_big=True))
    drawn = Links(root / ".drawn", POLYGON.encode())
    names = sorted(camelyon16.SLIDES)
    if is_older:
        names = sorted((camelyon16.SLIDES | camelyon16.OLDER) - {"tumor_111"})
    for name in names:
        kind = name.partition("_")[0]
        folder = "testing/images" if kind == "test" else f"training/{kind}"
        xml = "testing/lesion_annotations" if kind == "test" else "training/lesion_annotations"
        if layout == "bucket":
            folder, xml = "images", "annotations"
        for place in (folder, xml):
            (root / place).mkdir(parents=True, exist_ok=True)
        slides.to(root / folder / f"{name}.tif")
        if name in camelyon16.ANNOTATED:
            drawn.to(root / xml / f"{name}.xml")
    if layout == "drive":
        lines = [f"{n},{'Tumor' if n in camelyon16.ANNOTATED else 'Normal'}\n" for n in names if n.startswith("test")]
        (root / "testing" / "reference.csv").write_text("".join(lines))


def write_table(path, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


HOSPITALS = ("A1", "A2", "A7", "A8", "AC", "AN", "AO", "AQ", "AR", "BH", "C8", "D8", "E2", "E9", "EW", "GM", "LL", "OL")


def write_nucls(root, folder="rgbs"):
    """1,746 fields of 124 slides of 18 hospitals with 59,541 rows, 111 of them points without a box."""
    slides = [f"TCGA-{h}-A{n:03d}-DX1" for n, h in enumerate(islice(cycle(HOSPITALS), nucls.SLIDES))]
    fields = [
        f"{slide}_id-5ea4095addda5f83{n:08x}_left-{n}_top-{n}_bottom-{n + 256}_right-{n + 256}"
        for n, slide in enumerate(islice(cycle(slides), nucls.FIELDS[0]))
    ]
    images, masks = Links(root / ".models", png(336, 330)), Links(root / ".masks", png(336, 330, 4))
    for name in (folder, "mask", "csv", "train_test_splits"):
        (root / name).mkdir(parents=True)
    raws = sorted(nucls.MAIN)
    line, points = 0, 0
    for number, field in enumerate(fields):
        images.to(root / folder / f"{field}.png")
        masks.to(root / "mask" / f"{field}.png")
        rows = []
        for _ in range(nucls.NUCLEI[0] // len(fields) + (number < nucls.NUCLEI[0] % len(fields))):
            raw, line = raws[line % len(raws)], line + 1
            kind, box = "rectangle", [10, 10, 24, 22]
            if line % 500 == 0 and points < 111:
                kind, box, points = "point", [""] * 4, points + 1
            main = nucls.MAIN[raw]
            prefix = "correction_" if line % 7 == 0 else ""
            rows.append(
                [len(rows), prefix + raw, main, nucls.SUPER[main], kind, *box, "10,24,24,10,10", "10,10,22,22,10"]
            )
        write_table(root / "csv" / f"{field}.csv", ("", *nucls.COLUMNS, "coords_x", "coords_y"), rows)
    windows = [[n, field, 8, 7, 326, 322] for n, field in enumerate(fields)]
    write_table(root / "csv" / "ALL_FOV_LOCATIONS.csv", ("", "fovname", "xmin", "ymin", "xmax", "ymax"), windows)
    for fold in range(1, 6):
        held = set(HOSPITALS[fold - 1 :: 5])
        for side in ("train", "test"):
            own = [s for s in slides if (s.split("-")[1] in held) == (side == "test")]
            rows = [[n, slide, slide.split("-")[1], side, fold] for n, slide in enumerate(own)]
            path = root / "train_test_splits" / f"fold_{fold}_{side}.csv"
            write_table(path, ("", "slide_name", "hospital", "type", "fold"), rows)
    return fields


def write_bcss(root, folder="rgbs_colorNormalized"):
    """151 regions, 45 of them of the test institutes, at 0.83 of their base pixels."""
    for name in (folder, "masks", "meta"):
        (root / name).mkdir(parents=True)
    institutes = [*islice(cycle(("OL", "LL", "E2", "EW", "GM", "S3")), 45), *islice(cycle(("A1", "BH", "AR")), 106)]
    rows, names = [], []
    for number, institute in enumerate(institutes):
        slide, x, y, width, height = f"TCGA-{institute}-A{number:03d}-DX1", 5000 + number, 6000, 4040 + 7 * number, 296
        name = f"{slide}_xmin{x}_ymin{y}_MPP-0.2500.png"
        size = round(width * 0.8402), round(height * 0.8402)
        (root / folder / name).write_bytes(png(*size))
        (root / "masks" / name).write_bytes(png_mask(*size, code=number % len(CODES)))
        rows.append([slide, x, y, x + width, y + height, "https://example.org/mask"])
        names.append(name)
    write_table(root / "meta" / "roiBounds.csv", ("", "xmin", "ymin", "xmax", "ymax", "mask_link"), rows)
    codes = "".join(f"{name}\t{code}\n" for code, name in enumerate(CODES))
    (root / "meta" / "gtruth_codes.tsv").write_text(f"label\tGT_code\n{codes}")
    return names


def hdf5(path, key, shape, values=None):
    """Write one contiguous data set of bytes: the values, or as many holes, of which the file system stores the last row alone."""
    with h5py.File(path, "w") as file:
        data = file.create_dataset(key, shape, np.uint8, fill_time="never")
        if values is None:
            data[-1] = 0
        else:
            data[...] = values


def write_pcam(root):
    """Nine files: sparse images, alternating labels, one row a patch."""
    root.mkdir(parents=True, exist_ok=True)
    for split, count in pcam.COUNTS.items():
        for key, shape in pcam.SHAPES.items():
            labels = (np.arange(count) % 2).reshape(count, *shape) if key == "y" else None
            hdf5(root / f"{pcam.PREFIX}{split}_{key}.h5", key, (count, *shape), labels)
        first = 50 * list(pcam.COUNTS).index(split)
        rows = ((n, n, n, "True", "False", f"camelyon16_train_tumor_{first + n % 50:03d}") for n in range(count))
        write_table(root / f"{pcam.PREFIX}{split}_meta.csv", ("", *pcam.META), rows)
