"""How the three canary files of `pretrain/tiling/canaries` were made: `python tests/pretrain/tiling/canary_files.py FOLDER`.

They are kept as files, since an encoder of another version writes other bytes, and what is asked of them is only how a fixed
file decodes.
"""

import io
import struct
import sys
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 128


def drawing() -> np.ndarray:
    """(128, 128, 3) uint8: waves of every direction and rising frequency, steps and noise, in the colours of a stain."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    waves = np.stack([np.sin(40 * x * x + 9 * y), np.sin(60 * y * y - 7 * x), np.sin(25 * (x + y) ** 2)], axis=2)
    noise = np.random.default_rng(16).normal(0, 12, (SIDE, SIDE, 3))
    step = ((x * 8).astype(int) + (y * 8).astype(int))[..., None] % 2 * 30
    return np.clip((190, 120, 170) + 45 * waves + noise - step, 0, 255).astype(np.uint8)


def tiff(tile: bytes, compression: int, photometric: int, description: str = "", subsampling: int = 0) -> bytes:
    """One tiled page of one tile, little endian, 20000 px per cm (0.5 um/px)."""
    tags: list[tuple[int, int, list[int] | bytes]] = [
        (256, 4, [SIDE]), (257, 4, [SIDE]), (258, 3, [8, 8, 8]), (259, 3, [compression]), (262, 3, [photometric]),
        (270, 2, description.encode() + b"\0"), (277, 3, [3]), (282, 5, [20000, 1]), (283, 5, [20000, 1]), (284, 3, [1]),
        (296, 3, [3]), (322, 3, [SIDE]), (323, 3, [SIDE]), (324, 4, [8]), (325, 4, [len(tile)]),
    ]  # fmt: skip
    if subsampling:
        tags.append((530, 3, [subsampling, subsampling]))
    body = struct.pack("<2sHL", b"II", 42, 8 + len(tile) + len(tile) % 2) + tile + b"\0" * (len(tile) % 2)
    extra_at = len(body) + 2 + 12 * len(tags) + 4
    directory, extra = struct.pack("<H", len(tags)), b""
    for tag, kind, value in tags:
        code = {3: "H", 4: "L", 5: "L"}.get(kind)
        data = value if isinstance(value, bytes) else struct.pack(f"<{len(value)}{code}", *value)
        count = len(value) // 2 if kind == 5 else len(value)
        if len(data) > 4:
            place = struct.pack("<L", extra_at + len(extra))
            extra += data + b"\0" * (len(data) % 2)
        else:
            place = data.ljust(4, b"\0")
        directory += struct.pack("<HHL", tag, kind, count) + place
    return body + directory + struct.pack("<L", 0) + extra


def write(folder: Path) -> None:
    picture = Image.fromarray(drawing())
    jpeg, codestream = io.BytesIO(), io.BytesIO()
    picture.save(jpeg, "JPEG", quality=80, subsampling="4:2:0")
    picture.save(
        codestream, "JPEG2000", no_jp2=True, irreversible=True, mct=1, quality_mode="rates", quality_layers=[8]
    )
    picture.save(folder / "stored.jpg", "JPEG", quality=90, subsampling=0)
    (folder / "jpeg.tif").write_bytes(tiff(jpeg.getvalue(), 7, 6, subsampling=2))
    aperio = "Aperio Image Library\r\n128x128 canary |MPP = 0.5"
    (folder / "jpeg2000.svs").write_bytes(tiff(codestream.getvalue(), 33005, 2, aperio))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
