"""Folders of small images, and the commands on them."""

import os
from pathlib import Path

import pytest
from image_folders import noise, write_image

from pretrain import __main__ as pretrain

DATA = Path(os.environ.get("SGCL_BENCH_REAL_DATA", Path(__file__).parents[4] / "shared" / "data"))


@pytest.fixture
def real_data() -> Path:
    if not DATA.is_dir():
        pytest.skip(f"no real files: {DATA} is missing; set SGCL_BENCH_REAL_DATA")
    return DATA


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three classes of four PNGs of 32 px each."""
    root = tmp_path / "images"
    for c, name in enumerate(("ADI", "STR", "TUM")):
        for i in range(4):
            write_image(root / name / f"{name}-{i}.png", noise(10 * c + i))
    return root


@pytest.fixture
def pack():
    """pack(source, store, *settings) -> exit status."""

    def run(source, store, *settings):
        return pretrain.main(["pack", str(source), str(store), "workers=0", *settings])

    return run


@pytest.fixture(scope="session")
def packed(tmp_path_factory) -> Path:
    """A packed store of 96 images of two classes, for training."""
    root = tmp_path_factory.mktemp("packed")
    for i in range(96):
        write_image(root / "images" / "ab"[i % 2] / f"{i}.png", noise(i))
    assert pretrain.main(["pack", str(root / "images"), str(root / "store"), "workers=0", "mpp=0.5"]) == 0
    return root / "store"
