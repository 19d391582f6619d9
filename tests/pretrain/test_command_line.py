"""What the commands say of a word that is no step of theirs, and of tiles that are made or made already."""

from pathlib import Path

import pytest

import benchmarks.__main__
import pretrain.__main__
import results.__main__
import transfer.__main__


@pytest.mark.parametrize(
    ("program", "word", "words"),
    [
        (pretrain, "tiel", "'tiel' is not a step of pretrain: did you mean 'tile'?"),
        (pretrain, "trian", "did you mean 'train'?"),
        (pretrain, "xyz", "write one of tile, train, export"),
        (transfer, "clasify", "did you mean 'classify'?"),
        (transfer, "xyz", "write 'python -m transfer classify|"),
        (benchmarks, "reprot", "did you mean 'report'?"),
        (benchmarks, "run", "'run' is not enough"),
        (results, "tabel", "did you mean 'table'?"),
    ],
)
def test_a_misspelt_step_is_told_the_nearest(
    capsys: pytest.CaptureFixture[str], program, word: str, words: str
) -> None:
    assert program.__main__.main([word]) == 2
    assert words in capsys.readouterr().err


def test_tiling_says_where_the_tiles_lie_each_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "tile",
        "rehearsal.slides=3",
        "rehearsal.size_px=1024",
        "tile=128",
        "tiling.workers=0",
        f"work={tmp_path}",
    ]
    said = []
    for _ in range(2):
        assert pretrain.__main__.main(command) == 0
        said.append(capsys.readouterr().out)
    (store,) = (tmp_path / "tiles").iterdir()
    assert said[0] == said[1]
    assert said[0].startswith(f"tile: {store}, ")
    assert said[0].endswith(" tiles of 3 slides\n")
