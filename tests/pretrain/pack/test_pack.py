"""Folders of images as tile stores: labels, sizes, damage, resumption."""

import csv
import io
import json
import os
import resource
import shlex
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from image_folders import files, noise, sources, summary, write_image
from PIL import Image

from pretrain.pack import command as packing
from pretrain.tiles import TileStore


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def boastful_png(width: int, height: int) -> bytes:
    """A PNG of 60 bytes that claims to be huge."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_class_folders_become_labels_and_pixels_are_kept(folder, pack, tmp_path):
    out = tmp_path / "store"
    assert pack(folder, out, "encoding=png", "mpp=0.5") == 0
    store = TileStore(out)
    assert (len(store), store.tile, store.mpp, store.labels) == (12, 32, 0.5, ["ADI", "STR", "TUM"])
    assert not store.has_coordinates
    assert not store.has_slides
    for tile, source in enumerate(sources(out)):
        assert store.index["label"][tile] == source.split("/")[0]
        with Image.open(folder / source) as image:
            assert np.array_equal(store.read(tile), np.asarray(image))


def test_the_command_that_pretrains_on_a_store_can_be_pasted(folder, pack, tmp_path, capsys):
    store = tmp_path / "my store (1)"
    assert pack(folder, store) == 0
    typed = capsys.readouterr().out.rpartition("pretrain on them with: ")[2]
    assert shlex.split(typed) == ["python", "-m", "pretrain", f"store={store}", "method=..."]


def test_nested_sets_take_the_folder_that_holds_the_image(folder, pack, tmp_path):
    write_image(folder / "val" / "LYM" / "x.png", noise(99))
    write_image(folder / "loose.png", noise(98))
    assert pack(folder, tmp_path / "store") == 0
    store = TileStore(tmp_path / "store")
    assert store.labels == ["ADI", "LYM", "STR", "TUM"]
    assert store.index["label"][sources(tmp_path / "store").index("loose.png")] == ""
    assert pack(folder, tmp_path / "other", "labels=none") == 0
    assert TileStore(tmp_path / "other").labels == []


def test_other_sizes_are_resized_by_the_shorter_side_and_cropped(folder, pack, tmp_path, capsys):
    ramp = np.zeros((64, 128, 3), np.uint8)
    ramp[:, 32:96] = 200  # the centred square is even
    write_image(folder / "ADI" / "wide.png", ramp)
    write_image(folder / "ADI" / "small.png", noise(5, 16, 16))
    assert pack(folder, tmp_path / "store", "encoding=png", "mpp=0.5") == 0
    store = TileStore(tmp_path / "store")
    place = sources(tmp_path / "store").index("ADI/wide.png")
    assert store.tile == 32
    assert (store.read(place)[:, 4:-4] == 200).all()
    assert store.read(place).min() > 150  # the filter of the outermost px reaches beyond the square
    assert store.index["mpp"][place] == pytest.approx(1.0)
    assert store.mpp is None
    assert "2 resized, 1 of them enlarged, 1 cropped" in capsys.readouterr().out
    assert pack(folder, tmp_path / "all", "tile=16", "mpp=0.5", "encoding=png") == 0
    assert TileStore(tmp_path / "all").tile == 16


def test_equal_scaling_gives_one_mpp(folder, pack, tmp_path):
    assert pack(folder, tmp_path / "store", "tile=16", "mpp=0.5") == 0
    assert TileStore(tmp_path / "store").mpp == pytest.approx(1.0)
    assert pack(folder, tmp_path / "unknown", "tile=16") == 0
    assert TileStore(tmp_path / "unknown").mpp is None
    assert np.isnan(TileStore(tmp_path / "unknown").index["mpp"]).all()


def test_strict_names_images_of_another_size(folder, pack, tmp_path, capsys):
    write_image(folder / "ADI" / "wide.png", noise(1, 40, 32))
    assert pack(folder, tmp_path / "store", "strict=true") == 3
    assert "image ADI/wide.png is 40 x 32 px instead of 32 x 32" in capsys.readouterr().err
    assert len(TileStore(tmp_path / "store")) == 12


def test_broken_images_are_named_and_the_rest_is_packed(folder, pack, tmp_path, capsys):
    whole = (folder / "ADI" / "ADI-0.png").read_bytes()
    (folder / "ADI" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "ADI" / "empty.jpg").write_bytes(b"")
    (folder / "ADI" / "text.tif").write_bytes(b"not an image")
    (folder / "STR" / "boast.png").write_bytes(boastful_png(100_000, 100_000))
    (folder / "STR" / "big.png").write_bytes(boastful_png(9_000, 9_000))
    Image.fromarray(np.zeros((32, 32), np.uint16)).save(folder / "STR" / "deep.png")
    write_image(folder / "STR" / "tiny.png", noise(3, 3, 3))
    assert pack(folder, tmp_path / "store") == 3
    failed = summary(tmp_path / "store")["images"]["failed"]
    assert set(failed) == {"ADI/cut.png", "ADI/empty.jpg", "ADI/text.tif", "STR/boast.png", "STR/big.png", "STR/deep.png", "STR/tiny.png"}  # fmt: skip
    assert "claims more than 67,108,864 px" in failed["STR/boast.png"]
    assert "claims 9,000 x 9,000 px" in failed["STR/big.png"]
    assert "16" in failed["STR/deep.png"]
    assert "too small" in failed["STR/tiny.png"]
    assert "7 image(s) were left out" in capsys.readouterr().err
    with open(tmp_path / "store" / "failed.csv", newline="") as file:
        assert {row["image"] for row in csv.DictReader(file)} == set(failed)
    assert len(TileStore(tmp_path / "store")) == 12
    # mended images come in, and the list of failures goes
    for path in failed:
        (folder / path).unlink()
    assert pack(folder, tmp_path / "store") == 0
    assert not (tmp_path / "store" / "failed.csv").exists()


def test_a_full_disk_is_one_sentence_and_the_next_call_goes_on(folder, pack, tmp_path, capsys):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (15_000, before[1]))  # writing beyond it fails as on a full disk
    try:
        assert pack(folder, tmp_path / "store", "workers=0") == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "cannot be written" in told
    assert not list(tmp_path.rglob("*.tmp*"))
    assert pack(folder, tmp_path / "store", "workers=0") == 0


def test_a_pipe_among_the_images_is_named_and_not_waited_for(folder, pack, tmp_path):
    os.mkfifo(folder / "ADI" / "pipe.png")
    assert pack(folder, tmp_path / "store") == 3
    assert summary(tmp_path / "store")["images"]["failed"] == {"ADI/pipe.png": "is no regular file"}


@pytest.mark.parametrize("change", [{"tile": "x"}, {"tile": None}, {"source": ...}, {"settings": ...}])
def test_a_damaged_marker_is_no_store_of_ours(folder, pack, tmp_path, capsys, change):
    assert pack(folder, tmp_path / "store") == 0
    marker = tmp_path / "store" / "pack.json"
    found = json.loads(marker.read_text()) | change
    marker.write_text(json.dumps({key: value for key, value in found.items() if value is not ...}))
    assert pack(folder, tmp_path / "store") == 2
    assert "holds something else than a packed store" in capsys.readouterr().err


def test_modes_become_rgb_on_white_and_cameras_are_turned(pack, tmp_path):
    root = tmp_path / "modes"
    root.mkdir()
    clear = np.zeros((16, 16, 4), np.uint8)
    clear[:, :8] = (200, 0, 0, 255)
    Image.fromarray(clear).save(root / "a-rgba.png")
    Image.fromarray(np.full((16, 16), 77, np.uint8)).save(root / "b-grey.png")
    Image.fromarray(noise(0, 16, 16)).quantize(4).save(root / "c-palette.png")
    turned = np.zeros((16, 16, 3), np.uint8)
    turned[:8] = 250
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(turned).save(root / "d-turned.jpg", exif=exif, quality=100, subsampling=0)
    Image.fromarray(noise(1, 16, 16)).convert("CMYK").save(root / "e-cmyk.jpg")
    assert pack(root, tmp_path / "store", "encoding=png") == 0
    store = TileStore(tmp_path / "store")
    rgba, grey, _, camera, _ = (store.read(i) for i in range(5))
    assert (rgba[:, :8] == (200, 0, 0)).all()
    assert (rgba[:, 8:] == 255).all()
    assert (grey == 77).all()
    assert camera[:, 9:].min() > 200
    assert camera[:, :7].max() < 50


def test_jpegs_of_the_right_size_are_kept_as_they_are(pack, tmp_path, capsys):
    path = write_image(tmp_path / "jpegs" / "x" / "a.jpg", noise(0), quality=80)
    write_image(tmp_path / "jpegs" / "x" / "b.jpg", noise(0, 64, 64), quality=80)
    assert pack(path.parents[1], tmp_path / "store", "tile=32") == 0
    store = TileStore(tmp_path / "store")
    assert store.encoded(0) == path.read_bytes()
    assert store.encoded(1)[:2] == b"\xff\xd8"
    assert "1 kept as the JPEG they were" in capsys.readouterr().out


def test_equal_images_are_reported_with_their_labels(folder, pack, tmp_path, capsys):
    write_image(folder / "TUM" / "again.png", noise(0))  # the pixels of ADI-0, other bytes or not
    write_image(folder / "ADI" / "bmp.bmp", noise(1))
    assert pack(folder, tmp_path / "store", "encoding=png") == 0
    found = summary(tmp_path / "store")["images"]["duplicates"]
    assert (found["sets"], found["images"], found["other_labels"]) == (2, 4, 1)
    assert ["ADI/ADI-0.png", "TUM/again.png"] in found["first"]
    assert "2 sets of equal images (4 images; 1 sets under several labels)" in capsys.readouterr().out


def test_the_same_call_does_nothing_and_the_same_images_give_the_same_store(folder, pack, tmp_path):
    assert pack(folder, tmp_path / "a") == 0
    before = files(tmp_path / "a")
    assert pack(folder, tmp_path / "a") == 0
    assert files(tmp_path / "a") == before
    assert pack(folder, tmp_path / "b") == 0
    assert summary(tmp_path / "a")["digest"] == summary(tmp_path / "b")["digest"]


def test_a_stopped_call_goes_on_and_a_new_image_redoes_only_its_group(folder, pack, tmp_path, monkeypatch):
    monkeypatch.setattr("pretrain.pack.sources.IMAGES_A_GROUP", 3)
    done = []
    work = packing.pack_group

    def stopping(group):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(group.name)
        return work(group)

    monkeypatch.setattr(packing, "pack_group", stopping)
    assert pack(folder, tmp_path / "store") == 130
    assert not (tmp_path / "store" / "store.json").exists()
    monkeypatch.setattr(packing, "pack_group", lambda group: done.append(group.name) or work(group))
    assert pack(folder, tmp_path / "store") == 0
    assert len(done) == len(set(done)) == 4
    digest = summary(tmp_path / "store")["digest"]
    assert pack(folder, tmp_path / "fresh") == 0
    assert summary(tmp_path / "fresh")["digest"] == digest
    done.clear()
    write_image(folder / "ADI" / "ADI-3.png", noise(77))
    assert pack(folder, tmp_path / "store") == 0
    assert len(done) == 1
    assert summary(tmp_path / "store")["digest"] != digest


def test_the_own_size_of_a_store_stays(folder, pack, tmp_path):
    assert pack(folder, tmp_path / "store") == 0
    for i in range(30):
        write_image(folder / "ADI" / f"more-{i}.png", noise(100 + i, 48, 48))
    assert pack(folder, tmp_path / "store") == 0
    assert TileStore(tmp_path / "store").tile == 32


def test_several_processes_make_the_same_store(folder, pack, tmp_path, monkeypatch):
    from pretrain import __main__ as pretrain

    monkeypatch.setattr("pretrain.pack.sources.IMAGES_A_GROUP", 6)
    assert pack(folder, tmp_path / "here") == 0
    assert pretrain.main(["pack", str(folder), str(tmp_path / "two"), "workers=2"]) == 0
    assert summary(tmp_path / "two")["digest"] == summary(tmp_path / "here")["digest"]


def test_real_tiles_and_a_real_crop(real_data, pack, tmp_path):
    assert pack(real_data / "nct-crc", tmp_path / "nct", "encoding=png", "mpp=0.5", "strict=true") == 0
    store = TileStore(tmp_path / "nct")
    assert (len(store), store.tile) == (12, 224)
    assert store.labels == ["ADI", "BACK", "DEB", "LYM", "MUC", "MUS", "NORM", "STR", "TUM"]
    for tile, source in enumerate(sources(tmp_path / "nct")):
        with Image.open(io.BytesIO((real_data / "nct-crc" / source).read_bytes())) as image:
            assert np.array_equal(store.read(tile), np.asarray(image))
    assert pack(real_data / "he-images", tmp_path / "he", "tile=256", "mpp=0.227") == 0
    assert 120 < TileStore(tmp_path / "he").read(0).mean() < 220
    assert TileStore(tmp_path / "he").mpp == pytest.approx(0.227 * 1101 / 256)


def test_jpeg_tiles_that_call_themselves_rgb_are_read(pack, tmp_path):
    """What QuPath and Bio-Formats export: YCbCr JPEGs, subsampled, in a TIFF of photometric RGB."""
    smooth = np.asarray(Image.fromarray(noise(3, 4, 4)).resize((64, 64), Image.Resampling.BICUBIC))
    parts = []
    for y in (0, 32):
        for x in (0, 32):
            buffer = io.BytesIO()
            Image.fromarray(smooth[y : y + 32, x : x + 32]).save(buffer, "JPEG", quality=95, subsampling=2)
            parts.append(buffer.getvalue())
    root = tmp_path / "tiff"
    root.mkdir()
    entries = [(256, 4, [60]), (257, 4, [50]), (258, 3, [8, 8, 8]), (259, 3, [7]), (262, 3, [2]), (277, 3, [3]), (284, 3, [1]),
               (322, 4, [32]), (323, 4, [32]), (324, 4, None), (325, 4, [len(p) for p in parts])]  # fmt: skip
    at = 8 + 2 + 12 * len(entries) + 4
    extra, rows, places = b"", [], []
    for part in parts:
        places.append(at + len(extra))
        extra += part
    for tag, kind, values in entries:
        data = struct.pack(f"<{len(values or places)}{'IH'[kind == 3]}", *(values or places))
        if len(data) > 4:
            rows.append(struct.pack("<HHII", tag, kind, len(values or places), at + len(extra)))
            extra += data
        else:
            rows.append(struct.pack("<HHI", tag, kind, 1) + data.ljust(4, b"\0"))
    content = b"II*\0" + struct.pack("<IH", 8, len(rows)) + b"".join(rows) + bytes(4) + extra
    (root / "crop.tif").write_bytes(content)
    assert pack(root, tmp_path / "store", "tile=50", "encoding=png") == 0
    found = TileStore(tmp_path / "store").read(0).astype(int)
    assert np.abs(found - smooth[:50, 5:55]).mean() < 6
    (root / "crop.tif").write_bytes(content[: at + 20])
    assert pack(root, tmp_path / "cut", "tile=50") == 2


@pytest.mark.slow
def test_boasting_images_cost_neither_time_nor_memory(tmp_path):
    root = tmp_path / "boast"
    root.mkdir()
    (root / "a.png").write_bytes(boastful_png(100_000, 100_000))
    (root / "b.png").write_bytes(boastful_png(8_190, 8_190))
    limited = "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)); from pretrain.__main__ import main; sys.exit(main(sys.argv[1:]))"
    line = [sys.executable, "-c", limited, "pack", str(root), str(tmp_path / "s"), "tile=32", "workers=0"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
