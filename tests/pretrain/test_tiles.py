import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile
from PIL import Image

from pretrain import tiles
from pretrain.cohorts import Cohort, Slide, open_cohort
from pretrain.tiles import TileStore, latest_store
from pretrain.tiling import Tiling
from pretrain.tiling.run import tile_cohort
from results.errors import UserError
from results.files import write_json

TILE = 64


def image_of(seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    image = np.array((225, 150, 190)) + generator.integers(-20, 20, size=(256, 192, 3))
    return image.astype(np.uint8)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    root = tmp_path_factory.mktemp("made") / "skin"
    root.mkdir()
    for i in range(3):
        options = {"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER", "compression": "zlib", "metadata": None}
        tifffile.imwrite(root / f"s{i}.tif", image_of(i), tile=(64, 64), photometric="rgb", **options)
    mask = np.zeros((64, 48), dtype=np.uint8)
    mask[16:, :16], mask[16:, 16:] = 1, 2
    Image.fromarray(mask).save(root / "m.png")
    rows = "".join(f"s{i},s{i}.tif,p{i // 2},h,m.png\n" for i in range(3))
    (root / "cohort.csv").write_text(f"slide,path,patient,hospital,mask\n{rows}")
    (root / "labels.csv").write_text("code,label,kind\n0,,background\n1,tumor,tissue\n2,stroma,tissue\n3,fat,tissue\n")
    (root / "cohort.yaml").write_text("rehearsal: true\n")
    return open_cohort(root)


@pytest.fixture(scope="module")
def made(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = Tiling(tile=TILE, encoding="png")
    return tile_cohort(cohort, settings, tmp_path_factory.mktemp("work"), workers=0, progress=False).root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(made, tmp_path / "work/tiles/skin"))


def test_store_knows_its_facts(made: Path, cohort: Cohort) -> None:
    store = TileStore(made)
    assert len(store) == 36
    assert (store.tile, store.mpp, store.rehearsal, store.failed) == (TILE, 0.5, True, [])
    assert store.labels == ["fat", "stroma", "tumor"]
    assert store.summary["cohort"] == "skin"
    assert store.summary["root"] == str(cohort.root)
    assert len(store.digest) == 64
    assert store.slide_names == ["s0", "s1", "s2"]
    assert store.slide_codes.dtype == np.int32
    assert store.slide_codes.tolist() == [0] * 12 + [1] * 12 + [2] * 12


def test_index_has_every_column_of_every_tile(made: Path) -> None:
    index = TileStore(made).index
    assert list(index) == tiles.INDEX_SCHEMA.names
    assert {len(index[name]) for name in index} == {36}
    assert index["slide"][[0, 35]].tolist() == ["s0", "s2"]
    assert index["patient"][[0, 12, 24]].tolist() == ["p0", "p0", "p1"]
    assert index["grid_x"][:4].tolist() == [0, 1, 2, 0]
    assert index["x0"].dtype == np.int64
    assert index["label"][:6].tolist() == ["", "", "", "tumor", "stroma", "stroma"]
    assert index["digest"].dtype == "S64"
    with pytest.raises(KeyError):
        index["colour"]
    assert TileStore(made).label_codes[:6].tolist() == [-1, -1, -1, 2, 1, 1]


def test_tiles_are_the_pixels_of_the_slide(made: Path) -> None:
    store = TileStore(made)
    for tile_id in (0, 17, 35):
        x, y = store.index["x0"][tile_id], store.index["y0"][tile_id]
        wanted = image_of(store.slide_codes[tile_id])[y : y + TILE, x : x + TILE]
        np.testing.assert_array_equal(store.read(tile_id), wanted)
    many = store.read_many(np.array([35, 0, 17, 0]))
    assert many.dtype == np.uint8
    np.testing.assert_array_equal(many, np.stack([store.read(i) for i in (35, 0, 17, 0)]))
    assert store.read_many([]).shape == (0, TILE, TILE, 3)
    for wrong in (-1, 36):
        with pytest.raises(IndexError):
            store.read(wrong)


def test_open_shards_are_bounded(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "OPEN_SHARDS", 2)
    store = TileStore(made)
    for tile_id in (0, 12, 0, 24, 0, 12):
        store.read(tile_id)
        assert len(tiles._SHARDS._open) <= 2
    assert [path.stem for path in tiles._SHARDS._open] == ["s0", "s1"]


def _sum(store: TileStore, tile_id: int) -> int:
    return int(store.read(tile_id).astype(int).sum())


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_two_processes_read_one_store(made: Path, method: str) -> None:
    store = TileStore(made)
    here = [_sum(store, i) for i in range(36)]  # shards are open before the fork
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:
        assert list(pool.map(_sum, [store] * 36, range(36))) == here
    assert _sum(store, 3) == here[3]


def test_a_forked_child_reads_with_what_it_inherits(made: Path) -> None:
    store = TileStore(made)
    wanted = _sum(store, 5)
    child = os.fork()
    if child == 0:
        os._exit(0 if _sum(store, 5) == wanted and _sum(TileStore(made), 5) == wanted else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert _sum(store, 5) == wanted


def test_threads_read_one_store(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "OPEN_SHARDS", 1)
    store = TileStore(made)
    here = [_sum(store, i) for i in range(36)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(_sum, [store] * 360, list(range(0, 36, 5)) * 45)) == (here[::5] * 45)[:360]


def test_stores_pickle_small(made: Path) -> None:
    store = TileStore(made)
    store.read(0)
    store.index["digest"]
    content = pickle.dumps(store)
    assert len(content) < 1000
    np.testing.assert_array_equal(pickle.loads(content).read(7), store.read(7))


def test_a_store_that_was_written_anew_is_read_anew(cohort: Cohort, tmp_path: Path) -> None:
    settings = Tiling(tile=TILE, encoding="png")
    store = tile_cohort(cohort, settings, tmp_path, workers=0, progress=False)
    store.read(0)
    for name in ("shards/s0.lmdb", "shards/s1.lmdb"):
        (store.root / name).unlink()
    again = tile_cohort(cohort, settings, tmp_path, workers=0, progress=False)
    assert again.digest == store.digest
    np.testing.assert_array_equal(again.read(0), image_of(0)[:TILE, :TILE])


def test_missing_and_damaged_stores(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        TileStore(tmp_path / "nowhere")
    summary = dict(TileStore(root).summary)
    write_json(root / "store.json", summary | {"schema": 99})
    with pytest.raises(UserError, match="schema 99, this version reads 1"):
        TileStore(root)
    write_json(root / "store.json", summary | {"tiles": 35})
    with pytest.raises(UserError, match=r"36 rows where store\.json counts 35, 36 by slide"):
        TileStore(root)
    write_json(root / "store.json", summary | {"digest": "0" * 64})
    with pytest.raises(UserError, match="different digests"):
        TileStore(root)
    write_json(root / "store.json", {"schema": 1})
    with pytest.raises(UserError, match="lacks digest, labels"):
        TileStore(root)
    (root / "store.json").write_text("[" * 200_000)
    with pytest.raises(UserError, match=r"store\.json is damaged \(RecursionError\)"):
        TileStore(root)
    (root / "store.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        TileStore(root)
    (root / "store.json").unlink()
    with pytest.raises(UserError, match="unfinished"):
        TileStore(root)
    write_json(root / "store.json", summary)
    (root / "tiles.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"tiles\.parquet is missing or damaged"):
        TileStore(root)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("slides", [1]),
        ("slides", {"s0": 3}),
        ("slides", {"s0": {"tiles": "36", "status": "done"}}),
        ("slides", {"s0": {"tiles": 0, "status": "failed"}}),
        ("labels", 3),
        ("labels", [1]),
        ("tiling", None),
        ("tiling", {"tile": "64", "mpp": 0.5}),
        ("tiling", {"tile": 64, "mpp": float("nan")}),
        ("tiles", "36"),
        ("digest", 5),
        ("rehearsal", "no"),
        ("receipts", [1]),
        ("receipts", {"a": {}}),
    ],
)
def test_a_summary_of_another_form_names_the_key(root: Path, key: str, value: object) -> None:
    summary = dict(TileStore(root).summary) | {key: value}
    (root / "store.json").write_text(json.dumps(summary))
    with pytest.raises(UserError, match=rf"store\.json is damaged, its {key} is not as it was written"):
        TileStore(root)


def test_damaged_shards(root: Path) -> None:
    shard = root / "shards/s1.lmdb"
    content = shard.read_bytes()
    store = TileStore(root)
    for spoilt in (content[: len(content) // 2], b"\0" * len(content), b""):
        shard.write_bytes(spoilt)
        with pytest.raises(UserError, match=r"s1\.lmdb is missing or damaged"):
            store.read(12)
    shard.write_bytes((root / "shards/s2.lmdb").read_bytes().replace(b"IDAT", b"XXXX"))
    with pytest.raises(UserError, match="tile 0_0 cannot be decoded"):
        store.read(12)
    shard.unlink()
    with pytest.raises(UserError, match=r"s1\.lmdb is missing"):
        TileStore(root)


def test_a_table_that_changes_in_use_is_noticed(root: Path) -> None:
    store = TileStore(root)
    table = pq.read_table(root / "tiles.parquet")
    pq.write_table(table.slice(0, 10), root / "tiles.parquet")
    with pytest.raises(UserError, match="changed while it was in use"):
        store.index["x0"]


def test_latest_store(cohort: Cohort, root: Path) -> None:
    work = root.parent.parent
    assert latest_store(work) == root
    time.sleep(0.01)
    bare = replace(cohort, name="bare", slides=(Slide("x", cohort.slides[0].path),), codes={}, background=frozenset())
    newer = tile_cohort(bare, Tiling(tile=TILE), work, workers=0, progress=False).root
    assert latest_store(work, labelled=False) == newer
    assert latest_store(work) == root
    with pytest.raises(UserError, match="no labelled tile store"):
        latest_store(work / "elsewhere")


def test_import_stays_light() -> None:
    code = "import sys, pretrain.tiles; print([m for m in ('torch', 'dask', 'distributed', 'openslide') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
