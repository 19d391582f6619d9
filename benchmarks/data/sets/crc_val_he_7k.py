"""CRC-VAL-HE-7K of Zenodo record 1214456."""

from benchmarks.data.class_folders import CITE, CLASSES, HOME, LICENCE, VALIDATION_COUNTS, ClassFolders
from benchmarks.data.dataset import Archive, DataSet, Source

FOLDERS = ClassFolders("CRC-VAL-HE-7K", VALIDATION_COUNTS)

DATA_SET = DataSet(
    name="crc-val-he-7k",
    title="CRC-VAL-HE-7K: the test set of both, 50 other patients",
    licence=LICENCE,
    cite=CITE,
    home=HOME,
    size=1_100_000_000,
    folder="nct-crc",
    inside="CRC-VAL-HE-7K",
    markers=("CRC-VAL-HE-7K", "CRC-VAL-HE-7K.zip", *CLASSES),
    parts=FOLDERS.parts,
    verify=FOLDERS.verify,
    sources=(
        Source(
            f"{HOME}/files/CRC-VAL-HE-7K.zip?download=1",
            "CRC-VAL-HE-7K.zip",
            800_276_929,
            "2fd1651b4f94ebd818ebf90ad2b6ce06",
        ),
    ),
    archives=(Archive(("CRC-VAL-HE-7K.zip",), "CRC-VAL-HE-7K", CLASSES, most_bytes=4_000_000_000),),
    traps=("It is the test set: choose nothing on it.",),
)
