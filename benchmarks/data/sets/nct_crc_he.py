"""NCT-CRC-HE-100K of Zenodo record 1214456."""

from benchmarks.data.class_folders import CITE, CLASSES, HOME, LICENCE, TRAIN_COUNTS, ClassFolders
from benchmarks.data.dataset import Archive, DataSet, Source

FOLDERS = ClassFolders("NCT-CRC-HE-100K", TRAIN_COUNTS)

DATA_SET = DataSet(
    name="nct-crc-he",
    title="NCT-CRC-HE-100K: colorectal tissue in nine classes, Macenko-normalised, to train on",
    licence=LICENCE,
    cite=CITE,
    home=HOME,
    size=15_300_000_000,
    folder="nct-crc",
    inside="NCT-CRC-HE-100K",
    markers=("NCT-CRC-HE-100K", "NCT-CRC-HE-100K.zip", *CLASSES),
    parts=FOLDERS.parts,
    verify=FOLDERS.verify,
    sources=(
        Source(
            f"{HOME}/files/NCT-CRC-HE-100K.zip?download=1",
            "NCT-CRC-HE-100K.zip",
            11_690_284_003,
            "6fd702d11df6292bc054397ae038a464",
        ),
    ),
    archives=(Archive(("NCT-CRC-HE-100K.zip",), "NCT-CRC-HE-100K", CLASSES, most_bytes=50_000_000_000),),
    traps=(
        "Colours are Macenko-normalised: a score here is not one on nct-crc-he-nonorm, and the records name them apart.",
        "File names carry no patient: a validation part of the 100,000 tiles cannot be made by patient.",
    ),
)
