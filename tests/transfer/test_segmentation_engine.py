import json
import math
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from bcss_toys import SLIDES, write_bcss
from PIL import Image

from results.errors import UserError
from results.metrics import score_units
from results.settings import load_yaml
from transfer.encoders import EncoderOptions, open_encoder
from transfer.encoders.network import Backbone
from transfer.engines.mmseg import HEADS, MmsegEngine
from transfer.engines.mmseg.schedule import read_schedule
from transfer.segment import majority
from transfer.tasks import bcss
from transfer.tasks.segmentation import IGNORE

TINY = {
    "iterations": 2, "batch": 2, "crop": 32, "tile": 64, "warmup": 1, "validate_every": 1, "window": 64, "overlap": 16,
}  # fmt: skip


def load_task(root, trials=2):
    settings = bcss.BcssSettings(**load_yaml(bcss.__file__.replace(".py", ".yaml")))
    return bcss.load(settings, write_bcss(root), trials, root / "cache")


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return load_task(tmp_path_factory.mktemp("bcss"))


def untrained(trial=0, backbone="resnet18"):
    return open_encoder("random", EncoderOptions(backbone=backbone, device="cpu")).for_trial(trial).backbone()


@pytest.fixture(scope="module")
def done(task, tmp_path_factory):
    """Units and scratch folder of one tiny cell."""
    folder = tmp_path_factory.mktemp("cell")
    return MmsegEngine("fcn", "smoke", "cpu", changes=TINY).run(task, untrained(), 0, 0, folder), folder


def job_of(task, folder, backbone=None, head="fcn", **changes):
    engine = MmsegEngine(head, "smoke", "cpu", changes={**TINY, **changes})
    return engine._job(task, backbone or untrained(), 0, 0, folder)


def test_units_are_one_row_a_test_region(done, task):
    units, _ = done
    tested = [task.regions[row] for row in task.splits[0].test]
    assert units["unit"].to_pylist() == [region.name for region in tested]
    assert units["cluster"].to_pylist() == [region.slide for region in tested]
    assert units.column_names[2:] == [f"pixels_{name}" for name in task.classes]
    for index, name in enumerate(task.classes):
        assert [sum(row) for row in units[f"pixels_{name}"].to_pylist()] == [region.pixels[index] for region in tested]


def test_mean_iou_is_that_of_plain_numpy_and_of_the_library(done, task):
    units, folder = done
    hit, union, pairs = np.zeros(5), np.zeros(5), []
    for row in task.splits[0].test:
        region = task.regions[row]
        predicted = np.asarray(Image.open(folder / "predictions" / f"{region.name}.png"))
        codes = np.asarray(Image.open(region.mask))
        truth = np.full(codes.shape, IGNORE)
        for code, name in ((1, "tumour"), (2, "stroma"), (3, "inflammatory")):
            truth[codes == code] = task.classes.index(name)
        assert predicted.shape == truth.shape
        counted = truth != IGNORE
        for c in range(5):
            hit[c] += ((truth == c) & (predicted == c) & counted).sum()
            union[c] += (((truth == c) | (predicted == c)) & counted).sum()
        pairs.append((torch.from_numpy(predicted.astype(np.int64)), torch.from_numpy(truth)))
    expected = (hit[union > 0] / union[union > 0]).mean()
    found = {metric["name"]: metric["value"] for metric in score_units(units)}
    assert found["miou"] == pytest.approx(expected, abs=1e-12)

    from mmseg.evaluation import IoUMetric

    areas = [IoUMetric.intersect_and_union(predicted, truth, 5, IGNORE) for predicted, truth in pairs]
    intersect, unite = (sum(area[i] for area in areas).numpy() for i in (0, 1))
    assert intersect[unite > 0] / unite[unite > 0] == pytest.approx(hit[union > 0] / union[union > 0], abs=1e-6)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_units_and_another_does_not(done, task, tmp_path):
    units, folder = done
    engine = MmsegEngine("fcn", "smoke", "cpu", changes=TINY)
    again = engine.run(task, untrained(), 0, 0, tmp_path)
    assert again.equals(units)
    assert (tmp_path / "weights.safetensors").read_bytes() == (folder / "weights.safetensors").read_bytes()
    (tmp_path / "other").mkdir()
    other = engine.run(task, untrained(), 0, 1, tmp_path / "other")
    assert (tmp_path / "other" / "weights.safetensors").read_bytes() != (folder / "weights.safetensors").read_bytes()
    assert other["unit"].equals(units["unit"])


@pytest.mark.slow
def test_another_encoder_gives_other_weights_under_the_same_seed(done, task, tmp_path):
    _, folder = done
    MmsegEngine("fcn", "smoke", "cpu", changes=TINY).run(task, untrained(trial=5), 0, 0, tmp_path)
    assert (tmp_path / "weights.safetensors").read_bytes() != (folder / "weights.safetensors").read_bytes()


def test_the_scratch_folder_holds_what_was_done_and_nothing_pickled(done):
    _, folder = done
    assert {path.name for path in folder.iterdir()} == {"weights.safetensors", "training.json", "mmengine.log", "predictions", "drawing.png"}  # fmt: skip
    log = json.loads((folder / "training.json").read_text())
    assert [entry["iteration"] for entry in log] == [1, 2]
    assert all(0 < entry["loss"] < 20 for entry in log)
    best = max(log, key=lambda entry: entry["validation_mean_iou"])
    assert [entry for entry in log if entry.get("kept")][-1]["validation_mean_iou"] == best["validation_mean_iou"]
    width, height = Image.open(folder / "drawing.png").size
    assert width > 3 * 144
    assert height > 96


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("architecture", ["resnet18", "resnet50"])
def test_every_tensor_of_the_encoder_lands_in_every_segmenter(task, tmp_path, head, architecture):
    from transfer.engines.mmseg import segmenter

    backbone = untrained(backbone=architecture)
    model = segmenter.build(job_of(task, tmp_path, backbone, head))
    own = model.backbone.state_dict()
    assert own.keys() == backbone.state.keys()
    assert all(torch.equal(own[name], value) for name, value in backbone.state.items())
    normal = model.data_preprocessor
    assert (normal.mean.flatten() / 255).tolist() == pytest.approx(backbone.mean, abs=1e-6)
    assert (normal.std.flatten() / 255).tolist() == pytest.approx(backbone.std, abs=1e-6)
    assert not normal._channel_conversion


def renamed(state):
    return {f"module.{name}": value for name, value in state.items()}


def shortened(state):
    return {name: value for name, value in state.items() if name != "layer3.0.bn1.running_var"}


@pytest.mark.parametrize("harm", [renamed, shortened])
def test_weights_that_do_not_land_stop_the_cell(task, tmp_path, harm):
    from transfer.engines.mmseg import segmenter

    whole = untrained()
    with pytest.raises(RuntimeError, match="did not land"):
        segmenter.build(job_of(task, tmp_path, Backbone("resnet18", harm(whole.state), whole.mean, whole.std)))


@pytest.mark.slow
def test_weights_overwritten_before_training_stop_the_cell(task, tmp_path, monkeypatch):
    from transfer.engines.mmseg import training

    def initialised_again(runner):
        torch.nn.init.zeros_(runner.model.backbone.layer2[0].conv1.weight)

    monkeypatch.setattr(training.QuietRunner, "_init_model_weights", initialised_again)
    with pytest.raises(RuntimeError, match=r"layer2\.0\.conv1\.weight of the encoder was overwritten"):
        training.train(job_of(task, tmp_path))


def test_features_of_the_segmenter_are_those_of_torchvision(task, tmp_path):
    import torchvision

    from transfer.engines.mmseg import segmenter

    backbone = untrained()
    model = segmenter.build(job_of(task, tmp_path, backbone, "upernet")).backbone
    model.eval()  # the library's own returns nothing
    twin = torchvision.models.resnet18(weights=None).eval()
    twin.fc = torch.nn.Identity()
    twin.load_state_dict(backbone.state)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        stages = model(x)
        y = twin.maxpool(twin.relu(twin.bn1(twin.conv1(x))))
        for stage, layer in zip(stages, (twin.layer1, twin.layer2, twin.layer3, twin.layer4), strict=True):
            y = layer(y)
            assert torch.allclose(stage, y, atol=1e-5)


def test_a_loss_that_is_not_finite_ends_the_cell(task, tmp_path):
    from transfer.engines.mmseg import training

    keeper = training.Keeper(job_of(task, tmp_path))

    class Runner:
        iter = 0

    with pytest.raises(FloatingPointError, match="loss is nan in iteration 1"):
        keeper.after_train_iter(Runner(), 0, outputs={"loss": torch.tensor(float("nan"))})


def test_a_transformer_is_refused_with_what_it_can_do_instead():
    engine = MmsegEngine("fcn", "smoke", "cpu")
    with pytest.raises(UserError, match=r"vit_small.*transfer classify") as caught:
        engine.check(Backbone("vit_small", {}, (0.5,) * 3, (0.5,) * 3))
    assert "\n" not in str(caught.value)
    engine.check(Backbone("resnet50", {}, (0.5,) * 3, (0.5,) * 3))


def test_schedules_are_known_and_bounded():
    smoke, short, full = (read_schedule(name) for name in ("smoke", "short", "full"))
    assert smoke.iterations < short.iterations < full.iterations
    assert MmsegEngine("fcn", "full", "cpu").settings()["crop"] == 512
    assert read_schedule("smoke", {"iterations": 2}).warmup == 1
    assert read_schedule("smoke", {"iterations": 1}).warmup == 0
    assert "workers" not in full.settings()
    for changes in ({"iteration": 3}, {"batch": 1}, {"tile": 16}, {"overlap": 300}, {"iterations": "many"}):
        with pytest.raises(UserError):
            read_schedule("smoke", changes)
    for wrong in ({"name": "pspnet"}, {"schedule": "long"}, {"gpus": 4}):
        with pytest.raises(UserError):
            MmsegEngine(**{"name": "fcn", "schedule": "smoke", "device": "cpu", **wrong})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, value) for key in ("learning_rate", "momentum", "weight_decay", "colour", "most_of_one_class") for value in (-0.1, 10, math.nan, math.inf)),
        ("learning_rate", 0), ("momentum", 1), ("iterations", 0), ("iterations", 10**8), ("learning_rate", 10**400), ("batch", 5000), ("validate_every", 0),
        ("warmup", 24), ("warmup", -1), ("crop", 16), ("tile", 4096), ("window", 4096), ("overlap", 256), ("overlap", -1),
    ],
)  # fmt: skip
def test_numbers_of_a_schedule_out_of_range_name_the_key(key, value):
    with pytest.raises(UserError, match=key) as caught:
        read_schedule("smoke", {key: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [5, "abc", [1, 2], 0])
def test_options_that_are_no_mapping_are_told(options):
    with pytest.raises(UserError, match=r"options=.* must name keys"):
        read_schedule("smoke", options)


def test_settings_tell_schedules_and_changes_apart():
    settings = [MmsegEngine("fcn", name, "cpu", changes=c).settings() for name, c in (("smoke", {}), ("short", {}), ("smoke", {"crop": 64}))]  # fmt: skip
    assert len({json.dumps(s, sort_keys=True) for s in settings}) == 3


def test_more_gpus_than_there_are_is_told_before_data_are_read():
    with pytest.raises(UserError, match="gpus=2"):
        MmsegEngine("fcn", "smoke", "cpu", gpus=2)


def test_the_majority_class_is_that_of_training(task):
    split = task.splits[0]
    tested = [task.regions[row] for row in split.test]
    most = int(np.argmax(np.sum([task.regions[row].pixels for row in split.train], axis=0)))
    for counts, region in zip(majority(task, split.train, tested), tested, strict=True):
        assert counts[:, most].tolist() == list(region.pixels)
        assert counts.sum() == sum(region.pixels)


BLOCKED = """
import subprocess, sys, socket

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name in ("mmcv._ext", "detectron2._C"):
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Blocked())

def refuse(*a, **k):
    raise AssertionError(f"not allowed: {a}")

socket.socket.connect = refuse
import torch
torch.set_num_threads(1)
from test_segmentation_engine import TINY, load_task, untrained
from transfer.engines.mmseg import MmsegEngine
from transfer.engines.mmseg import library
subprocess.Popen = subprocess.run = subprocess.check_output = refuse
from pathlib import Path
root = Path(sys.argv[1])
MmsegEngine(sys.argv[2], "smoke", "cpu", changes=TINY).run(load_task(root / "bcss"), untrained(), 0, 0, root)
"""


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
def test_no_compiled_part_no_command_no_network_and_no_words_of_the_library(tmp_path, head):
    """A whole cell in a process that has no mmcv._ext and may start nothing and connect to nothing; it writes to its folder alone."""
    away = tmp_path / "away"
    away.mkdir()
    here = os.path.dirname(__file__)
    root = os.path.dirname(os.path.dirname(here))
    environment = {**os.environ, "PYTHONPATH": f"{root}:{here}", "OMP_NUM_THREADS": "1", "HOME": str(away)}
    ran = subprocess.run(
        [sys.executable, "-c", BLOCKED, str(tmp_path), head], cwd=away, env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    assert re.fullmatch(
        r"  iteration (\d) of \1, loss \d+\.\d{3}, 0 s left\n  predicting \d test regions\n", ran.stdout
    )
    assert not list(away.iterdir())
    assert (tmp_path / "weights.safetensors").is_file()


@pytest.mark.slow
def test_two_processes_train_one_segmenter(task, tmp_path):
    """The way of several GPUs, on two CPU processes: each gets its half of every batch, and one result comes out."""
    from dataclasses import replace

    from transfer.engines.mmseg import training
    from transfer.engines.mmseg.launch import launch

    job = replace(job_of(task, tmp_path, batch=4, iterations=2), devices=2)
    launch(job)
    model = training.trained(replace(job, devices=1))
    assert [entry["iteration"] for entry in json.loads((tmp_path / "training.json").read_text())] == [1, 2]
    moved = model.backbone.state_dict()["conv1.weight"]
    assert not torch.equal(moved, job.backbone.state["conv1.weight"])
    assert not (tmp_path / "meeting").exists()


def test_no_test_region_is_read_before_the_weights_are_kept(task, tmp_path, monkeypatch):
    """Training sees training and validation regions only."""
    from transfer.engines.mmseg import training

    seen = []
    resampled = type(task).resampled
    monkeypatch.setattr(
        type(task), "resampled", lambda self, region: seen.append(region.slide) or resampled(self, region)
    )
    training.train(job_of(task, tmp_path))
    split = task.splits[0]
    assert set(seen) == {task.regions[row].slide for row in (*split.train, *split.validation)}
    assert len(set(seen)) == len(SLIDES) - len(split.test)
