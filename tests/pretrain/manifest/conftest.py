"""Three synthetic slides, tiled once, and their manifest."""

import os
from pathlib import Path

import pytest

from pretrain.cohorts import Cohort, open_cohort, rehearsal
from pretrain.manifest.file import Manifest, read_manifest, write_manifest
from pretrain.manifest.make import from_store
from pretrain.tiles import TileStore
from pretrain.tiling import Tiling
from pretrain.tiling.run import tile_cohort

REAL = Path(os.environ.get("SGCL_BENCH_REAL_DATA", Path(__file__).parents[4] / "shared" / "data"))


@pytest.fixture
def real_wsi() -> Path:
    path = REAL / "wsi" / "CMU-1-Small-Region.svs"
    if not path.is_file():
        pytest.skip(f"no real slide: {path} is missing; set SGCL_BENCH_REAL_DATA")
    return path


@pytest.fixture(scope="session")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rehearsal.generate(tmp_path_factory.mktemp("slides") / "rehearsal", slides=3, size_px=1024, processes=1)


@pytest.fixture(scope="session")
def cohort(slides: Path) -> Cohort:
    return open_cohort(slides)


@pytest.fixture(scope="session")
def store(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> TileStore:
    return tile_cohort(cohort, Tiling(tile=64, mpp=0.7), tmp_path_factory.mktemp("work"), workers=0, progress=False)


@pytest.fixture(scope="session")
def manifest_file(store: TileStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("manifest") / "rehearsal.parquet"
    write_manifest(path, from_store(store, licence="Apache-2.0", cite="the generator"))
    return path


@pytest.fixture
def manifest(manifest_file: Path) -> Manifest:
    return read_manifest(manifest_file)
