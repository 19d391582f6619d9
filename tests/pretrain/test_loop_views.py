"""The second global view, local crops, and what the rivals' views add: jitter by chance, blur, solarisation."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tv

from pretrain.views import ViewSettings, gaussian_blur, local_views, make_views, two_views

IDS = np.arange(400)
PLAIN = ViewSettings(
    size=16, local_size=16, scale=(1.0, 1.0), local_scale=(1.0, 1.0), ratio=(1.0, 1.0), grey=0, flip=0, jitter=0
)


@pytest.fixture
def tiles():
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (len(IDS), 16, 16, 3), dtype=np.uint8))


def made(tiles, settings, views=None, ids=IDS):
    return make_views(tiles, ids, views or two_views(settings), settings, seed=3, epoch=1)


def changed(a, b):
    """(B,) which images differ."""
    return ((a - b).abs() > 1e-5).flatten(1).any(1)


def test_two_views_are_drawn_independently(tiles):
    settings = ViewSettings(size=16)
    both = made(tiles, settings)
    assert list(both) == ["global", "second"]
    assert changed(both["global"], both["second"]).all()
    alone = made(tiles, settings, two_views(settings)[:1])
    assert torch.equal(alone["global"], both["global"])


def test_local_crops_come_from_anywhere(tiles):
    settings = ViewSettings(size=16, local_size=16, local_scale=(0.05, 0.4))
    crops = made(tiles, settings, local_views(settings, 3))
    assert list(crops) == ["local0", "local1", "local2"]
    assert changed(crops["local0"], crops["local1"]).all()
    assert local_views(settings, 0) == ()


@pytest.mark.parametrize("name", ["jitter", "blur", "solarise"])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_chances_are_kept_and_belong_to_the_tile(tiles, name, share):
    settings = replace(PLAIN, blur_sigma=(14.0, 28.0), **{name: share})
    view = "second" if name == "solarise" else "global"
    plain, found = made(tiles, PLAIN)[view], made(tiles, settings)[view]
    hit = changed(plain, found)
    assert abs(float(hit.float().mean()) - share) <= (0.07 if 0 < share < 1 else 0.01)
    part = made(tiles[30:40], settings, ids=IDS[30:40])[view]
    torch.testing.assert_close(part, found[30:40])


def test_each_view_has_its_own_chance_of_blur(tiles):
    settings = replace(PLAIN, blur=1.0, second_blur=0.0, local_blur=0.5, blur_sigma=(28.0, 28.0))
    plain, found = made(tiles, PLAIN), made(tiles, settings)
    assert changed(plain["global"], found["global"]).all()
    assert not changed(plain["second"], found["second"]).any()
    crop = made(tiles, settings, local_views(settings, 1))["local0"]
    hit = changed(crop, made(tiles, PLAIN, local_views(PLAIN, 1))["local0"]).float().mean()
    assert 0.4 < hit < 0.6


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_blur_is_torchvisions(sigma):
    x = torch.rand(2, 3, 24, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = gaussian_blur(x, torch.tensor([sigma, 0.7], dtype=torch.float64), 6)
    torch.testing.assert_close(found[0], tv.gaussian_blur(x[0], 13, sigma))
    torch.testing.assert_close(found[1], tv.gaussian_blur(x[1], 13, 0.7))


def test_blur_reaches_as_far_in_tissue_at_every_size(tiles):
    """Sigma is in px of a 224 px view: at 16 px it is 14 times smaller."""
    settings = replace(PLAIN, blur=1.0, blur_sigma=(14.0, 14.0))
    found = made(tiles[:2], settings, ids=IDS[:2])["global"]
    plain = made(tiles[:2], PLAIN, ids=IDS[:2])["global"]
    torch.testing.assert_close(found, tv.gaussian_blur(plain, 7, 1.0), rtol=1e-4, atol=1e-4)


def test_solarisation_turns_the_bright_half():
    tile = torch.full((1, 16, 16, 3), 204, dtype=torch.uint8)
    tile[:, :, :8] = 51
    plain = made(tile, PLAIN, ids=IDS[:1])["second"]
    found = made(tile, replace(PLAIN, solarise=1.0), ids=IDS[:1])["second"]
    torch.testing.assert_close(found[..., 8:], plain[..., :8])  # 0.8 becomes 0.2
    torch.testing.assert_close(found[..., :8], plain[..., :8])
