"""The Camelyon16 recipes: their published values, and every method trained by them as a user does.

The runs have the true tiles and views, but 12 tiles a batch in the place of 16 to 64: two steps of every method in some minutes.
"""

import json
import math
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from pretrain.__main__ import main
from pretrain.backbones import build
from pretrain.cohorts.rehearsal import generate
from pretrain.config import load
from pretrain.methods import METHODS

BATCH = 12
COMMON = {
    "optimizer": "sgd",
    "lr": 0.015,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "warmup_epochs": 0,
    "batch_size": 32,
    "epochs": 100,
}
LARS = {"optimizer": "lars", "warmup_epochs": 10}
TRAIN = {
    "rotation": {"lr": 0.1, "batch_size": 16, "epochs": 70, "warmup_epochs": 5},
    "relative_loc": {"lr": 0.1, "batch_size": 64, "epochs": 70},
    "deepcluster": {"lr": 0.1, "weight_decay": 1e-5, "batch_size": 64},
    "odc": {"lr": 0.03, "weight_decay": 1e-5, "batch_size": 64},
    "simclr": LARS | {"lr": 0.15, "weight_decay": 1e-6},
    "byol": LARS | {"lr": 0.2, "weight_decay": 1.5e-6, "warmup_epochs": 2},
    "barlow_twins": LARS | {"lr": 0.1, "weight_decay": 1.5e-6},
    "vicreg": LARS | {"lr": 0.1, "weight_decay": 1e-6},
}  # fmt: skip
"""What differs from the common schedule (sgcl-method.md 2.11 and 3; docs/methods-older.md for odc)."""
OPTIONS = {
    "npid": {"neck": "mlp", "temperature": 0.2, "negatives": 65536, "momentum": 0.5},
    "sgcl": {"temperature": 0.2, "tau": 0.07, "radius": 3, "aux": 1, "nei_k": 4096, "clusters": 1000, "clusterings": 3, "ramp_up": 10},
    "sslp": {"temperature": 0.07, "nei_k": 4096, "radius": 3, "clusters": 1000, "clusterings": 3, "momentum": 0.5},
    "npid_mcrop": {"global_weight": 0.2, "local_weight": 0.8, "temperature": 0.2, "negatives": 65536},
    "pirl": {"global_weight": 0.5, "jigsaw_weight": 0.5, "temperature": 0.2, "negatives": 65536},
    "moco_v1": {"temperature": 0.07, "negatives": 65536, "momentum": 0.999},
    "moco_v2": {"temperature": 0.2, "negatives": 65536, "momentum": 0.999},
    "simclr": {"hidden": 512, "dimension": 128, "temperature": 0.1},
    "byol": {"hidden": 1024, "dimension": 256, "momentum": 0.996},
    "densecl": {"temperature": 0.2, "negatives": 65536, "global_weight": 1, "dense_weight": 1},
    "deepcluster": {"clusters": 10000, "components": 256},
    "odc": {"clusters": 10000, "min_cluster": 20, "update_every": 10, "momentum": 0.5, "dimension": 256, "hidden": 512},
    "dino": {"prototypes": 65536, "momentum": 0.996, "local_crops": 8},
}  # fmt: skip
VIEWS = {
    "moco_v2": {"jitter": 0.8, "hue": 0.1, "blur": 0.5},
    "pirl": {"local_size": 64},
    "relative_loc": {"local_size": 64},
}


@pytest.mark.parametrize("name", METHODS)
def test_the_recipe_holds_the_published_values(name):
    config = load(["cohort=/slides", "recipe=camelyon16", f"method={name}"])
    assert (config.tile, config.mpp, config.backbone, config.views.size) == (256, 0.5, "resnet18", 224)
    views = (
        {"local_size": 96, "hue": 0.4, "blur": 0, "jitter": 1} if name in ("npid", "sgcl", "sslp", "moco_v1") else {}
    )
    for group, wanted in (
        (config.train, COMMON | TRAIN.get(name, {})),
        (config[name], OPTIONS.get(name, {})),
        (config.views, views | VIEWS.get(name, {})),
    ):
        assert {key: group[key] for key in wanted} == wanted


def test_a_transformer_trains_by_its_own_optimiser():
    for name in METHODS:
        train = load(["cohort=/slides", "recipe=camelyon16_vit", f"method={name}"]).train
        assert (train.optimizer, train.lr, train.weight_decay, train.clip) == ("adamw", 0.00025, 0.04, 3.0)


@pytest.fixture(scope="module")
def slides(tmp_path_factory) -> Path:
    """Three labelled synthetic slides with some 30 tiles of 256 px."""
    return generate(tmp_path_factory.mktemp("slides") / "cohort", 0, 3, 1024)


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """One work folder, so that slides are tiled once."""
    return tmp_path_factory.mktemp("work")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "name"), [*(("camelyon16", name) for name in METHODS), ("camelyon16_vit", "dino"), ("camelyon16_vit", "sgcl")]
)  # fmt: skip
def test_the_recipe_trains_and_exports(slides, work, recipe, name, capsys):
    epochs = (
        2 if name in ("deepcluster", "odc") else 1
    )  # their first one collects features and leaves the backbone alone
    words = [
        f"cohort={slides}",
        f"recipe={recipe}",
        f"method={name}",
        f"work={work}",
        f"run={recipe}-{name}",
        "device=cpu",
    ]
    small = [f"train.epochs={epochs}", f"train.batch_size={BATCH}", "train.log_every=1", "tiling.workers=0"]
    assert main([*words, *small]) == 0, capsys.readouterr().err
    run = work / "runs" / f"{recipe}-{name}"
    steps = [line for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if "loss" in line]
    assert len(steps) >= 2 * epochs
    assert all(math.isfinite(line["loss"]) and math.isfinite(line["spread"]) for line in steps)
    card = json.loads((run / "export" / "card.json").read_text())
    assert (card["step"], card["finished"], card["input"]["size"], card["input"]["tile"]) == (
        len(steps),
        True,
        224,
        256,
    )
    network, _ = build(card["backbone"])
    network.load_state_dict(load_file(run / "export" / "backbone.safetensors"), strict=True)
    shutil.rmtree(run)  # the runs of all methods together take 3.6 GB
