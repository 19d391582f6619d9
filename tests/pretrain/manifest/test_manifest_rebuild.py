"""From a manifest back to the store, and how every change on the way is told."""

import copy
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pretrain.annotations import LesionRule
from pretrain.cohorts import Cohort, open_cohort
from pretrain.cohorts.camelyon16 import open_camelyon16
from pretrain.config import load
from pretrain.manifest.command import command
from pretrain.manifest.differences import DECODER, LABELS, MISSING, PIXELS, RULE, SLIDE, TILES, compare
from pretrain.manifest.file import Manifest, manifest_id, read_manifest, write_manifest
from pretrain.manifest.make import from_store, rebuild_job
from pretrain.stores import with_manifest
from pretrain.tiles import TileStore
from pretrain.tiling import Tiling, job, reader, receipts, wanted
from pretrain.tiling.run import tile_cohort
from results.errors import UserError
from results.settings import split_overrides

pytestmark = pytest.mark.slow  # its slides are made and tiled


def rebuilt(manifest: Manifest, cohort: Cohort, work: Path) -> TileStore:
    chosen, rebuild = rebuild_job(manifest, cohort)
    return tile_cohort(chosen, manifest.tiling, work, workers=0, progress=False, rebuild=rebuild)


def with_facts(manifest: Manifest, tiles=None, **facts: object) -> Manifest:
    changed = manifest.facts | facts
    return Manifest(changed | {"id": manifest_id(changed)}, manifest.tiles if tiles is None else tiles)


@pytest.fixture
def moved(slides: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(slides, tmp_path / "moved"))


def test_the_identical_store_in_another_folder(
    store: TileStore, manifest: Manifest, moved: Path, tmp_path: Path
) -> None:
    (moved / "labels.csv").unlink()
    (moved / "cohort.csv").write_text(
        "slide,path\n" + "".join(f"{name},slides/{name}.tif\n" for name in reversed(store.slide_names))
    )
    again = rebuilt(manifest, open_cohort(moved), tmp_path / "work")
    assert again.root != store.root
    assert again.digest == store.digest
    assert (again.root / "tiles.parquet").read_bytes() == (store.root / "tiles.parquet").read_bytes()
    assert (again.labels, again.rehearsal, again.summary["manifest"]) == (store.labels, True, manifest.facts["id"])
    for i in (0, len(store) - 1):
        np.testing.assert_array_equal(again.read(i), store.read(i))
    assert from_store(again, licence="Apache-2.0", cite="the generator").facts["id"] == manifest.facts["id"]
    before = (again.root / "store.json").stat().st_mtime_ns
    assert rebuilt(manifest, open_cohort(moved), tmp_path / "work").digest == store.digest
    assert (again.root / "store.json").stat().st_mtime_ns == before
    assert compare(manifest, from_store(again)).same_tiles


def test_a_part_of_a_store(store: TileStore, cohort: Cohort, tmp_path: Path) -> None:
    slides = store.summary["slides"]
    parts = {name: {**entry, "part": "test" if i else "train"} for i, (name, entry) in enumerate(slides.items())}
    store.summary["slides"] = parts
    manifest = from_store(store, "train")
    store.summary["slides"] = slides
    assert manifest.slide_names == store.slide_names[:1]
    again = rebuilt(manifest, cohort, tmp_path)
    assert again.digest == manifest.facts["store_digest"] != store.digest
    assert len(again) == store.summary["slides"][store.slide_names[0]]["tiles"]


@pytest.mark.parametrize(("place", "reason"), [(0.5, "its sha256 is"), (0.0001, "its sha256 is|first and last MiB")])
def test_a_changed_slide_is_named(
    store: TileStore, manifest: Manifest, moved: Path, tmp_path: Path, place: float, reason: str
) -> None:
    name = store.slide_names[1]
    path = moved / "slides" / f"{name}.tif"
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 1
    path.write_bytes(content)
    again = rebuilt(manifest, open_cohort(moved), tmp_path / "work")
    assert [slide for slide, _ in again.failed] == [name]
    assert f"slide {name} is not the file of the manifest" in again.failed[0][1]
    assert again.slide_names == [store.slide_names[0], store.slide_names[2]]


def test_the_cheap_fingerprint_and_the_whole_digest(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(3 * 2**20))
    facts = wanted.file_ends(path) | {"slide_digest": "0" * 64}
    wanted.check_file("a", path, facts)
    for place, sentence in ((0, "first and last MiB"), (3 * 2**20 - 1, "first and last MiB"), (2**20 + 5, None)):
        content = bytearray(3 * 2**20)
        content[place] = 1
        path.write_bytes(content)
        if sentence:
            with pytest.raises(Exception, match=sentence):
                wanted.check_file("a", path, facts)
        else:
            wanted.check_file("a", path, facts)  # the middle is seen by the whole digest alone
            with pytest.raises(Exception, match="its sha256 is"):
                wanted.check_digest("a", "1" * 64, facts)
    path.write_bytes(bytes(100))
    with pytest.raises(Exception, match="its bytes differ: 100 instead of 3145728"):
        wanted.check_file("a", path, facts)


def test_a_slide_that_is_not_there(store: TileStore, manifest: Manifest, moved: Path, tmp_path: Path) -> None:
    lines = (moved / "cohort.csv").read_text().splitlines()
    (moved / "cohort.csv").write_text("\n".join(lines[:-1]) + "\n")
    again = rebuilt(manifest, open_cohort(moved), tmp_path / "work")
    assert [slide for slide, _ in again.failed] == [store.slide_names[2]]
    assert "not in the cohort" in again.failed[0][1]


def test_other_pixels_name_slide_tile_and_library(
    store: TileStore, manifest: Manifest, cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = reader.SlideReader.read_tile

    def changed(self: reader.SlideReader, x0: int, y0: int, plan: reader.TilePlan) -> np.ndarray:
        pixels = real(self, x0, y0, plan).copy()
        if (x0, y0) == (int(store.index["x0"][5]), int(store.index["y0"][5])):
            pixels[0, 0] ^= 1
        return pixels

    other = copy.deepcopy(receipts.decoder_receipt())
    other["versions"]["libjpeg-turbo"] = "2.0.0"
    with monkeypatch.context() as patch:
        patch.setattr(reader.SlideReader, "read_tile", changed)
        patch.setattr(reader.SlideReader, "canary", lambda _: "1" * 64)
        patch.setattr(wanted, "decoder_receipt", lambda: other)
        again = rebuilt(manifest, cohort, tmp_path / "decoder")
    name = store.slide_names[0]
    reason = dict(again.failed)[name]
    tile = f"{store.index['grid_x'][5]}_{store.index['grid_y'][5]}"
    assert f"slide {name}: 1 of {store.summary['slides'][name]['tiles']} tiles" in reason
    assert f"first tile {tile}" in reason
    assert "the decoder is another one (libjpeg-turbo" in reason
    other["canaries"]["resized"] = "0" * 64
    with monkeypatch.context() as patch:
        patch.setattr(reader.SlideReader, "read_tile", changed)
        patch.setattr(wanted, "decoder_receipt", lambda: other)
        again = rebuilt(manifest, cohort, tmp_path / "resampling")
    assert "resampling is not" in dict(again.failed)[name]


def test_a_tile_off_the_grid_is_named(store: TileStore, manifest: Manifest, cohort: Cohort, tmp_path: Path) -> None:
    x0 = manifest.column("x0").copy()
    x0[3] += 1
    tiles = manifest.tiles.set_column(manifest.tiles.schema.get_field_index("x0"), "x0", [x0])
    again = rebuilt(with_facts(manifest, tiles), cohort, tmp_path)
    assert f"tile {store.index['grid_x'][3]}_{store.index['grid_y'][3]} of the manifest" in again.failed[0][1]


def test_diff_tells_a_changed_slide(manifest: Manifest) -> None:
    slides = copy.deepcopy(manifest.facts["slides"])
    name = manifest.slide_names[0]
    slides[name] |= {"slide_digest": "0" * 64, "canary": "1" * 64}
    found = compare(manifest, with_facts(manifest, slides=slides))
    assert list(found.slides) == [name]
    assert list(found.slides[name]) == [SLIDE]
    assert "changed slide: 1 slide(s)" in "\n".join(found.lines())


def test_diff_tells_a_changed_library_with_and_without_other_pixels(manifest: Manifest) -> None:
    receipt = copy.deepcopy(next(iter(manifest.facts["receipts"].values())))
    receipt["versions"]["libtiff"] = "3.9"
    slides = {name: {**slide, "receipt": "x"} for name, slide in manifest.facts["slides"].items()}
    found = compare(manifest, with_facts(manifest, receipts={"x": receipt}, slides=slides))
    assert found.same_tiles
    (line,) = found.lines()
    assert line.startswith(f"{DECODER}: libtiff ")
    assert line.endswith("the pixels of the canaries are the same")

    receipt["canaries"]["jpeg"] = "0" * 64
    slides = {name: {**slide, "canary": "1" * 64} for name, slide in slides.items()}
    found = compare(manifest, with_facts(manifest, receipts={"x": receipt}, slides=slides))
    assert {kind for kinds in found.slides.values() for kind in kinds} == {DECODER}
    assert len(found.slides) == 3
    assert "warning: 3 of 3 slides that both hold decoded to different pixels" in found.lines()[0]


def test_diff_tells_a_changed_rule(store: TileStore, manifest: Manifest, cohort: Cohort, tmp_path: Path) -> None:
    fewer = from_store(
        tile_cohort(cohort, Tiling(tile=64, mpp=0.7, min_tissue=0.9), tmp_path, workers=0, progress=False)
    )
    found = compare(manifest, fewer)
    assert f"{RULE}: tiling.min_tissue 0.5 -> 0.9" in found.general
    assert {kind for kinds in found.slides.values() for kind in kinds} == {RULE}
    lost = sum(int(kinds[RULE].split()[0].lstrip("-")) for kinds in found.slides.values())
    assert lost == len(store) - len(fewer.tiles)


def test_diff_tells_what_no_setting_explains(manifest: Manifest) -> None:
    tiles = manifest.tiles.slice(0, len(manifest.tiles) - 2)
    last = manifest.slide_names[-1]
    slides = copy.deepcopy(manifest.facts["slides"])
    slides[last]["tiles"] -= 2
    found = compare(manifest, Manifest(manifest.facts | {"slides": slides}, tiles))
    assert found.slides == {last: {TILES: "-2 +0 tile(s)"}}

    digest = manifest.tiles.column("digest").to_pylist()
    digest[0] = bytes(16)
    at = manifest.tiles.schema.get_field_index("digest")
    digest = pa.array(digest, pa.binary(16))
    found = compare(manifest, Manifest(manifest.facts, manifest.tiles.set_column(at, "digest", digest)))
    assert found.slides == {manifest.slide_names[0]: {PIXELS: "1 tile(s)"}}

    x0 = manifest.column("x0").copy()
    x0[0] -= 64
    at = manifest.tiles.schema.get_field_index("x0")
    found = compare(manifest, Manifest(manifest.facts, manifest.tiles.set_column(at, "x0", [x0])))
    assert not found.same_tiles
    assert found.slides == {manifest.slide_names[0]: {TILES: "1 tile(s) at other places of the slide"}}

    label = manifest.column("label").copy()
    label[0] = (label[0] + 1) % 2
    at = manifest.tiles.schema.get_field_index("label")
    found = compare(manifest, Manifest(manifest.facts, manifest.tiles.set_column(at, "label", [label])))
    assert found.slides == {manifest.slide_names[0]: {LABELS: "1"}}

    slides = {name: slide for name, slide in manifest.facts["slides"].items() if name != last}
    kept = manifest.tiles.slice(0, int((manifest.column("slide") < 2).sum()))
    less = Manifest(manifest.facts | {"slides": slides}, kept)
    assert compare(manifest, less).slides == {last: {MISSING[0]: ""}}
    assert compare(less, manifest).slides == {last: {MISSING[1]: ""}}


def test_diff_as_a_command(
    manifest: Manifest, manifest_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(["diff", str(manifest_file), str(manifest_file)]) == 0
    assert "no difference" in capsys.readouterr().out
    slides = copy.deepcopy(manifest.facts["slides"])
    slides[manifest.slide_names[0]]["slide_digest"] = "0" * 64
    write_manifest(tmp_path / "b", with_facts(manifest, slides=slides))
    assert command(["diff", str(manifest_file), str(tmp_path / "b")]) == 1
    assert f"changed slide: 1 slide(s): {manifest.slide_names[0]}" in capsys.readouterr().out


@pytest.fixture
def camelyon(slides: Path, tmp_path: Path) -> Path:
    """The synthetic slides in the layout of Camelyon16: one normal, one annotated, one partly annotated."""
    root = tmp_path / "c16"
    (root / "images").mkdir(parents=True)
    (root / "annotations").mkdir()
    (root / "cohort.yaml").write_text("rehearsal: true\n")
    for path, name in zip(sorted((slides / "slides").iterdir()), ("normal_001", "tumor_002", "tumor_010"), strict=True):
        (root / f"images/{name}.tif").symlink_to(path)
        if name != "normal_001":
            shutil.copy(slides / f"camelyon16/annotations/{path.stem}.xml", root / f"annotations/{name}.xml")
    return root


def test_camelyon16_end_to_end(camelyon: Path, store: TileStore, tmp_path: Path) -> None:
    from pretrain.job import run

    settings = [
        "cohort=camelyon16",
        f"root={camelyon}",
        f"work={tmp_path / 'work'}",
        "tile=64",
        "mpp=0.7",
        "tiling.workers=0",
    ]
    assert run(["tile", *settings]) == 0
    made = TileStore(next((tmp_path / "work/tiles").iterdir()))
    assert (made.summary["cohort"], made.rehearsal, made.labels) == ("camelyon16-train", True, ["normal", "tumor"])
    rule = {
        "kind": "lesion outlines",
        "rule": "centre",
        "centre": 1 / 3,
        "min_share": 0.5,
        "label": "tumor",
        "version": 1,
    }
    assert made.summary["label_rule"] == rule
    assert "213 of 216 slides of train not there" in made.summary["notes"][0]
    slides = made.summary["slides"]
    assert {slide["part"] for slide in slides.values()} == {"train"}
    assert "partly annotated" in slides["tumor_010"]["remark"]
    label, share, code = made.index["label"], made.index["label_share"], made.slide_codes
    assert set(label[code == 0]) == {"normal"}
    assert set(label[code == 1]) == {"normal", "tumor"}
    assert set(label[code == 2]) == {"", "tumor"}
    # the outlines were traced round the truth: tiles that are mostly tumour there are tumour here
    truth, amount = store.index["label"], store.index["label_share"]
    np.testing.assert_array_equal(store.index["x0"], made.index["x0"])
    traced = code > 0
    sure = traced & (truth == "tumour") & (amount > 0.9)
    assert sure.sum() > 20
    assert (label[sure] == "tumor").mean() > 0.98
    np.testing.assert_allclose(share[sure], amount[sure], atol=0.1)

    command(["write", f"store={made.root}", f"out={tmp_path / 'm.parquet'}", "list=sgcl-pretraining"])
    manifest = read_manifest(tmp_path / "m.parquet")
    assert manifest.facts["list"]["rule"].startswith("sgcl-pretraining-1")
    assert manifest.facts["licence"] == "CC0 1.0"
    assert (
        run(
            [
                "tile",
                *settings[:2],
                f"work={tmp_path / 'again'}",
                f"manifest={tmp_path / 'm.parquet'}",
                "tiling.workers=0",
            ]
        )
        == 0
    )
    again = TileStore(next((tmp_path / "again/tiles").iterdir()))
    assert again.digest == made.digest
    assert again.summary["slides"]["tumor_010"]["remark"] == slides["tumor_010"]["remark"]


def test_diff_tells_a_changed_label_rule_from_a_changed_annotation(camelyon: Path, tmp_path: Path) -> None:
    settings = Tiling(tile=64, mpp=0.7)

    def made(work: str, rule: LesionRule) -> Manifest:
        cohort = replace(open_camelyon16(camelyon, "train", rule), notes=())
        return from_store(tile_cohort(cohort, settings, tmp_path / work, workers=0, progress=False))

    first = made("a", LesionRule())
    found = compare(first, made("b", LesionRule("any")))
    assert f"{RULE}: label_rule.rule centre -> any" in found.general
    assert {kind for kinds in found.slides.values() for kind in kinds} == {RULE}
    xml = camelyon / "annotations/tumor_002.xml"
    xml.write_text(xml.read_text().replace('PartOfGroup="Tumor"', 'PartOfGroup="_2"'))
    found = compare(first, made("c", LesionRule()))
    assert found.general == []
    assert list(found.slides) == ["tumor_002"]
    assert "the annotation differs" in found.slides["tumor_002"][LABELS]


def test_a_real_slide_goes_round(real_wsi: Path, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one/slide.svs").symlink_to(real_wsi)
    cohort = open_cohort(tmp_path / "one")
    made = tile_cohort(cohort, Tiling(mpp=1.0), tmp_path / "work", workers=0, progress=False)
    manifest = from_store(made)
    again = rebuilt(manifest, replace(cohort, root=tmp_path), tmp_path / "again")
    assert again.digest == made.digest
    assert compare(manifest, from_store(again)).lines() == ["no difference: the same tiles, pixels and labels"]
    assert job.decoder_receipt() == receipts.decoder_receipt()


def test_settings_that_contradict_the_manifest_are_refused(manifest_file: Path) -> None:
    wrong = ["mpp=1.0", "tiling.quality=50"]
    with pytest.raises(UserError, match=r"\(mpp=0\.7, tiling\.quality=90\), not mpp=1\.0, .* leave out mpp=, tiling"):
        with_manifest(load([f"manifest={manifest_file}", *wrong]), split_overrides(wrong))
    right = ["mpp=0.70", "tile=64", "mpp_override=null", "tiling.workers=0"]
    config = with_manifest(load([f"manifest={manifest_file}", *right]), split_overrides(right))
    assert (config.tile, config.mpp, config.tiling.workers) == (64, 0.7, 0)
