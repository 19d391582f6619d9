"""Where packed images come from: COCO files, tables, terms; and mistakes in them."""

import json
import os

import pytest
from image_folders import noise, sources, summary, write_image

from pretrain.tiles import TileStore


def coco(folder, *entries, images=("0.png", "1.png", "2.png", "3.png")):
    content = {
        "images": [{"id": i, "file_name": name, "width": 32, "height": 32} for i, name in enumerate(images)],
        "categories": [{"id": 7, "name": "lymphocyte"}, {"id": 9, "name": "tumour"}],
        "annotations": [{"id": i, "image_id": image, "category_id": kind, "bbox": [0, 0, 4, 4]} for i, (image, kind) in enumerate(entries)],
    }  # fmt: skip
    path = folder.parent / "instances.json"
    path.write_text(json.dumps(content))
    return path


def test_a_flat_folder_with_a_coco_file(pack, tmp_path, capsys):
    flat = tmp_path / "train2017"
    for i in range(4):
        write_image(flat / f"{i}.png", noise(i))
    assert pack(flat, tmp_path / "plain") == 0
    assert TileStore(tmp_path / "plain").labels == []
    path = coco(flat, (0, 7), (0, 7), (1, 9), (2, 7), (2, 9))
    assert pack(flat, tmp_path / "store", f"annotations={path}") == 0
    store = TileStore(tmp_path / "store")
    found = dict(zip(sources(tmp_path / "store"), store.index["label"].tolist(), strict=True))
    assert found == {"0.png": "lymphocyte", "1.png": "tumour", "2.png": "", "3.png": ""}
    assert "1 images with annotations of several categories and 1 with none have no label" in capsys.readouterr().out


def test_a_table_names_slides_patients_and_hospitals(folder, pack, tmp_path):
    rows = [
        f"{path.relative_to(folder).as_posix()};slide {i % 3};P{i % 2};H1"
        for i, path in enumerate(sorted(folder.rglob("*.png")))
    ]
    table = tmp_path / "table.csv"
    table.write_bytes(("\ufeffimage;slide;patient;hospital\r\n" + "\r\n".join(rows)).encode())
    assert pack(folder, tmp_path / "store", f"table={table}") == 0
    store = TileStore(tmp_path / "store")
    assert store.slide_names == ["slide 0", "slide 1", "slide 2"]
    assert store.has_slides
    assert set(store.index["patient"]) == {"P0", "P1"}
    assert store.labels == ["ADI", "STR", "TUM"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,slide\nADI/ADI-0.png,a\n", "lacks 11 of the images, first ADI/ADI-1.png"),
        ("image,slide\nnothing.png,a\n", "line 2: the image 'nothing.png' is not in the folder"),
        ("image,slide\nADI/ADI-0.png,a\nADI/ADI-0.png,b\n", "line 3: the image ADI/ADI-0.png is listed twice"),
        ("image,slide\nADI/ADI-0.png,a/b\n", "cannot name a file"),
        ("slide\na\n", "needs the column image"),
    ],
)
def test_wrong_tables_of_images(folder, pack, tmp_path, text, message, capsys):
    (tmp_path / "table.csv").write_text(text)
    assert pack(folder, tmp_path / "store", f"table={tmp_path / 'table.csv'}") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"images": [1], "annotations": [], "categories": []}', "[" * 10_000,
                                     '{"images": [{"id": 0, "file_name": "no.png"}], "annotations": [], "categories": []}'])  # fmt: skip
def test_wrong_coco_files(folder, pack, tmp_path, content, capsys):
    (tmp_path / "x.json").write_text(content)
    assert pack(folder, tmp_path / "store", f"annotations={tmp_path / 'x.json'}") == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_mistakes_are_one_sentence_and_leave_nothing(folder, pack, tmp_path, capsys):
    (tmp_path / "none").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.doc").write_text("dear")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "a.png").write_text("no")
    assert pack(folder, tmp_path / "done") == 0
    capsys.readouterr()
    for source, store, more, message in (
        (tmp_path / "nowhere", tmp_path / "s", [], "is not a folder"),
        (tmp_path / "none", tmp_path / "s", [], "holds no image"),
        (folder, folder / "store", [], "would lie among the images"),
        (folder, folder, [], "would lie among the images"),
        (folder, tmp_path / "full", [], "holds something else than a packed store"),
        (folder, tmp_path / "done", ["tile=16"], "with other settings"),
        (folder, tmp_path / "s", ["tile=7"], "tile=7 does not fit"),
        (folder, tmp_path / "s", ["mpp=nan"], "mpp=nan does not fit"),
        (folder, tmp_path / "s", ["encoding=gif"], "choose jpeg or png"),
        (folder, tmp_path / "s", ["til=16"], "did you mean 'tile'"),
        (broken, tmp_path / "b", ["tile=32"], "none of the 1 images could be packed; a.png cannot be decoded"),
    ):
        assert pack(source, store, *more) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert not (tmp_path / "s").exists()
    assert (tmp_path / "full" / "thesis.doc").read_text() == "dear"
    assert not (tmp_path / "b" / "store.json").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_without_permission_is_tried_again(folder, pack, tmp_path):
    (folder / "ADI" / "ADI-0.png").chmod(0)
    assert pack(folder, tmp_path / "store") == 3
    (folder / "ADI" / "ADI-0.png").chmod(0o644)
    assert pack(folder, tmp_path / "store") == 0


def test_synthetic_images_stay_marked_and_terms_flow(folder, pack, tmp_path):
    (folder.parent / "cohort.yaml").write_text("name: made\nrehearsal: true\nlicence: CC0\ncite: us\n")
    assert pack(folder, tmp_path / "store") == 0
    found = summary(tmp_path / "store")
    assert (found["rehearsal"], found["licence"], found["cite"], found["cohort"]) == (True, "CC0", "us", "images")


def test_no_manifest_and_no_split_is_made_of_images_without_slides(folder, pack, tmp_path, capsys):
    from pretrain import __main__ as pretrain
    from results.errors import UserError
    from transfer.tasks.tile_labels import TileLabels, load_tile_task

    assert pack(folder, tmp_path / "store") == 0
    assert pretrain.main(["manifest", "write", f"store={tmp_path / 'store'}", f"out={tmp_path / 'm.parquet'}"]) == 2
    assert "holds packed images" in capsys.readouterr().err
    with pytest.raises(UserError, match="slides and patients are unknown"):
        load_tile_task(TileLabels(), TileStore(tmp_path / "store"), 3, 0)
