import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pretrain.manifest import file
from pretrain.manifest.file import Manifest, manifest_id, read_manifest, write_manifest
from pretrain.manifest.make import from_store
from pretrain.tiles import TileStore
from results.errors import UserError

pytestmark = pytest.mark.slow  # its slides are made and tiled


def test_a_manifest_says_all_of_a_store(store: TileStore, manifest: Manifest) -> None:
    facts = manifest.facts
    assert (facts["tiles"], facts["rehearsal"], facts["store_digest"]) == (len(store), True, store.digest)
    assert facts["tiling"]["mpp"] == 0.7
    assert facts["tissue"]["chroma_floor"] == 0.02
    assert facts["label_rule"] == {"kind": "largest area of the code mask", "version": 1}
    assert (facts["licence"], facts["cite"]) == ("Apache-2.0", "the generator")
    assert "openslide-python" in facts["store_versions"]
    slide = facts["slides"][store.slide_names[0]]
    assert {
        "slide_digest",
        "bytes",
        "ends_digest",
        "canary",
        "receipt",
        "level",
        "mpp",
        "patient",
        "hospital",
    } <= slide.keys()
    assert slide["hospital"] == "H1"
    assert facts["receipts"][slide["receipt"]]["versions"]["openslide"]
    for name in ("x0", "y0", "grid_x", "grid_y", "tissue", "label_share", "level"):
        np.testing.assert_array_equal(manifest.column(name), store.index[name])
    np.testing.assert_array_equal(manifest.column("slide"), store.slide_codes)
    np.testing.assert_array_equal(manifest.column("label"), store.label_codes)
    assert [d.tobytes().hex() for d in manifest.digests] == [d[:32].decode() for d in store.index["digest"]]


def test_it_is_small_and_compressed(manifest_file: Path, manifest: Manifest) -> None:
    metadata = pq.read_metadata(manifest_file)
    assert {metadata.row_group(0).column(i).compression for i in range(metadata.num_columns)} == {"ZSTD"}
    content = manifest_file.stat().st_size - len(metadata.metadata[file.KEY])
    assert content < 40 * len(manifest.tiles) + 4096


def test_its_id_is_of_the_content(store: TileStore, manifest: Manifest) -> None:
    assert manifest.facts["id"] == manifest_id(manifest.facts)
    again = from_store(store, licence="Apache-2.0", cite="the generator")
    assert again.facts["id"] == manifest.facts["id"]
    assert from_store(store).facts["id"] != manifest.facts["id"]
    assert again.tiles.equals(manifest.tiles)


def rewritten(path: Path, manifest: Manifest, **facts: object) -> Path:
    changed = manifest.facts | facts
    write_manifest(path, Manifest(changed | {"id": manifest_id(changed)}, manifest.tiles))
    return path


def test_damage_is_one_sentence(tmp_path: Path, manifest: Manifest, manifest_file: Path) -> None:
    write_manifest(tmp_path / "tampered", Manifest(manifest.facts | {"cohort": "other"}, manifest.tiles))
    fewer = Manifest(manifest.facts, manifest.tiles.slice(1))
    write_manifest(tmp_path / "fewer", fewer)
    backwards = manifest.tiles.take(pa.array(np.arange(len(manifest.tiles))[::-1]))
    write_manifest(tmp_path / "backwards", Manifest(manifest.facts, backwards))
    (tmp_path / "cut").write_bytes(manifest_file.read_bytes()[:-100])
    (tmp_path / "text").write_text("slide,x,y\n")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "parquet")
    rewritten(tmp_path / "unknown", manifest, tiling={"tile": 64, "shape": "hexagon"})
    for name, sentence in {
        "none": "is not there",
        "tampered": "was changed after it was made",
        "fewer": "do not fit",
        "backwards": "do not fit",
        "cut": "damaged or no Parquet",
        "text": "damaged or no Parquet",
        "parquet": "but no manifest",
    }.items():
        with pytest.raises(UserError, match=sentence):
            read_manifest(tmp_path / name)
    with pytest.raises(UserError, match="does not know"):
        _ = read_manifest(tmp_path / "unknown").tiling
    assert list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("slides", [1]),
        ("slides", {"a": 3}),
        ("slides", {"a": {}}),
        ("slides", {"a": {"tiles": "4", "slide_digest": "0"}}),
        ("slides", {"a": {"tiles": 4}}),
        ("slides", {"../../a": {"tiles": 0}}),
        ("slides", {"a": {"tiles": 0, "mpp": "0.5"}}),
        ("slides", {"a": {"tiles": 0, "mpp": -0.5}}),
        ("labels", 3),
        ("receipts", [1]),
        ("receipts", {"a": 3}),
        ("cohort", 3),
        ("cohort", "../../cohort"),
        ("store_digest", 3),
        ("tiling", 3),
        ("tissue", 3),
        ("list", 3),
        ("label_rule", 3),
        ("tiles", "4"),
        ("rehearsal", 1),
    ],
)
def test_metadata_of_another_form_name_the_key(tmp_path: Path, manifest: Manifest, key: str, value: object) -> None:
    with pytest.raises(UserError, match=f"its {key} is not as 'manifest write' writes it"):
        read_manifest(rewritten(tmp_path / "m", manifest, **{key: value}))


def test_other_schemas_are_refused(tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "SCHEMA", 2)
    write_manifest(tmp_path / "two", manifest)
    monkeypatch.setattr(file, "SCHEMA", 1)
    with pytest.raises(UserError, match="has schema 2, this version reads 1"):
        read_manifest(tmp_path / "two")


def test_show_is_json(manifest_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pretrain.manifest.command import command

    assert command(["show", str(manifest_file)]) == 0
    assert json.loads(capsys.readouterr().out)["cohort"] == "rehearsal"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "is not a command"),
        (["diff", "one"], "is not a command"),
        (["write", "store=x"], "out= is missing"),
        (["write", "store=x", "out=y", "lits=z"], "unknown setting lits"),
        (["write", "store=/none", "out=y"], "does not exist"),
        (["write", "store=x", "out=."], "is a folder"),
        (["write", "store"], "write key=value"),
    ],
)
def test_mistakes_at_the_command_line(arguments: list[str], sentence: str) -> None:
    from pretrain.manifest.command import command

    with pytest.raises(UserError, match=sentence):
        command(arguments)
