import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import lmdb
import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile
from PIL import Image

from pretrain.cohorts import Slide
from pretrain.tiles import INDEX_SCHEMA
from pretrain.tiling import Tiling, job
from pretrain.tiling.job import tile_slide
from pretrain.tiling.labels import Codes

Write = Callable[..., Path]
SETTINGS = Tiling(tile=64, encoding="png")


def files(root: Path) -> dict[str, int]:
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


def values(shard: Path) -> dict[bytes, bytes]:
    with lmdb.open(str(shard), subdir=False, readonly=True, lock=False) as environment, environment.begin() as reading:
        return dict(reading.cursor())


def test_a_slide_becomes_shard_rows_overview_and_report(
    tmp_path: Path, slide_file: Write, picture: Callable[..., np.ndarray]
) -> None:
    image = picture(512, 640, glass_columns=256)
    slide = Slide("a", slide_file("a.tif", image), patient="p", hospital="h")
    report = tile_slide(slide, Codes(), SETTINGS, tmp_path / "store")
    assert (report["status"], report["tiles"], report["cached"]) == ("done", 48, False)
    assert report["slide_digest"] == hashlib.sha256(slide.path.read_bytes()).hexdigest()
    assert set(files(tmp_path / "store")) == {"shards/a.lmdb", "slides/a.parquet", "slides/a.json", "overviews/a.png"}

    rows = pq.read_table(tmp_path / "store/slides/a.parquet")
    assert rows.schema.equals(INDEX_SCHEMA)
    columns = rows.to_pydict()
    places = list(zip(columns["grid_y"], columns["grid_x"], strict=True))
    assert places == [(y, x) for y in range(8) for x in range(4, 10)]
    assert columns["x0"] == [64 * x for x in columns["grid_x"]]
    assert set(columns["patient"]) == {"p"}
    assert set(columns["mpp"]) == {0.5}
    assert set(columns["label"]) == {""}
    assert min(columns["tissue"]) >= 0.5

    shard = tmp_path / "store/shards/a.lmdb"
    stored = values(shard)
    assert len(stored) == 48
    assert shard.stat().st_size < 2**20
    for i in (0, 20, 47):
        y, x = places[i]
        wanted = image[64 * y : 64 * y + 64, 64 * x : 64 * x + 64]
        (tmp_path / "tile.png").write_bytes(stored[b"%d_%d" % (x, y)])
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "tile.png")), wanted)
        assert columns["digest"][i] == hashlib.sha256(wanted.tobytes()).hexdigest()
    with Image.open(tmp_path / "store/overviews/a.png") as overview:
        assert overview.size == (640, 512)


def test_jpeg_keeps_its_chroma(tmp_path: Path, slide_file: Write) -> None:
    tile_slide(Slide("a", slide_file("a.tif")), Codes(), Tiling(tile=128), tmp_path / "store")
    value = values(tmp_path / "store/shards/a.lmdb")[b"0_0"]
    (tmp_path / "tile.jpg").write_bytes(value)
    with Image.open(tmp_path / "tile.jpg") as tile:
        assert tile.format == "JPEG"
        assert [layer[1:3] for layer in tile.layer] == [(1, 1)] * 3


def test_second_run_touches_nothing_and_changes_are_noticed(tmp_path: Path, slide_file: Write) -> None:
    root = tmp_path / "store"
    slide = Slide("a", slide_file("a.tif"))
    tile_slide(slide, Codes(), SETTINGS, root)
    before = files(root)
    assert tile_slide(slide, Codes(), SETTINGS, root)["cached"]
    assert files(root) == before

    assert not tile_slide(Slide("a", slide.path, patient="p"), Codes(), SETTINGS, root)["cached"]
    assert not tile_slide(slide, Codes(), SETTINGS, root)["cached"]
    (root / "shards/a.lmdb").unlink()
    assert not tile_slide(slide, Codes(), SETTINGS, root)["cached"]
    slide.path.touch()
    assert tile_slide(slide, Codes(), SETTINGS, root)["cached"], "the same bytes at another time are the same slide"
    content = bytearray(slide.path.read_bytes())
    content[len(content) // 2] ^= 1
    slide.path.write_bytes(content)
    assert not tile_slide(slide, Codes(), SETTINGS, root)["cached"]
    (root / "slides/a.json").write_text('{"status": "do')
    assert not tile_slide(slide, Codes(), SETTINGS, root)["cached"]


def test_labels_come_from_the_mask(tmp_path: Path, slide_file: Write) -> None:
    mask = np.zeros((32, 32), dtype=np.uint8)
    mask[:, 8:20] = 1
    mask[:, 20:] = 2
    Image.fromarray(mask).save(tmp_path / "mask.png")
    slide = Slide("a", slide_file("a.tif"), mask=tmp_path / "mask.png")
    codes = Codes({1: "tumor", 2: "stroma"}, frozenset({0}))
    tile_slide(slide, codes, SETTINGS, tmp_path / "store")
    rows = pq.read_table(tmp_path / "store/slides/a.parquet").to_pydict()
    assert rows["label"][:8] == ["", "", "tumor", "tumor", "tumor", "stroma", "stroma", "stroma"]
    assert rows["label_share"][:8] == [0, 0, 1, 1, 1, 1, 1, 1]
    renamed = Codes({1: "tumour", 2: "stroma"}, frozenset({0}))
    assert not tile_slide(slide, renamed, SETTINGS, tmp_path / "store")["cached"]


def test_a_slide_that_cannot_be_read_is_called_damaged(tmp_path: Path, slide_file: Write) -> None:
    path = slide_file("hurt.tif")
    with tifffile.TiffFile(path) as file:
        places = [
            (at, size) for page in file.pages for at, size in zip(page.dataoffsets, page.databytecounts, strict=True)
        ]
    content = bytearray(path.read_bytes())
    for at, size in places:
        content[at : at + size] = bytes(size)
    path.write_bytes(content)
    report = tile_slide(Slide("hurt", path), Codes(), SETTINGS, tmp_path / "store")
    assert report["status"] == "failed"
    assert report["reason"].startswith("hurt.tif cannot be decoded")
    assert report["reason"].endswith("the file is damaged or cut short, copy it again.")


def test_failures_are_reports_with_one_line(tmp_path: Path, slide_file: Write) -> None:
    (tmp_path / "noise.svs").write_bytes(b"noise" * 100)
    cases = {
        "gone": (Slide("gone", tmp_path / "gone.svs"), "is not there"),
        "noise": (Slide("noise", tmp_path / "noise.svs"), "OpenSlide cannot open"),
        "plain": (Slide("plain", slide_file("plain.tif", mpp=None)), "needs mpp_override="),
        "coarse": (Slide("coarse", slide_file("coarse.tif", mpp=2.0)), "coarser than the mpp=0.5"),
        "maskless": (Slide("maskless", slide_file("ok.tif"), mask=tmp_path / "m.png"), "mask .* is not there"),
    }
    for name, (slide, reason) in cases.items():
        report = tile_slide(slide, Codes(), SETTINGS, tmp_path / "store")
        assert (report["status"], report["tiles"]) == ("failed", 0), name
        assert "\n" not in report["reason"]
        assert re.search(reason, report["reason"]), report["reason"]
        assert not tile_slide(slide, Codes(), SETTINGS, tmp_path / "store")["cached"], "failed slides are tried again"
    assert not list((tmp_path / "store").glob("shards/*"))
    assert not list((tmp_path / "store").glob("slides/*.parquet"))


def test_empty_slides_say_why(tmp_path: Path, slide_file: Write, picture: Callable[..., np.ndarray]) -> None:
    glass = picture(256, 256, glass_columns=256)
    speck = picture(512, 512, glass_columns=460)
    for name, image, tiling, reason in (
        ("glass", glass, SETTINGS, "no tissue found"),
        ("small", glass[:100, :50], SETTINGS, "50 um, smaller than one tile of 32 um"),
        ("speck", speck, Tiling(tile=256), "no tile holds the share tiling.min_tissue=0.5"),
    ):
        slide = Slide(name, slide_file(f"{name}.tif", image, downsamples=(1,)))
        report = tile_slide(slide, Codes(), tiling, tmp_path / "store")
        assert report["status"] == "empty", report
        assert reason in report["reason"]
        assert tile_slide(slide, Codes(), tiling, tmp_path / "store")["cached"]


def test_a_crash_in_the_middle_leaves_nothing_half_written(
    tmp_path: Path, slide_file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = Slide("a", slide_file("a.tif"))
    calls = []

    def encode(pixels: np.ndarray, tiling: Tiling) -> bytes:
        calls.append(1)
        if len(calls) == 30:
            raise MemoryError
        return b"x"

    with monkeypatch.context() as patch:
        patch.setattr(job, "encode", encode)
        report = tile_slide(slide, Codes(), SETTINGS, tmp_path / "store")
    assert (report["status"], report["reason"]) == ("failed", "MemoryError: MemoryError")
    assert set(files(tmp_path / "store")) == {"slides/a.json", "overviews/a.png"}

    monkeypatch.setattr(job, "encode", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        tile_slide(slide, Codes(), SETTINGS, tmp_path / "store")
    assert json.loads((tmp_path / "store/slides/a.json").read_text())["status"] == "failed"
    monkeypatch.undo()
    assert tile_slide(slide, Codes(), SETTINGS, tmp_path / "store")["status"] == "done"
