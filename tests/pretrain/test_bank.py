import torch

from pretrain.bank import MemoryBank, gather_writes
from pretrain.distributed import World

ALONE = World()


def test_update_blends_and_normalises():
    for momentum, expected in ((0.5, [0.707107, 0.707107]), (1.0, [0.0, 1.0])):
        bank = MemoryBank(3, 2, momentum, 0, "b", ALONE)
        bank.rows[1] = torch.tensor([1.0, 0.0])
        bank.update(torch.tensor([1]), torch.tensor([[0.0, 1.0]]))
        torch.testing.assert_close(bank.rows[1], torch.tensor(expected), rtol=0, atol=1e-6)


def test_start_is_seeded_and_named():
    first = MemoryBank(10, 4, 0.5, 0, "global", ALONE).rows
    assert torch.equal(first, MemoryBank(10, 4, 0.5, 0, "global", ALONE).rows)
    assert not torch.equal(first, MemoryBank(10, 4, 0.5, 0, "tl", ALONE).rows)
    assert not torch.equal(first, MemoryBank(10, 4, 0.5, 1, "global", ALONE).rows)
    torch.testing.assert_close(first.norm(dim=1), torch.ones(10))


def test_of_a_tile_written_twice_the_first_is_kept():
    class TwoRanks(World):
        def gather(self, tensor):
            return torch.cat([tensor, tensor.flip(0)])

    ids, features = gather_writes(TwoRanks(), torch.tensor([4, 2, 4]), {"a": torch.tensor([[1.0], [2.0], [3.0]])})
    assert ids.tolist() == [2, 4]
    assert features["a"].flatten().tolist() == [2.0, 1.0]


def test_the_first_write_takes_the_place_of_noise():
    bank = MemoryBank(3, 2, 0.5, 0, "b", ALONE, forget_start=True)
    one, two = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    bank.update(torch.tensor([1]), one)
    torch.testing.assert_close(bank.rows[1], one[0])
    bank.update(torch.tensor([1]), two)
    torch.testing.assert_close(bank.rows[1], torch.tensor([0.707107, 0.707107]))
    assert bank.written.tolist() == [False, True, False]
