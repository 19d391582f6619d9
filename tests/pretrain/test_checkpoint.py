"""Checkpoints that are not what they should be: told in one sentence, never half taken."""

import pytest
import torch
from torch import nn

from pretrain import backbones, checkpoint, loop
from pretrain.checkpoint import Progress
from pretrain.config import load
from pretrain.methods import find
from pretrain.views import ViewSettings
from results.errors import UserError


@pytest.fixture
def saved(facts, tmp_path, monkeypatch):
    """An SSLP with its optimiser, and the folder of its checkpoint."""
    monkeypatch.setattr(backbones, "build", lambda _: (nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8)), 8))
    cls = find("sslp")
    method = cls(cls.Options(dimension=4), facts, "resnet18", ViewSettings())
    optimiser = loop.make_optimiser(method, load(["method=sslp"]).train)
    checkpoint.save(tmp_path, Progress(epoch=1, step=7), method, optimiser, [loop.buffers_of(method)])
    return method, optimiser, tmp_path


def spoilt(folder, change):
    path = (folder / "last").resolve()
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.update(progress=3),
        lambda content: content["progress"].pop("step"),
        lambda content: content["progress"].update(step="7"),
        lambda content: content["progress"].update(batch=-1),
        lambda content: content["progress"].update(numbers=None),
        lambda content: content.update(buffers=[]),
        lambda content: content.update(buffers={}),
        lambda content: content.update(parameters=[]),
        lambda content: content.update(memory=None),
        lambda content: content.pop("optimiser"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_called_damaged(saved, change):
    _, _, folder = saved
    assert checkpoint.load(folder)["progress"]["step"] == 7
    spoilt(folder, change)
    with pytest.raises(UserError, match=r"step-00000007.pt is damaged"):
        checkpoint.load(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content["memory"].update(labels=content["memory"]["labels"][:, :3]), "its labels is 3x3 int32, 3x400"),
        (lambda content: content["memory"].update(labels=content["memory"]["labels"].float()), "float32, 3x400 int32"),
        (lambda content: content["memory"].update({"bank.global": content["memory"]["bank.global"][:1]}), "bank.global is 1x4"),
        (lambda content: content["memory"].pop("labels"), "labels"),
        (lambda content: content["memory"].update(labels=5), "does not fit"),
        (lambda content: content["parameters"].popitem(), "Missing key"),
        (lambda content: content["buffers"][0].pop("backbone.1.running_mean"), "Missing key"),
        (lambda content: content.update(optimiser={}), "param_groups"),
    ],
)  # fmt: skip
def test_a_checkpoint_of_other_settings_is_not_taken(saved, change, words):
    method, optimiser, folder = saved
    checkpoint.restore(checkpoint.load(folder), method, optimiser, 0)
    spoilt(folder, change)
    with pytest.raises(UserError, match=words) as caught:
        checkpoint.restore(checkpoint.load(folder), method, optimiser, 0)
    assert "does not fit its settings" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_rank_that_was_not_there_takes_the_mean_of_the_others(saved):
    method, optimiser, folder = saved
    content = checkpoint.load(folder)
    other = {name: value + 2 if value.is_floating_point() else value for name, value in content["buffers"][0].items()}
    both = content | {"buffers": [content["buffers"][0], other]}
    start = content["buffers"][0]["backbone.1.running_mean"]
    for rank, more in ((0, 0), (1, 2), (2, 1)):
        checkpoint.restore(both, method, optimiser, rank)
        assert torch.equal(method.backbone[1].running_mean, start + more)
