"""PatchCamelyon: 327,680 patches of Camelyon16 slides in six HDF5 files."""

import re
from collections import Counter
from pathlib import Path

import numpy as np

from benchmarks.data.dataset import Archive, DataSet, Part, Source, files_below
from benchmarks.data.report import Report, Unreadable
from benchmarks.data.sets.camelyon16 import slide_of
from benchmarks.data.tables import read_rows
from results.hdf5 import Hdf5Error, Hdf5Rows

HOME = "https://zenodo.org/records/2546921"
PREFIX = "camelyonpatch_level_2_split_"
COUNTS = {"train": 262144, "valid": 32768, "test": 32768}
SHAPES = {"x": (96, 96, 3), "y": (1, 1, 1)}
META = ("coord_y", "coord_x", "tumor_patch", "center_tumor_patch", "wsi")
MD5 = {
    "train_x.h5.gz": "1571f514728f59376b705fc836ff4b63", "train_y.h5.gz": "35c2d7259d906cfc8143347bb8e05be7",
    "train_meta.csv": "5a3dd671e465cfd74b5b822125e65b0a", "valid_x.h5.gz": "d5b63470df7cfa627aeec8b9dc0c066e",
    "valid_y.h5.gz": "2b85f58b927af9964a4c15b8f7e8f179", "valid_meta.csv": "67589e00a4a37ec317f2d1932c7502ca",
    "test_x.h5.gz": "d8c2d60d490dbd479f8199bdfa0cf6ec", "test_y.h5.gz": "60a7035772fbdb7f34eb86d4420cf66a",
    "test_meta.csv": "3455fd69135b66734e1008f3af684566",
}  # fmt: skip
"""The authors' readme lists the sums of `valid` and `test` the wrong way round; these are what the hosts give."""

WSI = re.compile(r"(?:camelyon(?:16)?_)?(?:(?:train|test)_)?((?:normal|tumor|test)_\d{1,3})(?:\.tif)?", re.IGNORECASE)
"""A slide in the tables, such as `camelyon16_train_tumor_001`."""

FILES = tuple(f"{PREFIX}{split}_{kind}" for split in COUNTS for kind in ("x.h5", "y.h5", "meta.csv"))


def parts(root: Path) -> list[Part]:
    """Count the six HDF5 files (unpacked) and the three tables."""
    hdf5 = [name for name in FILES if name.endswith(".h5")]
    tables = [name for name in FILES if name.endswith(".csv")]
    return [
        Part(what, sum((root / name).is_file() for name in own), len(own))
        for what, own in (("HDF5 files", hdf5), ("tables", tables))
    ]


def verify(root: Path, report: Report) -> None:
    """Check that the nine files are there with the right shapes, labels and rows."""
    for path, _ in files_below(root):
        stem = path.removesuffix(".gz")
        if stem not in FILES:
            is_copy = any(Path(path).name.startswith(Path(name).stem) for name in FILES)
            text = "looks like a copy" if is_copy else "is none of the nine files"
            report.problem("duplicate" if is_copy else "stray file", f"{path} {text}")
    parts_of: dict[str, list[str]] = {}
    for split, count in COUNTS.items():
        for key, shape in SHAPES.items():
            name = f"{PREFIX}{split}_{key}.h5"
            try:
                _check_array(root, name, key, (count, *shape), report)
            except (Unreadable, Hdf5Error, OSError) as error:
                report.problem(getattr(error, "kind", "unreadable"), f"{name} {error}")
        for slide in _check_table(root, f"{PREFIX}{split}_meta.csv", count, report):
            parts_of.setdefault(slide, []).append(split)
    report.each(
        "bad split", (f"slide {slide} is in {' and in '.join(own)}" for slide, own in parts_of.items() if len(own) > 1)
    )


def _check_array(root: Path, name: str, key: str, shape: tuple[int, ...], report: Report) -> None:
    path = root / name
    if not path.is_file():
        if path.with_name(f"{name}.gz").is_file():
            raise Unreadable("missing files", "is still packed: run 'prepare'")
        raise Unreadable("missing files", "is not there")
    found = Hdf5Rows(path, key)
    if found.shape != shape:
        raise Unreadable("wrong size", f"holds {found.shape} bytes, not {shape}")
    if key == "y":
        _check_labels(path, found.all(), report)


def _check_labels(path: Path, labels: np.ndarray, report: Report) -> None:
    counts = Counter(labels.reshape(-1).tolist())
    if set(counts) != {0, 1}:
        raise Unreadable("missing class", f"has the labels {sorted(counts)[:5]}, not 0 and 1")
    report.facts[f"tumour share of {path.stem.split('_')[-2]}"] = f"{counts[1] / len(labels):.4f}"


def _check_table(root: Path, name: str, count: int, report: Report) -> set[str]:
    """Check one `..._meta.csv`; return its slides by the names that Camelyon16 gives them."""
    try:
        if not (root / name).is_file():
            raise Unreadable("missing files", "is not there")
        slides = Counter(row["wsi"].strip() for row in read_rows(root / name, META))
    except (Unreadable, OSError) as error:
        report.problem(getattr(error, "kind", "bad table"), f"{name} {error}")
        return set()
    report.facts[f"slides of {name.split('_')[-2]}"] = len(slides)
    if slides.total() != count:
        report.problem("wrong count", f"{name} has {slides.total():,} rows, {count:,} are expected")
    return {slide_of(f"{known[1]}.tif") if (known := WSI.fullmatch(slide)) else slide for slide in slides}


DATA_SET = DataSet(
    name="pcam",
    title="PatchCamelyon: is there tumour in the middle of a patch of a lymph node?",
    licence="CC0 1.0",
    cite="Veeling et al., MICCAI 2018, doi 10.1007/978-3-030-00934-2_24; Ehteshami Bejnordi et al., JAMA 2017, doi 10.1001/jama.2017.14585",
    home=HOME,
    size=17_100_000_000,
    folder="pcam",
    markers=(f"{PREFIX}*",),
    parts=parts,
    verify=verify,
    sources=tuple(Source(f"{HOME}/files/{PREFIX}{n}?download=1", f"{PREFIX}{n}", None, md5) for n, md5 in MD5.items()),
    archives=(Archive((f"{PREFIX}*.h5.gz",), "", (), 8_000_000_000),),
    traps=(
        "Patches are cut from Camelyon16 slides: an encoder that was pretrained on those has seen them.",
        "A label is 1 when the middle 32 x 32 px hold a tumour pixel; tumour at the rim does not count.",
        "The authors' readme lists the md5 sums of valid and test the wrong way round.",
    ),
)
