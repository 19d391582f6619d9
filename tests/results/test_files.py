import hashlib
import json

import pytest

from results.files import file_digest, replacing, value_digest, write_json


def test_replacing_puts_a_file_in_place(tmp_path):
    with replacing(tmp_path / "new" / "a.txt") as temporary:
        assert temporary.suffix == ".txt"
        assert temporary.name.startswith(".")
        temporary.write_text("whole")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.txt"]
    assert (tmp_path / "new" / "a.txt").read_text() == "whole"


@pytest.mark.parametrize("folder", [False, True])
def test_replacing_leaves_nothing_after_an_error(tmp_path, folder):
    target = tmp_path / "a"
    target.write_text("old")

    def fail():
        with replacing(target) as temporary:
            if folder:
                temporary.mkdir()
                (temporary / "half").write_text("half")
            else:
                temporary.write_text("half")
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert target.read_text() == "old"


def test_replacing_nothing_written_is_an_error_and_leaves_the_old(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(FileNotFoundError), replacing(target):
        pass
    assert target.read_text() == "old"


def test_replacing_swaps_a_folder_that_holds_something(tmp_path):
    target = tmp_path / "shard"
    target.mkdir()
    (target / "old").write_text("old")
    with replacing(target) as temporary:
        temporary.mkdir()
        (temporary / "new").write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["shard"]
    assert [path.name for path in target.iterdir()] == ["new"]


def test_write_json_is_sorted_and_readable(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1, "a": "µm"})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"a": "µm", "b": 1}
    assert text.index('"a"') < text.index('"b"')
    assert "µ" in text


def test_write_json_that_cannot_be_encoded_leaves_the_old(tmp_path):
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}
    assert len(list(tmp_path.iterdir())) == 1


def test_a_path_of_any_bytes_has_a_digest():
    assert value_digest("/data/\udcff") != value_digest("/data/\udcfe")


def test_digests(tmp_path):
    (tmp_path / "a").write_bytes(b"tile")
    assert file_digest(tmp_path / "a") == hashlib.sha256(b"tile").hexdigest()
    assert value_digest({"a": 1, "b": [2]}) == value_digest({"b": [2], "a": 1})
    assert value_digest({"a": 1}) != value_digest({"a": 2})
