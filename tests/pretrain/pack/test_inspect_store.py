"""Looking into stores and taking them out again."""

import csv
import hashlib
import io
import json
import shutil
import tarfile

import numpy as np
import pytest
from image_folders import noise, write_image
from PIL import Image

from pretrain import __main__ as pretrain
from pretrain.store_export import _safe_names
from pretrain.tiles import TileStore, shard_path


def inspect(store, *settings):
    return pretrain.main(["inspect", str(store), *settings])


@pytest.fixture
def lossless(folder, pack, tmp_path):
    write_image(folder / "a b.c" / "x.png", noise(50))
    write_image(folder / "loose.png", noise(51))
    assert pack(folder, tmp_path / "lossless", "encoding=png") == 0
    return tmp_path / "lossless"


def test_counts_shares_slides_and_digest(lossless, capsys):
    capsys.readouterr()
    assert inspect(lossless, "sheet=none") == 0
    text = capsys.readouterr().out
    assert "14 tiles of 32 px at um/px unknown" in text
    assert "groups of images, whose slides are unknown" in text
    shares = {tuple(line.split()) for line in text.splitlines()}
    assert {("STR", "4", "28.6%"), ("(none)", "1", "7.1%")} <= shares
    assert "images-00000" in text
    assert TileStore(lossless).digest in text
    assert "digest of the index: right" in text
    assert not (lossless / "contact-sheet.png").exists()


def test_the_sheet_shows_every_tile_of_a_small_store(lossless):
    assert inspect(lossless) == 0
    store = TileStore(lossless)
    with Image.open(lossless / "contact-sheet.png") as image:
        assert image.size == (12 * 112, 2 * 136)
        shown = np.asarray(image)
    for tile in range(14):
        y, x = tile // 12 * 136 + 2, tile % 12 * 112 + 2
        picture = np.asarray(Image.fromarray(store.read(tile)).resize((108, 108), Image.Resampling.BOX))
        assert np.array_equal(shown[y : y + 108, x : x + 108], picture)


def test_the_sheet_of_a_large_store_is_bounded(packed, tmp_path, monkeypatch):
    monkeypatch.setattr("pretrain.inspect.ROWS", 2)
    assert inspect(packed, f"sheet={tmp_path / 's.png'}") == 0
    with Image.open(tmp_path / "s.png") as image:
        assert image.size == (12 * 112, 2 * 136)


def test_verify_hashes_tiles_and_names_damage(lossless, packed, capsys):
    capsys.readouterr()
    assert inspect(lossless, "verify=true", "sheet=none") == 0
    out = capsys.readouterr().out
    assert "14 tiles decoded, 14 have the pixels of their digest; 1 of 1 shards compared" in out
    shard = shard_path(lossless, "images-00000")
    content = bytearray(shard.read_bytes())
    place = TileStore(lossless).encoded(3)
    at = content.find(place)
    content[at + len(place) // 2] ^= 0xFF
    shard.write_bytes(content)
    assert inspect(lossless, "verify=true") == 3
    assert "damaged: " in capsys.readouterr().err
    assert inspect(packed, "verify=true", "sheet=none") == 0
    assert "before encoding" in capsys.readouterr().out


def test_verify_notices_a_flipped_bit_in_a_jpeg_shard(packed, tmp_path, capsys):
    store = tmp_path / "store"
    shutil.copytree(packed, store)
    shard = shard_path(store, "images-00000")
    content = bytearray(shard.read_bytes())
    place = TileStore(store).encoded(3)
    content[content.find(place) + len(place) // 2] ^= 0x01
    shard.write_bytes(content)
    assert inspect(store, "verify=true", "sheet=none") == 3
    assert "its sha256 differs" in capsys.readouterr().err


def test_a_changed_index_is_noticed_without_verify(packed, tmp_path, capsys):
    import pyarrow as pa
    import pyarrow.parquet as pq

    store = tmp_path / "store"
    shutil.copytree(packed, store)
    table = pq.read_table(store / "tiles.parquet")
    labels = table.column("label").to_pylist()
    column = table.schema.get_field_index("label")
    table = table.set_column(column, "label", pa.array(labels[::-1]))
    pq.write_table(table, store / "tiles.parquet")
    assert inspect(store, "sheet=none") == 3
    assert "is not what store.json was written for" in capsys.readouterr().out


def test_plain_folders_by_label_hold_the_very_bytes(lossless, tmp_path):
    out = tmp_path / "plain"
    assert inspect(lossless, "export=folders", f"out={out}") == 0
    store = TileStore(lossless)
    with open(out / "index.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(store) == sum(1 for _ in out.rglob("*.png"))
    assert {row["path"].split("/")[0] for row in rows} == {"ADI", "STR", "TUM", "a-b.c", "unlabelled"}
    for row in rows:
        assert (out / row["path"]).read_bytes() == store.encoded(int(row["tile"]))
        assert row["label"] == store.index["label"][int(row["tile"])]
    facts = json.loads((out / "export.json").read_text())
    assert facts["done"]
    assert facts["store_digest"] == store.digest


def test_a_packed_export_gives_the_same_tiles_again(lossless, pack, tmp_path):
    assert inspect(lossless, "export=folders", f"out={tmp_path / 'plain'}") == 0
    assert pack(tmp_path / "plain", tmp_path / "again", "encoding=png", "labels=none") == 0
    first, again = TileStore(lossless), TileStore(tmp_path / "again")
    assert set(first.index["digest"]) == set(again.index["digest"])


def test_folders_by_slide_of_a_store_of_slides(tmp_path):
    from pretrain.cohorts import open_cohort, rehearsal
    from pretrain.tiling import Tiling
    from pretrain.tiling.run import tile_cohort

    root = rehearsal.generate(tmp_path / "cohort", slides=3, size_px=1024, processes=1)
    store = tile_cohort(open_cohort(root), Tiling(tile=128, mpp=0.7), tmp_path / "work", workers=0, progress=False)
    assert inspect(store.root, "verify=true") == 0
    assert inspect(store.root, "export=folders", "by=slide", f"out={tmp_path / 'out'}") == 0
    assert {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()} == set(store.slide_names)
    x, y = store.index["grid_x"][0], store.index["grid_y"][0]
    assert (
        tmp_path / "out" / store.slide_names[0] / f"{store.slide_names[0]}_{x}_{y}.jpg"
    ).read_bytes() == store.encoded(0)
    with open(tmp_path / "out" / "index.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["patient"] for row in rows} == set(store.index["patient"])
    assert json.loads((tmp_path / "out" / "export.json").read_text())["store"]["rehearsal"] is True


def shards(out):
    found = {}
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(path) as tar:
            names = tar.getnames()
            assert [name.partition(".")[0] for name in names[::2]] == [name.partition(".")[0] for name in names[1::2]]
            for name in names:
                found.setdefault(name.partition(".")[0], {})[name.partition(".")[2]] = tar.extractfile(name).read()
    return found


def test_webdataset_shards_hold_tiles_and_facts_once(lossless, tmp_path):
    out = tmp_path / "wds"
    assert inspect(lossless, "export=webdataset", f"out={out}", "shard=4") == 0
    assert [path.name for path in sorted(out.glob("*.tar"))] == [f"tiles-{i:06d}.tar" for i in range(4)]
    store, found = TileStore(lossless), shards(out)
    assert len(found) == 14
    for key, parts in found.items():
        tile, facts = int(key), json.loads(parts["json"])
        assert parts["png"] == store.encoded(tile)
        assert facts["label"] == store.index["label"][tile]
        assert facts["label_code"] == store.label_codes[tile]
        assert facts["tissue"] is None
        with Image.open(io.BytesIO(parts["png"])) as image:
            assert hashlib.sha256(np.asarray(image).tobytes()).hexdigest() == facts["digest"]


def test_shards_are_drawn_by_the_seed_and_the_same_each_time(lossless, tmp_path):
    for name, more in (("a", []), ("b", []), ("c", ["seed=1"]), ("d", ["shuffle=false"])):
        assert inspect(lossless, "export=webdataset", f"out={tmp_path / name}", "shard=5", *more) == 0
    contents = {name: (tmp_path / name / "tiles-000000.tar").read_bytes() for name in "abcd"}
    assert contents["a"] == contents["b"]
    assert len({contents[name] for name in "acd"}) == 3
    assert list(shards(tmp_path / "d")) == [f"{i:09d}" for i in range(14)]


@pytest.mark.parametrize("form", ["folders", "webdataset"])
def test_a_stopped_export_goes_on(form, lossless, tmp_path, monkeypatch):
    out, reads = tmp_path / "out", []
    whole = TileStore.encoded

    def stopping(self, tile):
        if len(reads) == 9:
            raise KeyboardInterrupt
        reads.append(tile)
        return whole(self, tile)

    monkeypatch.setattr(TileStore, "encoded", stopping)
    settings = [f"export={form}", f"out={out}", "shard=4"]
    assert inspect(lossless, *settings) == 130
    assert not list(out.rglob("*.tmp*"))
    monkeypatch.setattr(TileStore, "encoded", lambda self, tile: reads.append(tile) or whole(self, tile))
    assert inspect(lossless, *settings) == 0
    assert len(reads) <= 14 + 4
    if form == "webdataset":
        assert len(shards(out)) == 14
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert inspect(lossless, *settings) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_mistakes_are_one_sentence(lossless, tmp_path, capsys, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").write_text("")
    assert inspect(lossless, "export=folders", f"out={tmp_path / 'done'}") == 0
    capsys.readouterr()
    for arguments, message in (
        (["verify=true"], "inspect needs the folder"),
        ([tmp_path / "nowhere"], "does not exist"),
        ([lossless, "export=folders"], "give both"),
        ([lossless, "out=x"], "give both"),
        ([lossless, "export=zip", "out=x"], "export=folders or export=webdataset"),
        ([lossless, "export=folders", f"out={tmp_path / 'full'}"], "holds something else"),
        ([lossless, "export=webdataset", f"out={tmp_path / 'done'}"], "holds something else"),
        ([lossless, "export=folders", f"out={tmp_path / 'new'}", "by=stain"], "choose label or slide"),
        ([lossless, "shard=0"], "shard=0"),
        ([lossless, "sheet=x.jpg"], "must end in .png"),
        ([lossless, "verfy=true"], "did you mean 'verify'"),
    ):
        assert pretrain.main(["inspect", *map(str, arguments)]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr("pretrain.store_export.RESERVE", 1e15)
    assert inspect(lossless, "export=folders", f"out={tmp_path / 'huge'}") == 2
    assert "GiB free" in capsys.readouterr().err


def test_names_of_folders_are_safe_and_different():
    names = ["../up", "a/b", "a-b", "A-B", "..", "", "tumör", "x" * 300]
    safe = _safe_names(names)
    assert len({name.casefold() for name in safe.values()}) == len(names)
    assert not any("/" in name or name.startswith(".") or not name or len(name) > 200 for name in safe.values())
    assert safe[""] == "unlabelled"
