from dataclasses import replace

import numpy as np
import pytest
import torch
from transfer_toys import TILE, tile_pixels

from transfer.encoders.network import RandomEncoder
from transfer.engines import Fit, Images, finetune, known_engines
from transfer.engines.finetune import LENGTHS, Finetune, Schedule

CPU = torch.device("cpu")
KINDS = ("stripes", "bands")


@pytest.fixture(scope="module")
def fit():
    """40 training, 20 validation and 30 test tiles of two textures, which colour does not tell apart."""
    random = np.random.default_rng(3)
    labels = np.arange(90, dtype=np.int32) % 2
    tiles = np.stack([tile_pixels(random, KINDS[label]) for label in labels])
    rows = np.arange(90)
    backbone = RandomEncoder("resnet18", TILE, 0, CPU).backbone()
    images = Images(lambda asked: tiles[asked], backbone, TILE, "cpu")
    return Fit(rows[:40], labels[:40], rows[40:60], labels[40:60], rows[60:], 2, 7, images)


def truth(fit):
    return (fit.test % 2).astype(np.int32)


def plan(monkeypatch, **changes):
    """Replace the smoke schedule."""
    base = Schedule(rounds=1, least=2, most=2, rates=(1e-3,), patience=1, batch=8, held=None)
    monkeypatch.setitem(LENGTHS, "smoke", replace(base, **changes))


@pytest.mark.parametrize("architecture", ["resnet18", "vit_small"])
def test_every_training_engine_takes_resnets_and_transformers(fit, architecture, monkeypatch):
    plan(monkeypatch, least=1, most=1)
    backbone = RandomEncoder(architecture, TILE, 0, CPU).backbone()
    few = replace(fit, images=replace(fit.images, backbone=backbone), test=fit.test[:4])
    engines = [build("smoke") for build in known_engines().values() if build("smoke").trains]
    assert len(engines) == 3
    for engine in engines:
        answer = engine.predict(few)
        assert answer.scores.shape == (4, 2)
        np.testing.assert_allclose(answer.scores.sum(axis=1), 1, rtol=1e-5)
        np.testing.assert_array_equal(answer.predicted, answer.scores.argmax(axis=1))


def test_the_same_seed_gives_the_same_bits_and_another_does_not(fit):
    before = torch.get_rng_state()
    one, two = (Finetune("smoke").predict(fit) for _ in range(2))
    np.testing.assert_array_equal(one.scores, two.scores)
    assert one.remark == two.remark
    assert torch.equal(before, torch.get_rng_state())
    assert (Finetune("smoke").predict(replace(fit, seed=8)).scores != one.scores).any()


def test_it_learns_what_colour_cannot_tell(fit, monkeypatch):
    plan(monkeypatch, rounds=6, most=None, patience=6)
    answer = Finetune("smoke").predict(fit)
    assert (answer.predicted == truth(fit)).mean() > 0.8


def test_all_layers_are_trained(fit, monkeypatch):
    plan(monkeypatch)
    training = finetune._Training(Finetune("smoke"), fit)
    start = fit.images.backbone.state
    found = training.run(1e-3)
    for name in ("conv1.weight", "layer1.0.conv1.weight", "layer4.1.bn2.weight", "bn1.running_mean"):
        assert not torch.equal(found.state[f"0.{name}"], start[name]), name


def test_the_rate_and_the_round_are_chosen_on_validation(fit, monkeypatch):
    plan(monkeypatch, rounds=5, rates=(1e-4, 1e-3, 1e-2), patience=2)
    quality = {1e-4: [0.5, 0.4, 0.3], 1e-3: [0.2, 0.7, 0.7, 0.6], 1e-2: [0.7, 0.1, 0.1]}
    seen = []

    class Scripted(finetune._Training):
        def run(self, rate):
            self.rate = rate
            return super().run(rate)

        def _round(self, *arguments):
            seen.append(self.rate)
            return True

    monkeypatch.setattr(finetune, "_Training", Scripted)
    monkeypatch.setattr(finetune, "balanced_accuracy", lambda *_: quality[seen[-1]][seen.count(seen[-1]) - 1])
    answer = Finetune("smoke").predict(fit)
    assert seen == [1e-4] * 3 + [1e-3] * 4 + [1e-2] * 3
    assert answer.remark == "rate 0.001, round 2 of 5"


def test_validation_labels_choose_and_test_tiles_do_not(fit, monkeypatch):
    plan(monkeypatch, rates=(1e-3, 1e-2))
    base = Finetune("smoke").predict(fit)
    other = Finetune("smoke").predict(replace(fit, test=fit.test[:3]))
    np.testing.assert_allclose(other.scores, base.scores[:3], rtol=1e-4, atol=1e-6)
    assert other.remark == base.remark


def test_without_validation_the_first_rate_runs_to_its_end(fit, monkeypatch):
    plan(monkeypatch, rounds=3, rates=(1e-3, 1e-2))
    answer = Finetune("smoke").predict(fit.few(np.arange(40), np.arange(0)))
    assert answer.remark == "rate 0.001, round 3 of 3, not chosen: no validation tiles"


def test_a_class_without_training_tiles_has_no_score(fit):
    answer = Finetune("smoke").predict(replace(fit, classes=3))
    assert answer.scores.shape == (30, 3)
    assert (answer.scores[:, 2] == 0).all()


def test_a_loss_that_is_not_finite_under_any_rate_is_an_error(fit, monkeypatch):
    plan(monkeypatch, rates=(1e9, 1e12), least=5, most=5)
    with pytest.raises(FloatingPointError, match=r"1000000000\.0"):
        Finetune("smoke").predict(fit)


def test_a_rate_that_breaks_leaves_the_others(fit, monkeypatch):
    plan(monkeypatch, rates=(1e-3, 1e12), least=5, most=5)
    assert Finetune("smoke").predict(fit).remark.startswith("rate 0.001")


def test_schedules_differ_in_the_key():
    settings = [known_engines()["finetune"](name).settings() for name in ("smoke", "short", "full")]
    assert len({str(one) for one in settings}) == 3


def test_few_tiles_are_gone_through_again_and_many_once(fit, monkeypatch):
    for least, most, steps in ((2, None, 5), (12, None, 12), (1, 3, 3)):
        plan(monkeypatch, least=least, most=most)
        seen = []
        read = fit.images.read
        images = replace(fit.images, read=lambda rows, seen=seen, read=read: seen.append(rows) or read(rows))
        training = finetune._Training(Finetune("smoke"), replace(fit, images=images))
        assert training._shape() == (8, steps)
        optimiser = torch.optim.SGD(training.model.parameters(), lr=0.0)
        assert training._round(optimiser, torch.optim.lr_scheduler.ConstantLR(optimiser), 8, steps)
        counts = np.bincount(np.concatenate(seen), minlength=40)[:40]
        assert counts.sum() == 8 * steps
        assert counts.max() - counts.min() <= 1


def test_one_tile_a_class_can_be_trained_on(fit):
    few = fit.few(np.arange(2), np.arange(0))
    assert Finetune("smoke").predict(few).predicted.shape == (30,)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda_it_trains_in_bfloat16(fit, monkeypatch):
    plan(monkeypatch, rounds=6, most=None, patience=6)
    answer = Finetune("smoke").predict(replace(fit, images=replace(fit.images, device="cuda")))
    assert (answer.predicted == truth(fit)).mean() > 0.8
