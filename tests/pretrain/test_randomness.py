import numpy as np
import torch

from pretrain.randomness import generator, uniform


def test_a_tiles_numbers_do_not_depend_on_its_batch():
    ids = np.array([5, 900_000, 17, 2**40])
    together = uniform(ids, 7, 3, 0, "crop")
    for row, tile in enumerate(ids):
        np.testing.assert_array_equal(uniform(np.array([tile]), 7, 3, 0, "crop")[0], together[row])


def test_numbers_are_uniform_and_uncorrelated():
    draws = uniform(np.arange(20_000), 4, 0, 1, "colour")
    assert draws.min() >= 0
    assert draws.max() < 1
    histogram = np.histogram(draws, 20, (0, 1))[0] / draws.size
    assert np.abs(histogram - 0.05).max() < 0.003
    assert np.abs(np.corrcoef(draws.T) - np.eye(4)).max() < 0.03
    assert abs(np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]) < 0.03


def test_epoch_seed_and_purpose_change_the_numbers():
    ids = np.arange(100)
    seen = {uniform(ids, 1, *parts).tobytes() for parts in [(0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b")]}
    assert len(seen) == 4


def test_keys_are_stable_across_machines():
    first = torch.rand(3, generator=generator(1, "x"))
    assert torch.equal(first, torch.rand(3, generator=generator(1, "x")))
    assert not torch.equal(first, torch.rand(3, generator=generator(2, "x")))
