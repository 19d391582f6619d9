"""Shards are written whole or not at all."""

import resource
from pathlib import Path

import pytest

from pretrain.tiling.shards import new_shard
from results.errors import UserError


def write(path: Path) -> None:
    with new_shard(path, 1 << 24) as environment, environment.begin(write=True) as transaction:
        for number in range(40):
            transaction.put(b"%d" % number, bytes(4000))


def test_a_full_disk_is_called_that_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, before[1]))  # writing beyond it fails as on a full disk
    try:
        with pytest.raises(
            UserError, match=r"a\.lmdb cannot be written .* MB are free there\): make room and run again"
        ):
            write(tmp_path / "a.lmdb")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())
    write(tmp_path / "a.lmdb")
    assert [path.name for path in tmp_path.iterdir()] == ["a.lmdb"]
