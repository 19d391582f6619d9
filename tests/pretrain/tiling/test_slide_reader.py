from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from pretrain.tiling import reader as reader_module
from pretrain.tiling.reader import SlideReader
from results.errors import UserError

Write = Callable[..., Path]


def gradient(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, np.full_like(x, 90)], axis=2).astype(np.uint8)


@pytest.mark.parametrize(
    ("mpp", "level", "extent", "step"),
    [
        (0.25, 0, 64, 64),
        (0.2522, 0, 64, 64),  # within 1 %: copied
        (0.5, 1, 64, 128),
        (0.496, 1, 64, 128),
        (0.45, 0, 64 * 1.8, 64 * 1.8),
        (0.75, 1, 96, 192),
        (1.0, 2, 64, 256),
        (3.0, 2, 192, 768),
        (0.24, 0, 64 * 0.96, 64 * 0.96),  # up to 5 % finer than the slide
    ],
)
def test_level_is_the_coarsest_that_is_fine_enough(
    slide_file: Write, mpp: float, level: int, extent: float, step: float
) -> None:
    with SlideReader(slide_file("a.tif", gradient(768, 1024), mpp=0.25)) as reader:
        assert reader.size == (1024, 768)
        assert reader.mpp == pytest.approx(0.25)
        assert reader.mpp_source == "slide"
        plan = reader.plan(64, mpp)
        assert plan.level == level
        assert plan.extent == pytest.approx(extent)
        assert plan.step == pytest.approx(step)
        assert plan.resampled == (extent != 64)


def test_tiles_at_a_level_are_its_very_pixels(slide_file: Write) -> None:
    image = np.random.default_rng(0).integers(0, 256, size=(512, 512, 3), dtype=np.uint8)
    with SlideReader(slide_file("a.tif", image)) as reader:
        np.testing.assert_array_equal(reader.read_tile(70, 33, reader.plan(64, 0.5)), image[33:97, 70:134])
        half = np.asarray(Image.fromarray(image).resize((256, 256), Image.Resampling.BOX))
        np.testing.assert_array_equal(reader.read_tile(128, 64, reader.plan(64, 1.0)), half[32:96, 64:128])


def test_resampled_tiles_show_the_asked_for_area(slide_file: Write) -> None:
    image = gradient(768, 1024)
    with SlideReader(slide_file("a.tif", image, downsamples=(1, 2))) as reader:
        plan = reader.plan(64, 0.8)
        for x0, y0 in ((0, 0), (103, 205), (1024 - 103, 768 - 103)):
            tile = reader.read_tile(x0, y0, plan)
            wanted = Image.fromarray(image).resize((64, 64), Image.Resampling.BOX, box=(x0, y0, x0 + 102.4, y0 + 102.4))
            assert tile.shape == (64, 64, 3)
            assert tile.dtype == np.uint8
            assert np.abs(tile.astype(int) - np.asarray(wanted)).max() <= 2


def test_thumbnail_means_areas_block_by_block(slide_file: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(0).integers(0, 256, size=(300, 420, 3), dtype=np.uint8)
    with SlideReader(slide_file("a.tif", image, downsamples=(1,))) as reader:
        whole = reader.thumbnail(50, 36)
        monkeypatch.setattr(reader_module, "BLOCK", 64)
        blocks = reader.thumbnail(50, 36)
    wanted = np.asarray(Image.fromarray(image).resize((50, 36), Image.Resampling.BOX)).astype(int)
    assert whole.shape == (36, 50, 3)
    assert np.abs(whole - wanted).max() <= 1
    assert np.abs(blocks - wanted).mean() < 4  # seams of blocks that start inside a pixel


def test_resolution_comes_from_override_then_cohort_then_slide(slide_file: Write) -> None:
    path = slide_file("a.tif", mpp=0.5)
    for options, mpp, source in (((), 0.5, "slide"), ((None, 0.4), 0.4, "cohort"), ((0.3, 0.4), 0.3, "override")):
        with SlideReader(path, *options) as reader:
            assert reader.mpp == pytest.approx(mpp)
            assert reader.mpp_source == source


@pytest.mark.parametrize("mpp", [None, 352.8])
def test_no_or_absurd_resolution_asks_for_it(slide_file: Write, mpp: float | None) -> None:
    path = slide_file("plain.tif", mpp=mpp)
    with pytest.raises(UserError, match=r"plain\.tif .*needs mpp_override="):
        SlideReader(path)
    with SlideReader(path, 0.5) as reader:
        assert reader.mpp == 0.5


@pytest.mark.parametrize(("ratio", "fits"), [(1.04, True), (1.2, False)])
def test_oblong_pixels(tmp_path: Path, ratio: float, fits: bool) -> None:
    path = tmp_path / "a.tif"
    scale = {"resolution": (2e4, 2e4 / ratio), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, gradient(256, 256), tile=(128, 128), photometric="rgb", metadata=None, **scale)
    if fits:
        with SlideReader(path) as reader:
            assert reader.mpp == pytest.approx(0.5 * (1 + ratio) / 2)
    else:
        with pytest.raises(UserError, match="5% from square"):
            SlideReader(path)


def test_upsampling_is_refused_with_both_values(slide_file: Write) -> None:
    with SlideReader(slide_file("coarse.tif", mpp=1.0)) as reader, pytest.raises(UserError) as caught:
        reader.plan(64, 0.5)
    assert all(part in str(caught.value) for part in ("coarse.tif", "1 um/px", "mpp=0.5"))


def test_missing_unknown_and_cut_files(tmp_path: Path, slide_file: Write) -> None:
    with pytest.raises(UserError, match="is not there"):
        SlideReader(tmp_path / "gone.svs")
    (tmp_path / "noise.svs").write_bytes(b"no slide at all" * 50)
    with pytest.raises(UserError, match=r"cannot open noise\.svs \(Unsupported"):
        SlideReader(tmp_path / "noise.svs")
    path = slide_file("cut.tif")
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"cut\.tif"):
        SlideReader(path)


def test_damaged_level_is_named(slide_file: Write) -> None:
    path = slide_file("hurt.tif", np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8))
    with tifffile.TiffFile(path) as file:
        offset, size = file.pages[1].dataoffsets[0], file.pages[1].databytecounts[0]
    content = bytearray(path.read_bytes())
    content[offset : offset + size] = bytes(size)
    path.write_bytes(content)
    with SlideReader(path) as reader:
        assert reader.read_tile(0, 0, reader.plan(64, 0.5)).any()
        with pytest.raises(UserError, match=r"hurt\.tif cannot be decoded at level 1, x0 0, y0 0"):
            reader.read_tile(0, 0, reader.plan(64, 1.0))


def test_real_slide(real_data: Path) -> None:
    with SlideReader(real_data / "wsi" / "CMU-1-Small-Region.svs") as reader:
        assert reader.size == (2220, 2967)
        assert reader.mpp == pytest.approx(0.499)
        plan = reader.plan(256, 0.5)
        assert not plan.resampled
        assert reader.read_tile(1024, 1024, plan).std() > 20
        assert reader.plan(256, 1.0).extent == pytest.approx(513.03, abs=0.01)
    with pytest.raises(UserError, match=r"broken\.svs"):
        SlideReader(real_data / "wsi" / "broken.svs")
