"""What is drawn before there are pixels: fields, tissues, contours."""

import numpy as np
import pytest
from rehearsal_files import TISSUE_CODES

from pretrain.cohorts.rehearsal.contours import area, rings
from pretrain.cohorts.rehearsal.fields import Cells, Noise, Points, Raster, Window, generator
from pretrain.cohorts.rehearsal.render import stains
from pretrain.cohorts.rehearsal.scene import compose

# Scenes


@pytest.mark.parametrize("field", [Noise(generator(1, "n"), 7.0), Raster(generator(1, "r").random((20, 20)), 4.0)])
def test_field_at_points_is_the_field_at_a_window(field):
    window = Window(3.0, 5.0, 12, 9, 0.7)
    x, y = np.broadcast_arrays(window.x, window.y)
    np.testing.assert_allclose(field(Points(x.ravel(), y.ravel())).reshape(9, 12), field(window), atol=1e-5)


def test_noise_has_mean_0_and_variance_1():
    values = Noise(generator(1, "n"), 1.0)(Window(0, 0, 512, 512, 0.25))
    assert abs(values.mean()) < 0.1
    assert abs(values.var() - 1) < 0.15


def test_cells_know_their_two_nearest_centres():
    cells = Cells(generator(1, "c"), 10.0, nodes=8)
    window = Window(20.0, 20.0, 40, 30, 1.0)
    first, second = cells(window)
    lattice = np.stack(np.meshgrid(np.arange(8), np.arange(8)), 0) + 0.5 + cells.jitter
    centres = 10 * lattice.reshape(2, -1)
    distance = np.sort(np.hypot(window.x[..., None] - centres[0], window.y[..., None] - centres[1]), axis=-1)
    np.testing.assert_allclose(first, distance[..., 0], atol=1e-3)
    np.testing.assert_allclose(second, distance[..., 1], atol=1e-3)


def test_scene_is_the_same_at_every_resolution(scene):
    fine, coarse = Window(150.0, 150.0, 400, 400, 0.25), Window(150.0, 150.0, 100, 100, 1.0)
    assert (scene.layout.codes(fine)[2::4, 2::4] == scene.layout.codes(coarse)).mean() > 0.98
    for small, large in zip(stains(scene, fine), stains(scene, coarse), strict=True):
        small = small.reshape(100, 4, 100, 4).mean(axis=(1, 3))
        assert np.corrcoef(small.ravel(), large.ravel())[0, 1] > 0.9


def test_window_is_a_part_of_the_whole(scene):
    whole, part = Window(100.0, 100.0, 300, 300, 0.5), Window(125.0, 140.0, 100, 100, 0.5)
    for large, small in zip(stains(scene, whole), stains(scene, part), strict=True):
        np.testing.assert_allclose(large[80:180, 50:150], small, atol=1e-3)


def test_most_neighbours_share_their_tissue():
    same = total = 0
    for number in range(4):
        layout = compose(0, number, f"RHSL-H1-{number:04d}-DX1", "H1", 1024, 1024).layout
        codes = layout.codes(Window(0, 0, 32, 32, 32.0)).astype(int)
        for dy in range(4):
            for dx in range(-3 if dy else 1, 4):
                here = codes[: 32 - dy, max(0, -dx) : 32 - max(0, dx)]
                there = codes[dy:, max(0, dx) : 32 + min(0, dx)]
                is_tissue = (here > 0) & (there > 0)
                total += is_tissue.sum()
                same += (is_tissue & (here == there)).sum()
    assert same / total > 0.65


def test_tissues_hold_alike_amounts_of_stain():
    amounts = {code: [] for code in TISSUE_CODES}
    for number in range(2):
        scene = compose(0, number, f"RHSL-H1-{number:04d}-DX1", "H1", 1024, 1024)
        window = Window(0, 0, 1024, 1024, 1.0)
        maps, codes = stains(scene, window), scene.layout.codes(window)
        for code in TISSUE_CODES & set(np.unique(codes).tolist()):
            amounts[code].append([amount[codes == code].mean() for amount in maps])
    means = np.array([np.mean(values, axis=0) for values in amounts.values()])
    assert (means.max(axis=0) / means.min(axis=0) < 1.4).all()


# Contours


def test_rings_of_a_square_with_a_hole():
    mask = np.zeros((12, 12), bool)
    mask[1:11, 2:11] = True
    mask[4:7, 5:9] = False
    outer, hole = sorted(rings(mask), key=area, reverse=True)
    assert area(outer) == pytest.approx(90, rel=0.03)
    assert area(hole) == pytest.approx(-12, rel=0.06)
    assert outer.min(axis=0).tolist() == [2, 1]
    assert outer.max(axis=0).tolist() == [11, 11]


def test_rings_keep_diagonal_px_apart_and_drop_specks():
    mask = np.eye(3, dtype=bool)
    assert len(rings(mask)) == 3
    assert rings(mask, smallest=2) == []
    assert rings(np.zeros((4, 4), bool)) == []
