import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain.cohorts import open_cohort
from pretrain.tiling import Tiling, job
from pretrain.tiling.run import tile_cohort

SETTINGS = Tiling(tile=64)


@pytest.fixture
def folder(tmp_path: Path, slide_file: Callable[..., Path], picture: Callable[..., np.ndarray]) -> Path:
    for i in range(2):
        slide_file(f"here/s{i}.tif", picture(256, 256, seed=i))
    mask = np.ones((32, 32), dtype=np.uint8)
    Image.fromarray(mask).save(tmp_path / "here/m.png")
    (tmp_path / "here/cohort.csv").write_text("slide,path,mask\ns0,s0.tif,m.png\ns1,s1.tif,\n")
    (tmp_path / "here/labels.csv").write_text("code,label,kind\n1,tumor,tissue\n")
    (tmp_path / "here/cohort.yaml").write_text("name: moved\n")
    return tmp_path / "here"


def tile(folder: Path, work: Path):
    return tile_cohort(open_cohort(folder), SETTINGS, work, workers=0, progress=False)


@pytest.mark.parametrize("times_kept", [True, False])
def test_a_moved_folder_keeps_its_store(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times_kept: bool
) -> None:
    store = tile(folder, tmp_path / "work")
    there = Path(shutil.move(folder, tmp_path / "there"))
    if not times_kept:
        for path in there.iterdir():
            os.utime(path, ns=(5, 5))
    monkeypatch.setattr(job, "_tile", lambda *_: pytest.fail("a slide was tiled again"))
    moved = tile(there, tmp_path / "work")
    assert (moved.root, moved.digest) == (store.root, store.digest)
    assert moved.summary["root"] == str(there)
    assert tile(there, tmp_path / "work").root == store.root


def test_what_is_no_move_gets_a_store_of_its_own(
    folder: Path, tmp_path: Path, slide_file: Callable[..., Path], picture: Callable[..., np.ndarray]
) -> None:
    store = tile(folder, tmp_path / "work")
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    slide_file("other/s1.tif", picture(256, 256, seed=9))
    changed = tile(other, tmp_path / "work")
    assert changed.root != store.root
    assert changed.digest != store.digest
    fewer = Path(shutil.copytree(folder, tmp_path / "fewer"))
    (fewer / "cohort.csv").write_text("slide,path,mask\ns0,s0.tif,m.png\n")
    assert tile(fewer, tmp_path / "work").root not in (store.root, changed.root)


def test_a_new_mask_is_noticed_after_a_move(folder: Path, tmp_path: Path) -> None:
    store = tile(folder, tmp_path / "work")
    assert store.labels == ["tumor"]
    there = Path(shutil.move(folder, tmp_path / "there"))
    Image.fromarray(np.tile(np.array([1, 2], dtype=np.uint8), (32, 16))).save(there / "m.png")
    (there / "labels.csv").write_text("code,label,kind\n1,tumor,tissue\n2,,background\n")
    assert tile(there, tmp_path / "work").digest != store.digest
