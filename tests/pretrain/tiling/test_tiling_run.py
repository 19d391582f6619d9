import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pretrain.cohorts import Cohort, Slide, open_cohort
from pretrain.tiles import TileStore
from pretrain.tiling import Tiling, job, run
from pretrain.tiling.reader import SlideReader
from pretrain.tiling.run import tile_cohort
from results.errors import UserError

Write = Callable[..., Path]
SETTINGS = Tiling(tile=64)
DRIVER = "TEST_TILING_DRIVER"


class DeadlyPath(type(Path())):
    """A path that kills every process but the driver when it is looked at."""

    def stat(self, **options: bool) -> os.stat_result:
        if os.environ[DRIVER] != str(os.getpid()):
            os._exit(9)
        return super().stat(**options)


@pytest.fixture
def cohort(tmp_path: Path, slide_file: Write, picture: Callable[..., np.ndarray]) -> Cohort:
    for i, name in enumerate("cab"):
        slide_file(f"liver/{name}.tif", picture(256, 320, seed=i, glass_columns=64))
    return open_cohort(tmp_path / "liver")


def files(root: Path) -> dict[str, int]:
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def no_dask(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("Dask was started")

    monkeypatch.setattr(run, "_client", refuse)


@pytest.mark.slow
def test_dask_and_one_process_give_the_same_store(cohort: Cohort, tmp_path: Path) -> None:
    store = tile_cohort(cohort, SETTINGS, tmp_path / "one")
    assert len(store) == 48
    assert store.slide_names == ["a", "b", "c"]
    assert store.root.parent == tmp_path / "one/tiles"
    assert store.root.name.startswith("liver-")
    for slide in cohort.slides:
        os.utime(slide.path, ns=(1, 1))
    backwards = replace(cohort, slides=cohort.slides[::-1])
    again = tile_cohort(backwards, SETTINGS, tmp_path / "two", workers=0)
    assert again.digest == store.digest
    assert again.root.name == store.root.name
    assert (again.root / "tiles.parquet").read_bytes() == (store.root / "tiles.parquet").read_bytes()


@pytest.mark.slow
def test_a_lost_worker_and_a_given_scheduler(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from distributed import LocalCluster

    monkeypatch.setenv(DRIVER, str(os.getpid()))
    deadly = replace(cohort, slides=(*cohort.slides, Slide("deadly", DeadlyPath(cohort.slides[0].path))))
    store = tile_cohort(deadly, SETTINGS, tmp_path / "work", workers=1)
    assert store.failed == [("deadly", run.LOST)]
    assert len(store) == 48
    assert f"slide deadly: {run.LOST}" in capfd.readouterr().err

    with LocalCluster(1, threads_per_worker=1, processes=False, dashboard_address=None, protocol="tcp") as cluster:
        other = tile_cohort(cohort, SETTINGS, tmp_path / "other", scheduler=cluster.scheduler_address)
    assert other.digest == store.digest


@pytest.mark.usefixtures("no_dask")
def test_done_slides_start_nothing_and_touch_no_file(cohort: Cohort, tmp_path: Path) -> None:
    store = tile_cohort(cohort, SETTINGS, tmp_path, workers=0)
    before = files(store.root)
    assert tile_cohort(cohort, SETTINGS, tmp_path).digest == store.digest
    assert files(store.root) == before


@pytest.mark.usefixtures("no_dask")
def test_a_killed_run_goes_on_where_it_stood(cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tile_cohort(cohort, SETTINGS, tmp_path / "whole", workers=0)
    real, calls = job.tile_slide, []

    def killed(slide: Slide, *rest: object) -> dict[str, object]:
        calls.append(slide.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(slide, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(run, "tile_slide", killed)
        with pytest.raises(KeyboardInterrupt):
            tile_cohort(cohort, SETTINGS, tmp_path / "cut", workers=0)
    root = next((tmp_path / "cut/tiles").iterdir())
    (root / "shards/.b.12345678.tmp.lmdb").write_bytes(b"half")
    with pytest.raises(UserError, match="unfinished"):
        TileStore(root)
    shard = (root / "shards/a.lmdb").stat().st_mtime_ns
    assert tile_cohort(cohort, SETTINGS, tmp_path / "cut", workers=0).digest == whole.digest
    assert (root / "shards/a.lmdb").stat().st_mtime_ns == shard
    assert not list(root.rglob(".*.tmp*"))


def test_one_bad_slide_among_good_ones(cohort: Cohort, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = (Slide("broken", tmp_path / "broken.svs"), Slide("gone", tmp_path / "gone.svs"))
    bad[0].path.write_bytes(b"broken")
    store = tile_cohort(replace(cohort, slides=(*cohort.slides, *bad)), SETTINGS, tmp_path, workers=0)
    assert [name for name, _ in store.failed] == ["broken", "gone"]
    assert store.summary["slides"]["gone"] == {
        "status": "failed",
        "reason": store.failed[1][1],
        "tiles": 0,
        "slide_digest": "",
    }
    lines = capsys.readouterr().err.splitlines()
    assert "tiling 1/5 a: 16 tiles" in lines
    assert [line.split(":")[0] for line in lines if line.startswith("slide ")] == ["slide broken", "slide gone"]
    # without the bad ones the rows, and so the data digest, are the same, and they leave the index
    mended = tile_cohort(cohort, SETTINGS, tmp_path, workers=0)
    assert mended.root == store.root
    assert mended.digest == store.digest
    assert not mended.failed
    fewer = tile_cohort(replace(cohort, slides=cohort.slides[:2]), SETTINGS, tmp_path, workers=0)
    assert fewer.slide_names == ["a", "b"]
    assert fewer.digest != store.digest


def test_what_changes_pixels_changes_the_store(cohort: Cohort, tmp_path: Path) -> None:
    stores = [
        tile_cohort(cohort, settings, tmp_path, workers=0, progress=False)
        for settings in (
            SETTINGS,
            Tiling(tile=64, quality=50),
            Tiling(tile=64, encoding="png"),
            Tiling(tile=64, mpp=1.0),
        )
    ]
    assert len({store.root for store in stores}) == 4
    assert len({store.digest for store in stores}) == 4


def test_a_pipe_in_place_of_a_mask_is_not_waited_for(cohort: Cohort, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "mask.png")
    slide = replace(cohort.slides[0], mask=tmp_path / "mask.png")
    with pytest.raises(UserError, match=r"a: mask .*mask\.png is not there"):
        tile_cohort(replace(cohort, slides=(slide,), codes={1: "x"}), SETTINGS, tmp_path, workers=0)


def test_names_cannot_steer_the_terminal(
    tmp_path: Path, slide_file: Write, picture: Callable[..., np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    slide_file("odd/x\u202ey.tif", picture(128, 128))
    tile_cohort(open_cohort(tmp_path / "odd"), SETTINGS, tmp_path, workers=0)
    assert capsys.readouterr().err == "tiling 1/1 xy: 4 tiles\n"


def test_a_changed_slide_is_done_again(cohort: Cohort, tmp_path: Path, slide_file: Write) -> None:
    store = tile_cohort(cohort, SETTINGS, tmp_path, workers=0)
    slide_file("liver/a.tif")
    changed = tile_cohort(cohort, SETTINGS, tmp_path, workers=0)
    assert len(changed) == 64 + 32
    assert changed.digest != store.digest
    assert changed.read(0).shape == (64, 64, 3)


def test_nothing_to_show_for_it(tmp_path: Path, slide_file: Write, picture: Callable[..., np.ndarray]) -> None:
    missing = Cohort("gone", tmp_path, tuple(Slide(f"s{i}", tmp_path / f"{i}.svs") for i in range(5)))
    with pytest.raises(UserError, match=r"all 5 slides of cohort gone failed: s0: .*; s1: .*; s2: .*; \.\.\."):
        tile_cohort(missing, SETTINGS, tmp_path, workers=0, progress=False)
    glass = Slide("glass", slide_file("glass.tif", picture(256, 256, glass_columns=256)))
    for _ in range(2):
        with pytest.raises(
            UserError, match=r"\(1 empty, 0 failed; glass: no tissue found\).*smaller tiling\.min_tissue="
        ):
            tile_cohort(Cohort("glass", tmp_path, (glass,)), SETTINGS, tmp_path, workers=0, progress=False)


@pytest.mark.usefixtures("no_dask")
def test_a_cohort_of_slides_that_are_not_there_starts_nothing(tmp_path: Path) -> None:
    table = tmp_path / "many.csv"
    table.write_text("slide,path\n" + "".join(f"s{i:05d},gone/{i}.svs\n" for i in range(20_000)))
    with pytest.raises(UserError, match=r"^all 20,000 slides of cohort many failed: s00000: [^;]*; s00001: ") as error:
        tile_cohort(open_cohort(table), SETTINGS, tmp_path / "work")
    assert len(str(error.value)) < 1000
    assert not list((tmp_path / "work").rglob("*.json"))


def test_many_missing_slides_are_named_in_a_few_lines(
    cohort: Cohort, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tuple(Slide(f"gone{i:03d}", tmp_path / f"{i}.svs") for i in range(50))
    store = tile_cohort(replace(cohort, slides=(*cohort.slides, *gone)), SETTINGS, tmp_path, workers=0)
    assert len(store.failed) == 50
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if line.startswith("slide gone")]) == 10
    assert lines[-1] == "and 40 more slides cannot be reached."


@pytest.mark.usefixtures("no_dask")
def test_a_disk_that_is_away_costs_no_finished_work(cohort: Cohort, tmp_path: Path) -> None:
    whole = tile_cohort(cohort, SETTINGS, tmp_path, workers=0)
    before = files(whole.root)
    cohort.root.rename(tmp_path / "away")
    with pytest.raises(UserError, match="all 3 slides of cohort liver failed"):
        tile_cohort(cohort, SETTINGS, tmp_path)
    assert files(whole.root) == before
    (tmp_path / "away").rename(cohort.root)
    one = cohort.slides[0].path
    one.rename(one.with_suffix(".hidden"))
    part = tile_cohort(cohort, SETTINGS, tmp_path)
    assert ([name for name, _ in part.failed], part.slide_names) == (["a"], ["b", "c"])
    one.with_suffix(".hidden").rename(one)
    assert tile_cohort(cohort, SETTINGS, tmp_path).digest == whole.digest
    shards = {name: time for name, time in before.items() if name.startswith("shards/")}
    assert {name: time for name, time in files(whole.root).items() if name in shards} == shards


def test_dead_scheduler_and_busy_store(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "CONNECT_SECONDS", 0.5)
    with pytest.raises(UserError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        tile_cohort(cohort, SETTINGS, tmp_path, scheduler="tcp://127.0.0.1:9")
    with pytest.raises(UserError, match="no Dask scheduler answers at nonsense"):
        tile_cohort(cohort, SETTINGS, tmp_path, scheduler="nonsense://x")
    assert "Traceback" not in capfd.readouterr().err
    root = next((tmp_path / "tiles").iterdir())
    with run.sole_writer(root), pytest.raises(UserError, match="another run is writing"):
        tile_cohort(cohort, SETTINGS, tmp_path, workers=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        tile_cohort(cohort, SETTINGS, tmp_path / "file", workers=0)


def test_a_dicom_file_of_glass_opens_and_gives_no_tile(real_data: Path, tmp_path: Path) -> None:
    """`dicom_sm_image.dcm` is 50 x 50 px of a technical fixture in 25 frames, all of it as bright as glass."""
    path = real_data / "wsi" / "dicom_sm_image.dcm"
    with SlideReader(path) as reader:
        assert (reader.size, reader.mpp, reader.mpp_source, reader.vendor) == ((50, 50), 0.499, "slide", "dicom")
        plan = reader.plan(10, 0.5)
        frames = np.stack([reader.read_tile(x, y, plan) for x in range(0, 50, 10) for y in range(0, 50, 10)])
    assert (frames.shape, plan.resampled) == ((25, 10, 10, 3), False)
    assert 243 < frames.mean() < 245
    cohort = Cohort("dicom", tmp_path, (Slide("sm_image", path),))
    for tile, reason in ((256, "25 x 25 um, smaller than one tile of 128 um"), (16, "no tissue found")):
        with pytest.raises(UserError, match=rf"\(1 empty, 0 failed; sm_image: {reason}\)"):
            tile_cohort(cohort, Tiling(tile=tile), tmp_path / str(tile), workers=0, progress=False)
        (report,) = (json.loads(p.read_text()) for p in (tmp_path / str(tile)).rglob("sm_image.json"))
        assert (report["status"], report["size"], report["mpp"], report["level"]) == ("empty", [50, 50], 0.499, 0)
        assert not list((tmp_path / str(tile)).rglob("*.lmdb"))


@pytest.mark.slow
def test_real_slides(real_data: Path, tmp_path: Path) -> None:
    slides = open_cohort(real_data / "wsi")
    store = tile_cohort(slides, Tiling(), tmp_path)
    assert [name for name, _ in store.failed] == ["broken"]
    assert store.slide_names == ["CMU-1-Small-Region"]
    assert 30 <= len(store) <= 40
    assert store.summary["slides"]["dicom_sm_image"]["status"] == "empty"
    assert json.loads((store.root / "slides/broken.json").read_text())["status"] == "failed"
    assert min(store.read(i).std() for i in range(len(store))) > 10
