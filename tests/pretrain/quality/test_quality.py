"""The quality page of odd slides, and of real ones."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy import ndimage

from pretrain import __main__ as pretrain
from pretrain.charts import outlines
from pretrain.quality.cohort import mark
from pretrain.quality.page import render
from pretrain.quality.slide import focus_of
from pretrain.tiles import TileStore
from pretrain.tiling.tissue import ink_areas

TILES = ["tile=64", "mpp=0.5", "tiling.mask_mpp=4", "tiling.workers=0"]
PARTS_OF_A_PAGE = re.compile(
    r"<script|<link|<iframe|@import|url\(|javascript:|(?:src|href)=\"(?!data:image/jpeg;base64,)", re.IGNORECASE
)


def quality(cohort: Path, work: Path, *more: str) -> int:
    return pretrain.main(["quality", f"cohort={cohort}", f"work={work}", *TILES, *more])


@pytest.fixture(scope="module")
def looked(odd_slides, tmp_path_factory):
    """Exit status, folder of the report, work folder."""
    work, out = tmp_path_factory.mktemp("work"), tmp_path_factory.mktemp("out") / "page"
    return quality(odd_slides, work, f"out={out}"), out, work


@pytest.fixture(scope="module")
def slides(looked):
    report = json.loads((looked[1] / "quality.json").read_text())
    return {slide["slide"]: slide for slide in report["slides"]}


def kinds(slide):
    return {kind for kind, _ in slide["warnings"]}


def test_failed_slides_give_status_3_and_their_reasons(looked, slides):
    assert looked[0] == 3
    assert slides["silent"]["status"] == slides["flat"]["status"] == "failed"
    assert "does not state its um/px" in slides["silent"]["reason"]
    assert "flat TIFF of 512 x 512 px" in slides["flat"]["reason"]
    assert "vips tiffsave flat.tif slide.tif --tile --pyramid" in slides["flat"]["reason"]


def test_what_is_odd_is_marked_and_nothing_else(slides):
    assert kinds(slides["sound1"]) == set()
    assert kinds(slides["blurred"]) == {"focus"}
    assert slides["blurred"]["focus_relative"] < 0.25 < 0.5 < slides["sound1"]["focus_relative"]
    assert kinds(slides["inked"]) == {"ink"}
    assert kinds(slides["other"]) == {"resolution", "few"}
    assert "0.25 um/px, the cohort's median is 0.5" in str(slides["other"]["warnings"])
    assert kinds(slides["sound0"]) == kinds(slides["copy"]) == {"copy"}
    assert "the same file as copy" in str(slides["sound0"]["warnings"])
    (said,) = [words for kind, words in slides["sound2"]["warnings"] if "slide states" in words]
    assert said == "0.3 um/px by the cohort, but the slide states 0.5"


def test_areas_are_right(slides):
    half = (512 * 0.5) * (256 * 0.5) / 1e6
    assert slides["sound1"]["tissue_mm2"] == pytest.approx(half, rel=0.05)
    assert slides["inked"]["ink_mm2"]["blue or green"] == pytest.approx(420 * 210 * 0.25 / 1e6, rel=0.05)
    assert slides["sound1"]["ink_mm2"] == {"blue or green": 0, "yellow": 0, "red": 0, "black": 0}
    assert slides["sound1"]["tiles"] == 32


def test_patients_hospitals_and_labels_reach_report_store_and_manifest(looked, slides, tmp_path):
    from pretrain.manifest.file import read_manifest

    assert (slides["sound1"]["patient"], slides["sound1"]["hospital"], slides["sound1"]["label"]) == (
        "P0",
        "Köln",
        "tumour",
    )
    report = json.loads((looked[1] / "quality.json").read_text())
    assert {row["name"]: row["slides"] for row in report["hospitals"]} == {"H <i>1</i>": 5, "Köln": 4}
    assert report["totals"]["patients"] == 5
    (root,) = (looked[2] / "tiles").iterdir()
    store = TileStore(root)
    assert store.summary["slides"]["sound1"]["slide_label"] == "tumour"
    assert "slide_label" not in store.summary["slides"]["inked"]
    assert not store.labels
    assert set(store.index["label"]) == {""}
    assert set(store.index["patient"][store.index["slide"] == "sound1"]) == {"P0"}
    path = tmp_path / "m.parquet"
    assert pretrain.main(["manifest", "write", f"store={root}", f"out={path}"]) == 0
    facts = read_manifest(path).facts
    assert facts["slides"]["sound1"]["slide_label"] == "tumour"
    assert facts["slides"]["sound1"]["hospital"] == "Köln"
    assert (facts["licence"], facts["cite"]) == ("CC BY 4.0", "Doe & Roe, 2024")


def test_the_page_stands_alone_and_names_are_text(looked):
    text = (looked[1] / "report.html").read_text(encoding="utf-8")
    assert not PARTS_OF_A_PAGE.search(text)
    assert "<i>" not in text
    assert "H &lt;i&gt;1&lt;/i&gt;" in text
    assert text.count("<img ") == 7
    assert (
        "td:first-child, th:first-child { text-align: left; white-space: nowrap; }" in text
    )  # names do not break at hyphens
    assert (
        ".left td, .left th, .last td:last-child, .last th:last-child { text-align: left; }" in text
    )  # heads stand over texts
    assert '<div class="last"><div class="wide"><table><thead><tr><th>slide</th><th>um/px</th>' in text
    body = ElementTree.fromstring(re.sub(r"<!DOCTYPE html>|<meta[^>]*>|(<img[^>]*>)|<br>", "", text).strip())
    assert [h.text.split(":")[0] for h in body.iter("h2")] == [
        "Failed slides", "Marked slides", "Spread", "Hospitals and patients", "Magnification", "Slides",
    ]  # fmt: skip


def test_a_second_call_measures_nothing_and_writes_the_same(odd_slides, looked, tmp_path, monkeypatch):
    from pretrain.quality import slide

    monkeypatch.setattr(slide, "_slide", lambda job: pytest.fail(f"{job.slide.name} measured again"))
    assert quality(odd_slides, looked[2], f"out={tmp_path / 'again'}") == 3
    for name in ("report.html", "quality.json"):
        assert (tmp_path / "again" / name).read_bytes() == (looked[1] / name).read_bytes()


def test_pictures_stay_small_for_many_slides(slides):
    from pretrain.quality.command import SIDES

    report = {
        "slides": [],
        "hospitals": [],
        "patients": [],
        "notes": [],
        "rehearsal": True,
        "cohort": "many",
        "licence": "",
        "cite": "",
    }
    many = [{**slides["sound1"], "slide": f"s{i}", "slide_digest": str(i)} for i in range(400)]
    mark(many)
    totals = dict.fromkeys(
        ("slides", "done", "empty", "failed", "patients", "hospitals", "tissue_mm2", "tiles", "marked"), 0
    )
    text = render(
        report | {"slides": many, "totals": totals, "tiling": {"tile": 64, "mpp": 0.5}, "store_digest": "0" * 64}, {}
    )
    assert text.count("<figure") == 400
    assert "synthetic slides" in text
    assert len(text) < 2**20
    assert next(px for most, px in SIDES if most >= 400) * 400**0.5 <= 8192


def test_focus_falls_with_blur_and_does_not_depend_on_the_brightness():
    tile = np.random.default_rng(0).integers(60, 200, (64, 64, 3)).astype(np.uint8)
    blurs = [focus_of(ndimage.gaussian_filter(tile, (sigma, sigma, 0))) for sigma in (0.5, 1, 2, 4)]
    assert blurs == sorted(blurs, reverse=True)
    assert focus_of(tile + np.uint8(20)) == pytest.approx(focus_of(tile), rel=1e-4)
    assert focus_of(np.full((32, 32, 3), 128, np.uint8)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("colour", "kind"), [((20, 140, 60), "blue or green"), ((30, 60, 200), "blue or green"), ((240, 220, 40), "yellow"), ((210, 30, 40), "red")]
)  # fmt: skip
def test_ink_by_colour_in_mm2(colour, kind):
    image = np.full((200, 300, 3), 244, np.uint8)
    image[50:100, 80:180] = colour
    found = ink_areas(image, 8.0)
    assert found.pop(kind) == pytest.approx(50 * 100 * 64 / 1e6)
    assert not any(found.values())


def test_black_marks_count_only_away_from_the_edge():
    image = np.full((200, 300, 3), 244, np.uint8)
    image[:, :20] = 5
    image[80:120, 100:160] = 10
    assert ink_areas(image, 8.0)["black"] == pytest.approx(40 * 60 * 64 / 1e6)


@pytest.mark.parametrize("more", [["store=somewhere"], ["out="], ["cohort=/no/such"]])
def test_mistakes_are_one_sentence(more, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    more = [f"out={tmp_path / 'file'}", "cohort=/no/such"] if more == ["out="] else more
    assert pretrain.main(["quality", f"work={tmp_path}", *more]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_histograms_of_one_value_draw():
    assert ElementTree.fromstring(outlines({"edges": [0, 1], "counts": {"a": [1]}}, {"a": "a"}, "t", "x")) is not None


def test_real_slides_in_any_mix_of_formats(real_data, tmp_path, capsys):
    folder = tmp_path / "mix"
    folder.mkdir()
    for path in (real_data / "wsi").iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "OS-1.tif").symlink_to(real_data / "he-images" / "OS-1-detail.ome.tif")
    status = pretrain.main(["quality", f"cohort={folder}", f"work={tmp_path / 'work'}", "tile=256", "tiling.workers=0", f"out={tmp_path / 'q'}"])  # fmt: skip
    assert status == 3
    found = {slide["slide"]: slide for slide in json.loads((tmp_path / "q" / "quality.json").read_text())["slides"]}
    assert {name: slide["status"] for name, slide in found.items()} == {
        "CMU-1-Small-Region": "done", "broken": "failed", "dicom_sm_image": "empty", "OS-1": "failed",
    }  # fmt: skip
    assert "OME-TIFF of 1101 x 1101 px" in found["OS-1"]["reason"]
    assert "begins like no slide format" in found["broken"]["reason"]
    small = found["CMU-1-Small-Region"]
    assert small["stated"]["objective"] == 20
    assert small["stated"]["vendor"] == "aperio"
    assert small["mpp"] == pytest.approx(0.499)
    assert (
        0.3 < small["tissue_mm2"] / (2220 * 2967 * 0.499**2 / 1e6) < 0.5
    )  # by eye: a band of skin over two fifths of the picture
    assert small["tissue_mm2"] > 0.9 * small["tiles"] * 0.128**2
    assert kinds(small) == set()
    assert {kind for kind, _ in found["dicom_sm_image"]["warnings"]} >= {"few"}
