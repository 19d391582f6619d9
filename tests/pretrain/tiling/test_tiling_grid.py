import numpy as np
import pytest

from pretrain.tiling import Tiling
from pretrain.tiling.grid import area_shares, make_grid
from results.errors import UserError


@pytest.mark.parametrize(
    ("size", "step", "columns", "rows"),
    [
        ((1024, 512), 256.0, 4, 2),
        ((1023, 511), 256.0, 3, 1),
        ((255, 1000), 256.0, 0, 3),
        ((1000, 1000), 512.128, 1, 1),
        ((3 * 512.128, 600), 512.128, 3, 1),
        ((100_000, 80_000), 1053.4979423868313, 94, 75),
    ],
)
def test_only_whole_cells_are_counted(size: tuple[int, int], step: float, columns: int, rows: int) -> None:
    grid = make_grid(size, step)
    assert (grid.columns, grid.rows) == (columns, rows)
    cells = grid.cells()
    assert cells.shape == (columns * rows, 2)
    assert cells.dtype == np.int32
    if len(cells):
        assert (grid.origin(cells).max(axis=0) + step <= np.array(size) + 1e-6).all()


def test_cells_run_row_by_row() -> None:
    assert make_grid((30, 20), 10).cells().tolist() == [[0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1]]


def test_origins_do_not_drift() -> None:
    step = 526.7489711934156  # 256 px of 0.5 um on a slide of 0.243 um/px
    grid = make_grid((200_000, 600), step)
    origins = grid.origin(grid.cells())[:, 0]
    exact = np.arange(grid.columns) * step
    assert (exact - origins >= -1e-6).all()
    assert (exact - origins < 1).all()
    assert set(np.diff(origins)) == {526, 527}


def test_area_shares_count_parts_of_mask_pixels() -> None:
    mask = np.zeros((4, 6), dtype=bool)
    mask[1, 2] = True
    size = (60, 40)  # 10 px a mask pixel
    origins = np.array([[20, 10], [15, 5], [25, 15], [0, 0], [10, 0]])
    np.testing.assert_allclose(area_shares(mask, size, origins, 10.0), [1, 0.25, 0.25, 0, 0], atol=1e-6)
    np.testing.assert_allclose(area_shares(mask, size, origins[:1] * 0, 40.0), [1 / 16], atol=1e-6)
    np.testing.assert_allclose(area_shares(np.ones((3, 7), dtype=bool), size, origins, 10.0), 1, atol=1e-6)


def test_area_shares_equal_brute_force() -> None:
    generator = np.random.default_rng(0)
    mask = generator.random((20, 30)) < 0.4
    fine = np.kron(mask, np.ones((10, 10)))
    origins = generator.integers(0, 130, size=(50, 2))
    wanted = [fine[y : y + 70, x : x + 70].mean() for x, y in origins]
    np.testing.assert_allclose(area_shares(mask, (300, 200), origins, 70.0), wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tile": 8}, "tile=8"),
        ({"mpp": 0}, "mpp=0"),
        ({"mpp_override": -1}, "mpp_override"),
        ({"mpp": float("nan")}, "mpp=nan"),
        ({"min_tissue": 1.5}, "min_tissue"),
        ({"encoding": "webp"}, "jpeg, png"),
        ({"quality": 0}, "quality=0"),
        ({"tile": 16, "mpp": 0.25}, "mask_mpp=8.0 is coarser"),
    ],
)
def test_settings_that_make_no_sense(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Tiling(**wrong)
