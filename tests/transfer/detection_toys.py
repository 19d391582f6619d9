"""Detectors that train for two steps on a CPU."""

import torch

from transfer.encoders.network import Backbone, build_backbone
from transfer.engines.detectron2.schedules import read_schedule

TINY = {"iterations": 2, "crop": 64, "precise_bn": 1}


def backbone(architecture="resnet18", seed=0):
    torch.manual_seed(seed)
    state = build_backbone(architecture).state_dict()
    return Backbone(architecture, state, (0.7, 0.5, 0.6), (0.2, 0.25, 0.2))


def engine(name="faster_rcnn_fpn", **changes):
    from transfer.engines.detectron2.engine import FasterRCNN

    return FasterRCNN(name, "smoke", {**TINY, **changes}, "cpu")


def built(heads, weights):
    from transfer.engines.detectron2 import model

    schedule = read_schedule("smoke")
    cfg = model.configure(heads, weights.architecture, 4, schedule, weights.mean, weights.std, "cpu", "BN")
    return model.build(cfg, heads, weights)


def run(task, folder, weights, seed=0, trial=0, name="faster_rcnn_fpn", **changes):
    folder.mkdir()
    return engine(name, **changes).run(task, weights, seed, trial, folder)
