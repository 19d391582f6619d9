import copy
import hashlib
from collections.abc import Callable
from pathlib import Path

import canary_files
import numpy as np
import pytest

from pretrain.cohorts import Slide
from pretrain.tiles import TileStore
from pretrain.tiling import Tiling, reader, receipts
from pretrain.tiling.job import tile_slide
from pretrain.tiling.labels import Codes
from pretrain.tiling.reader import SlideReader
from pretrain.tiling.run import tile_cohort


def test_the_receipt_names_libraries_and_pixels() -> None:
    receipt = receipts.decoder_receipt()
    versions = receipt["versions"]
    assert {"openslide", "openslide-python", "pillow", "libjpeg-turbo", "openjpeg", "libtiff"} <= versions.keys()
    assert versions["libjpeg-turbo"][0].isdigit()
    assert set(receipt["canaries"]) == {"jpeg", "jpeg2000", "resized", "stored"}
    assert all(len(digest) == 64 for digest in receipt["canaries"].values())
    assert receipts.receipt_id(receipt) == receipts.receipt_id(copy.deepcopy(receipt))


@pytest.mark.parametrize("file", ["jpeg.tif", "jpeg2000.svs"])
def test_canary_files_hold_the_drawing(file: str) -> None:
    with SlideReader(receipts.CANARIES / file) as slide:
        assert (slide.size, slide.mpp) == ((128, 128), pytest.approx(0.5))
        pixels = slide.read_tile(0, 0, slide.plan(128, 0.5))
    assert np.abs(pixels.astype(int) - canary_files.drawing()).mean() < 15
    name = {file: name for name, file in receipts.CANARY_FILES.items()}[file]
    assert receipts.decoder_receipt()["canaries"][name] == hashlib.sha256(pixels.tobytes()).hexdigest()


def test_a_slides_canary_sees_its_pixels(slide_file: Callable[..., Path], picture: Callable[..., np.ndarray]) -> None:
    image = picture(512, 640)
    seen, outside = image.copy(), image.copy()
    seen[256, 320] = 0
    files = [
        slide_file(f"{i}.tif", version, downsamples=(1,)) for i, version in enumerate((image, image, seen, outside))
    ]
    found = []
    for path in files:
        with SlideReader(path) as slide:
            found.append(slide.canary())
    assert found[0] == found[1] == found[3] != found[2]
    with SlideReader(slide_file("small.tif", image[:100, :90], downsamples=(1,))) as slide:
        assert len(slide.canary()) == 64


def test_real_slide(real_data: Path, tmp_path: Path) -> None:
    slide = Slide("real", real_data / "wsi" / "CMU-1-Small-Region.svs")
    report = tile_slide(slide, Codes(), Tiling(mpp=1.0), tmp_path)
    assert report["status"] == "done"
    assert report["bytes"] == 1_938_955
    assert report["receipt"] == receipts.decoder_receipt()
    with SlideReader(slide.path) as again:
        assert again.canary() == report["canary"]


def test_an_unreadable_region_does_not_stop_the_canary(
    slide_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from results.errors import UserError

    def fail(*_: object) -> None:
        raise UserError("cannot be decoded")

    with SlideReader(slide_file("a.tif")) as slide:
        whole = slide.canary()
        monkeypatch.setattr(reader.SlideReader, "_region", fail)
        assert slide.canary() != whole


def test_stores_of_other_decoders_are_told(
    tmp_path: Path, slide_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pretrain.cohorts import open_cohort
    from pretrain.tiling import job

    slide_file("cohort/a.tif")
    cohort = open_cohort(tmp_path / "cohort")
    first = tile_cohort(cohort, Tiling(tile=64), tmp_path / "one", workers=0, progress=False)
    second = tile_cohort(cohort, Tiling(tile=64), tmp_path / "two", workers=0, progress=False)
    assert receipts.decoder_warnings(first.summary, second.summary) == []
    assert first.decoder == second.decoder != ""

    other = copy.deepcopy(receipts.decoder_receipt())
    other["versions"]["libjpeg-turbo"] = "2.0.0"
    monkeypatch.setattr(job, "decoder_receipt", lambda: other)
    third = tile_cohort(cohort, Tiling(tile=64), tmp_path / "three", workers=0, progress=False)
    assert receipts.decoder_warnings(first.summary, third.summary) == [], "another version alone is no other pixel"
    assert first.decoder == third.decoder
    assert receipts.changed_versions(*(next(iter(s.summary["receipts"].values())) for s in (first, third))) == [
        f"libjpeg-turbo {receipts.decoder_receipt()['versions']['libjpeg-turbo']} -> 2.0.0"
    ]
    other["canaries"]["jpeg"] = "0" * 64
    monkeypatch.setattr(reader.SlideReader, "canary", lambda _: "1" * 64)
    fourth = tile_cohort(cohort, Tiling(tile=64), tmp_path / "four", workers=0, progress=False)
    slides, canaries = receipts.decoder_warnings(first.summary, fourth.summary)
    assert "1 of 1 slides" in slides
    assert "canary jpeg (libjpeg-turbo" in canaries
    assert first.decoder != fourth.decoder
    assert first.digest == fourth.digest


def test_a_store_from_before_receipts_is_read_and_kept(tmp_path: Path, slide_file: Callable[..., Path]) -> None:
    import json

    from pretrain.cohorts import open_cohort

    slide_file("cohort/a.tif")
    cohort = open_cohort(tmp_path / "cohort")
    store = tile_cohort(cohort, Tiling(tile=64), tmp_path, workers=0, progress=False)
    new = (
        "receipt",
        "receipts",
        "canary",
        "bytes",
        "ends_digest",
        "content",
        "labels_digest",
        "label_rule",
        "notes",
        "licence",
        "cite",
    )
    for path in (store.root / "store.json", store.root / "slides/a.json"):
        content = {key: value for key, value in json.loads(path.read_text()).items() if key not in new}
        if "slides" in content:
            content["slides"]["a"] = {key: value for key, value in content["slides"]["a"].items() if key not in new}
        path.write_text(json.dumps(content))
    before = (store.root / "store.json").read_bytes()
    old = TileStore(store.root)
    assert old.decoder == ""
    assert receipts.decoder_warnings(old.summary, store.summary) == []
    assert tile_cohort(cohort, Tiling(tile=64), tmp_path, workers=0, progress=False).digest == store.digest
    assert (store.root / "store.json").read_bytes() == before
