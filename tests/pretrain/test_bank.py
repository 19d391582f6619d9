import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from pretrain import checkpoint
from pretrain.bank import CHUNK, MemoryBank, gather_writes
from pretrain.distributed import World
from results.errors import UserError

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


@pytest.mark.parametrize(("storage", "error", "size"), [("fp32", 0, 4), ("bf16", 4e-3, 2), ("int8", 6e-3, 1)])
def test_storages_hold_unit_rows(storage, error, size):
    bank = MemoryBank(50, 64, 0.5, 0, "b", ALONE, storage=storage)
    features = F.normalize(torch.randn(4, 64, generator=torch.Generator().manual_seed(1)), dim=1)
    ids = torch.tensor([49, 0, 7, 8])
    bank.put(ids, features)
    assert bank.rows.element_size() == size
    assert bank[ids].dtype == torch.float32
    assert (bank[ids] - features).abs().max() <= error
    assert bank[ids.view(2, 2)].shape == (2, 2, 64)
    torch.testing.assert_close(bank.similarity(features), features @ bank[torch.arange(50)].T)
    bank.update(ids, -features.roll(1, 0))
    expected = F.normalize(features - features.roll(1, 0), dim=1)
    assert (bank[ids] - expected).abs().max() <= 3 * error + 1e-6


def ranks(count, total=11, **options):
    return [MemoryBank(total, 6, 0.5, 0, "b", World(rank, count), sharded=True, **options) for rank in range(count)]


@pytest.mark.parametrize("total", [11, CHUNK + 5])
def test_rows_dealt_to_ranks_are_those_of_a_whole_bank(total):
    whole = MemoryBank(total, 6, 0.5, 0, "b", ALONE)
    ids, features = torch.tensor([0, 4, 7, total - 1]), torch.eye(6)[:4]
    whole.update(ids, features)
    for bank in ranks(3, total):
        bank.update(ids, features)
        assert bank.sharded
        for own, rows in bank.chunks(5):
            assert torch.equal(rows, whole[own])
            assert torch.equal(own % 3, torch.full_like(own, bank.first))
    with pytest.raises(ValueError, match="sharded"):
        bank.similarity(features)


@pytest.mark.parametrize("storage", ["fp32", "int8"])
@pytest.mark.parametrize("later", [1, 2, 5])
def test_bank_files_come_back_on_another_number_of_ranks(tmp_path, storage, later):
    before = ranks(3, storage=storage)
    ids, features = torch.tensor([1, 2, 9]), torch.eye(6)[:3]
    for rank, bank in enumerate(before):
        bank.update(ids, features)
        checkpoint.save_banks(tmp_path, 7, {"global": bank}, World(rank, 3))
    rows = {int(i): row for bank in before for own, part in bank.chunks() for i, row in zip(own, part, strict=True)}
    for rank in range(later):
        bank = MemoryBank(11, 6, 0.5, 99, "b", World(rank, later), forget_start=True, storage=storage, sharded=True)
        checkpoint.load_banks(tmp_path, 7, {"global": bank}, World(rank, later))
        for own, part in bank.chunks():
            for tile, row in zip(own, part, strict=True):
                assert torch.equal(row, rows[int(tile)])
        assert bank.written.all()  # these banks blend from the start


def test_a_lost_bank_file_is_named(tmp_path):
    for rank, bank in enumerate(ranks(3)):
        checkpoint.save_banks(tmp_path, 7, {"global": bank}, World(rank, 3))
    (tmp_path / "banks-00000007-1-of-3.safetensors").unlink()
    with pytest.raises(UserError, match="step 7"):
        checkpoint.load_banks(tmp_path, 7, {"global": ranks(1)[0]}, ALONE)
    checkpoint.load_banks(tmp_path, 7, {"global": MemoryBank(3, 2, 0.5, 0, "b", ALONE)}, ALONE)


def spoilt(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file({name: value.contiguous() for name, value in tensors.items()}, path)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:300]), "does not fit"),
        (lambda path: path.rename(path.with_name("banks-00000007-x-of-y.safetensors")), "lacks some of the bank files"),
        (lambda path: path.rename(path.with_name("banks-00000007-5-of-1.safetensors")), "lacks some of the bank files"),
        (lambda path: spoilt(path, lambda t: t.update({"b.rows": t["b.rows"].float()})), "its rows are 11x6 float32, 11x6 int8"),
        (lambda path: spoilt(path, lambda t: t.update({"b.rows": t["b.rows"][:, :1]})), "its rows are 11x1 int8, 11x6 int8"),
        (lambda path: spoilt(path, lambda t: t.update({"b.rows": t["b.rows"][:5]})), "its rows are 5x6 int8"),
        (lambda path: spoilt(path, lambda t: t.update({"b.scale": t["b.scale"][:0]})), "its scale are 0 float32"),
        (lambda path: spoilt(path, lambda t: t["b.scale"].fill_(torch.nan)), "its scale are not all finite"),
        (lambda path: spoilt(path, lambda t: t.pop("b.written")), "does not fit"),
    ],
)  # fmt: skip
def test_a_damaged_bank_file_is_named_and_never_taken(tmp_path, spoil, words):
    bank = MemoryBank(11, 6, 0.5, 0, "b", ALONE, storage="int8", sharded=True)
    checkpoint.save_banks(tmp_path, 7, {"b": bank}, ALONE)
    checkpoint.load_banks(tmp_path, 7, {"b": bank}, ALONE)
    (path,) = tmp_path.iterdir()
    spoil(path)
    with pytest.raises(UserError, match=words) as caught:
        checkpoint.load_banks(tmp_path, 7, {"b": bank}, ALONE)
    assert str(tmp_path) in str(caught.value)
