import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tv

from pretrain import views
from pretrain.views import QUADRANTS, View, ViewSettings, crop_boxes, global_view, make_views, quadrant_views


@pytest.fixture
def tiles():
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (6, 64, 64, 3), dtype=np.uint8))


def test_views_have_their_shapes_and_depend_on_the_tile_alone(tiles):
    settings = ViewSettings(size=32, local_size=16)
    chosen = (global_view(settings), *quadrant_views(settings))
    ids = np.array([4, 8, 15, 16, 23, 42])
    made = make_views(tiles, ids, chosen, settings, seed=1, epoch=2)
    assert {name: tuple(v.shape) for name, v in made.items()} == {"global": (6, 3, 32, 32)} | {
        q: (6, 3, 16, 16) for q in QUADRANTS
    }
    one = make_views(tiles[3:4], ids[3:4], chosen, settings, seed=1, epoch=2)
    for name in made:
        torch.testing.assert_close(one[name][0], made[name][3], rtol=0, atol=1e-6)
    other = make_views(tiles, ids, chosen, settings, seed=1, epoch=3)
    assert not torch.allclose(other["global"], made["global"])


def test_quadrants_tile_the_patch_exactly():
    cover = np.zeros((256, 256), int)
    for left, top, right, bottom in QUADRANTS.values():
        cover[round(top * 256) : round(bottom * 256), round(left * 256) : round(right * 256)] += 1
    assert (cover == 1).all()
    assert list(QUADRANTS) == ["tl", "tr", "bl", "br"]


@pytest.mark.parametrize("name", list(QUADRANTS))
def test_crops_stay_in_their_quadrant_and_follow_the_published_scale(name):
    settings = ViewSettings()
    view = next(v for v in quadrant_views(settings) if v.name == name)
    boxes = crop_boxes(np.arange(5000), view, settings.ratio, 256, 0, 0)
    left, top, right, bottom = (256 * share for share in QUADRANTS[name])
    assert boxes[:, 0].min() >= left - 1e-9
    assert boxes[:, 1].min() >= top - 1e-9
    assert boxes[:, 2].max() <= right + 1e-9
    assert boxes[:, 3].max() <= bottom + 1e-9
    share = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / 256**2
    assert 0.05 - 1e-9 <= share.min() < 0.052
    assert 0.138 < share.max() <= 0.14 + 1e-9


def test_crop_law_matches_torchvision():
    view = View("global", 224, (0.2, 1.0))
    ours = crop_boxes(np.arange(20_000), view, (0.75, 4 / 3), 256, 0, 0)
    torch.manual_seed(0)
    image = torch.empty(3, 256, 256)
    from torchvision.transforms import RandomResizedCrop

    theirs = np.array([RandomResizedCrop.get_params(image, [0.2, 1.0], [0.75, 4 / 3]) for _ in range(5000)], float)
    width, height = ours[:, 2] - ours[:, 0], ours[:, 3] - ours[:, 1]
    for a, b in (
        (width, theirs[:, 3]),
        (height, theirs[:, 2]),
        (ours[:, 0], theirs[:, 1]),
        (width * height, theirs[:, 2] * theirs[:, 3]),
    ):
        assert abs(a.mean() - b.mean()) < 0.02 * 256 if a.mean() < 300 else abs(a.mean() / b.mean() - 1) < 0.02
        assert abs(a.std() / b.std() - 1) < 0.05


def test_impossible_ratio_falls_back_to_a_centred_crop():
    boxes = crop_boxes(np.arange(4), View("v", 8, (1.0, 1.0)), (2.0, 2.0), 100, 0, 0)
    np.testing.assert_allclose(boxes, [[0, 25, 100, 75]] * 4)


def test_sampling_the_whole_tile_at_its_size_changes_nothing(tiles):
    images = tiles.permute(0, 3, 1, 2).float()
    boxes = torch.tensor([[0.0, 0, 64, 64]]).expand(6, 4)
    torch.testing.assert_close(views.sample(images, boxes, 64), images, rtol=0, atol=2e-2)
    mirrored = views.sample(images, boxes[:, [2, 1, 0, 3]], 64)
    torch.testing.assert_close(mirrored, images.flip(3), rtol=0, atol=2e-2)


@pytest.mark.parametrize(
    ("ours", "theirs", "factors"),
    [
        (views.brightness, tv.adjust_brightness, [0.6, 1.0, 1.4]),
        (views.contrast, tv.adjust_contrast, [0.6, 1.0, 1.4]),
        (views.saturation, tv.adjust_saturation, [0.6, 1.0, 1.4]),
        (views.hue, tv.adjust_hue, [-0.4, 0.0, 0.1, 0.4]),
    ],
)
def test_colour_operations_equal_torchvisions(tiles, ours, theirs, factors):
    x = tiles.permute(0, 3, 1, 2).float() / 255
    x[0] = 0.5  # grey has no hue
    for factor in factors:
        got = ours(x, torch.full((6, 1, 1, 1), factor))
        torch.testing.assert_close(got, theirs(x, factor), rtol=0, atol=2e-5)


def test_jitter_uses_each_images_own_order_and_strength(tiles):
    x = tiles.permute(0, 3, 1, 2).float() / 255
    settings = ViewSettings()
    draws = np.random.default_rng(3).random((6, 8))
    got = views.jitter(x, draws, settings)
    operations = [tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue]
    for i in range(6):
        image = x[i : i + 1]
        for which in np.argsort(draws[i, 4:]):
            low = 0.0 if which == 3 else 1.0
            image = operations[which](image, low + 0.4 * (2 * draws[i, which] - 1))
        torch.testing.assert_close(got[i : i + 1], image, rtol=0, atol=1e-4)


def test_published_chances():
    settings = ViewSettings(size=16, brightness=0, contrast=0, saturation=0, hue=0)
    tiles = torch.zeros(2000, 32, 32, 3, dtype=torch.uint8)
    tiles[..., :16, 0] = 250
    made = make_views(tiles, np.arange(2000), (View("global", 16, (1.0, 1.0)),), settings, 0, 0)["global"]
    grey = (made[:, 0] * 0.229 + 0.485 - (made[:, 2] * 0.225 + 0.406)).abs().amax((1, 2)) < 1e-3
    assert abs(grey.float().mean() - 0.2) < 0.03
    flipped = made[:, 0, :, -2].mean(1) > made[:, 0, :, 1].mean(1)
    assert abs(flipped.float().mean() - 0.5) < 0.04
