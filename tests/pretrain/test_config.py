"""What `python -m pretrain` makes of its arguments."""

import pytest

from pretrain.config import load, settings_digest
from results.errors import UserError


def test_layers_win_in_order(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("train: {epochs: 7, lr: 0.5}\nsgcl: {radius: 5}\n")
    config = load([f"recipe={recipe}", "train.lr=0.25", "method=sgcl"])
    assert config.tile == 64  # the rehearsal cohort's own layer
    assert (config.train.epochs, config.train.lr, config.sgcl.radius) == (7, 0.25, 5)
    assert load(["cohort=/slides"]).tile == 256
    assert "sgcl" not in load([f"recipe={recipe}", "method=npid"])


def test_published_values_are_the_defaults():
    config = load(["cohort=/slides"])
    assert (config.views.size, config.views.local_size, config.views.hue) == (224, 96, 0.4)
    assert (config.sgcl.temperature, config.sgcl.tau, config.sgcl.momentum) == (0.2, 0.07, 0.5)
    assert (config.sgcl.negatives, config.sgcl.nei_k, config.sgcl.clusters, config.sgcl.clusterings) == (
        65536,
        4096,
        1000,
        3,
    )
    assert (config.sgcl.radius, config.sgcl.aux, config.sgcl.ramp_up, config.train.lr) == (3.0, 1, 10, 0.015)


def test_places_and_speeds_are_no_part_of_a_runs_identity():
    digest = settings_digest(load(["seed=1"]), "store")
    assert (
        settings_digest(load(["seed=1", "work=/elsewhere", "train.loaders=4", "device=cpu", "run=x"]), "store")
        == digest
    )
    assert settings_digest(load(["seed=2"]), "store") != digest
    assert settings_digest(load(["seed=1", "sgcl.d1=false"]), "store") != digest
    assert settings_digest(load(["seed=1"]), "another store") != digest


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("npid.negatives=5", "belongs to method=npid, this is method=sgcl"),
        ("sgcl.varint=1", "did you mean 'sgcl.variant'"),
        ("epochs=3", "did you mean 'train.epochs'"),
        ("train=3", "is a group of settings"),
        ("train.epochs=abc", "a whole number is expected"),
        ("train.epochs=0", "give 1 or more"),
        ("train.lr=.nan", "give a number from"),
        ("train.momentum=5", "give a number from"),
        ("views.hue=.nan", "give a number from"),
        ("device=tpu", "choose auto, cpu or cuda"),
        ("views.scale=[1]", r"give \[low, high\]"),
        ("views.scale=[0.9,0.2]", r"give \[low, high\]"),
        ("sgcl.variant=fxed", "choose one of fixed, reference"),
        ("train.amp=fp16", "choose auto, off or bf16"),
        ("train.processes=0", "give a number from 1"),
        ("recipe=dmeo", "choose one of .*demo, smoke"),
        ("method=sgkl", "did you mean 'sgcl'"),
        ("backbone=resnet19", "choose one of"),
        ("sgcl.inner=2", "true or false is expected"),
        ("sgcl.d1=-0.5", "true or false or null is expected"),
        ("method=npid npid.momentum=0", "above 0, at most 1"),
        ("method=npid_mcrop npid_mcrop.momentum=0", "above 0, at most 1"),
        ("method=sslp sslp.momentum=0", "above 0, at most 1"),
        ("sgcl.d3=true", "sgcl.d3 is no switch, D3 is mended in both .* d1, d2, d4, d5, d6, d7, d16"),
        ("sgcl.d8=true", "D8 goes with sgcl.variant"),
        ("sgcl.d14=true", "sgcl.normalise=true"),
        ("sgcl.d99=true", "no defect of this number"),
        ("method=npid sgcl.d3=1", "belongs to method=sgcl|is no switch"),
        ("sgcl.bank=fp16", r"^sgcl\.bank=fp16 is not known: choose one of fp32, bf16, int8\.$"),
        ("sgcl.neck=x", r"^sgcl\.neck=x .* mlp, linear"),
        ("sgcl.form=x", r"^sgcl\.form=x .* auto, exact, sampled"),
        ("sgcl.mining=x", r"^sgcl\.mining=x .* hardest"),
        ("sgcl.momentum=0", r"^sgcl\.momentum=0 "),
        (
            "sgcl.discrimination=false sgcl.spatial=false sgcl.semantic=false sgcl.inner=false",
            "sgcl.spatial, .* sgcl.inner are all",
        ),
        ("method=sslp sslp.bank=fp16", r"^sslp\.bank=fp16"),
        ("method=pirl pirl.bank=fp16", r"^pirl\.bank=fp16"),
        ("method=pirl pirl.global_weight=0 pirl.jigsaw_weight=0", r"^pirl.global_weight=0 and pirl\.jigsaw_weight=0"),
        ("method=byol byol.momentum=2", r"^byol\.momentum=2"),
        ("method=moco_v2 moco_v2.momentum=2", r"^moco_v2\.momentum=2"),
        ("method=densecl densecl.momentum=2", r"^densecl\.momentum=2"),
        ("method=odc odc.clusters=1", r"^odc\.clusters=1 "),
        ("sgcl.radius=1", "sgcl.radius=1.0 does not fit"),
        ("foo", "write key=value"),
    ],
)
def test_mistakes_are_told_in_one_sentence(argument, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        load(argument.split())
    assert "\n" not in str(caught.value)
