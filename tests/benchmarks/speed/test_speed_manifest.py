import json

from benchmarks.speed import manifest


def test_a_small_index_goes_round(tmp_path, capsys):
    out = tmp_path / "out.json"
    assert manifest.main(["tiles=3000", "slides=20", "changed=0.1", f"out={out}"]) == 0
    kept = json.loads(out.read_text())
    assert set(kept["seconds"]) == {"open store", "make", "write", "read", "read the other", "diff"}
    assert kept["differing"] == 2
    assert kept["bytes"] < 60 * 3000
    assert "3,000 tiles of 20 slides" in capsys.readouterr().out
    assert manifest.main(["tiels=3"]) == 2
