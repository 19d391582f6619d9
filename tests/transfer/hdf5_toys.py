"""Small PatchCamelyon: the nine files under their own names."""

import h5py
import numpy as np

PREFIX = "camelyonpatch_level_2_split_"


def hdf5(path, key, values, dtype=np.uint8):
    """Write a file with one data set."""
    with h5py.File(path, "w") as file:
        file.create_dataset(key, data=np.asarray(values, dtype))


def write_pcam(root, slides=None, side=96):
    """Write 24 train, 12 valid and 12 test patches; class 1 is darker in the middle, two patches a slide."""
    root.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(3)
    slides = slides or {
        "train": "camelyon16_train_tumor_{:03d}",
        "valid": "camelyon16_train_normal_{:03d}",
        "test": "camelyon16_test_{:03d}",
    }
    for part, count in (("train", 24), ("valid", 12), ("test", 12)):
        labels = np.arange(count) // 2 % 2
        pixels = random.integers(150, 200, (count, side, side, 3))
        pixels[:, 32:64, 32:64] -= 100 * labels[:, None, None, None]
        hdf5(root / f"{PREFIX}{part}_x.h5", "x", pixels)
        hdf5(root / f"{PREFIX}{part}_y.h5", "y", labels.reshape(-1, 1, 1, 1))
        rows = [f"{n},{n},{n},True,True,{slides[part].format(n // 2 + 1)}" for n in range(count)]
        table = "\n".join([",coord_y,coord_x,tumor_patch,center_tumor_patch,wsi", *rows])
        (root / f"{PREFIX}{part}_meta.csv").write_text(table + "\n")
    return root
