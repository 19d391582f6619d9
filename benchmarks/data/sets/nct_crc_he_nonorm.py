"""NCT-CRC-HE-100K-NONORM of Zenodo record 1214456."""

from benchmarks.data.class_folders import CITE, CLASSES, HOME, LICENCE, TRAIN_COUNTS, ClassFolders
from benchmarks.data.dataset import Archive, DataSet, Source

FOLDERS = ClassFolders("NCT-CRC-HE-100K-NONORM", TRAIN_COUNTS)

DATA_SET = DataSet(
    name="nct-crc-he-nonorm",
    title="NCT-CRC-HE-100K-NONORM: the same tiles in their own colours, to train on",
    licence=LICENCE,
    cite=CITE,
    home=HOME,
    size=15_300_000_000,
    folder="nct-crc",
    inside="NCT-CRC-HE-100K-NONORM",
    markers=("NCT-CRC-HE-100K-NONORM", "NCT-CRC-HE-100K-NONORM.zip", *CLASSES),
    parts=FOLDERS.parts,
    verify=FOLDERS.verify,
    sources=(
        Source(
            f"{HOME}/files/NCT-CRC-HE-100K-NONORM.zip?download=1",
            "NCT-CRC-HE-100K-NONORM.zip",
            None,
            "035777cf327776a71a05c95da6d6325f",
        ),
    ),
    archives=(Archive(("NCT-CRC-HE-100K-NONORM.zip",), "NCT-CRC-HE-100K-NONORM", CLASSES, most_bytes=50_000_000_000),),
    traps=(
        "Class folders and file names are those of nct-crc-he: only the folder NCT-CRC-HE-100K-NONORM tells them apart.",
        "File names carry no patient: a validation part of the 100,000 tiles cannot be made by patient.",
    ),
)
