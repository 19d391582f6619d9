"""A shard that is being written: whole or not at all, and a full disk is said to be one."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb

from results.errors import UserError
from results.files import replacing


@contextmanager
def new_shard(path: Path, bound: int) -> Iterator[lmdb.Environment]:
    """Yield an empty LMDB file that takes the place of `path` at the end of the block.

    Args:
        path: of the shard.
        bound: most bytes that it may hold.

    Raises:
        UserError: it cannot be written, most often for want of room.
    """
    with replacing(path) as temporary:
        try:
            environment = lmdb.open(str(temporary), map_size=bound, subdir=False, lock=False, sync=False)
            try:
                yield environment
                environment.sync(True)
            finally:
                environment.close()
        except lmdb.Error as error:
            free = shutil.disk_usage(path.parent).free / 1e6
            raise UserError(
                f"{path} cannot be written ({error}; {free:,.1f} MB are free there): make room and run again, what is finished is kept."
            ) from error
