"""What `python -m pretrain --settings` prints."""

import dataclasses
import inspect

import pytest
import yaml
from omegaconf import OmegaConf

from pretrain import methods
from pretrain.__main__ import main
from pretrain.config import CONFIGS, load
from pretrain.settings_page import page
from results.settings import load_yaml


@pytest.mark.parametrize(
    "arguments", [[], ["recipe=demo", "sgcl.radius=2"], *([f"method={m}"] for m in methods.METHODS)]
)
def test_the_page_is_the_settings_that_a_run_would_have(arguments):
    assert yaml.safe_load(page(arguments)) == yaml.safe_load(OmegaConf.to_yaml(load(arguments)))


def test_the_page_of_a_run_is_a_recipe_for_it(tmp_path):
    (tmp_path / "mine.yaml").write_text(page(["recipe=demo", "sgcl.radius=2"]))
    assert load([f"recipe={tmp_path}/mine.yaml"]).sgcl.radius == 2


def test_every_setting_says_what_it_means_and_every_null_what_it_does():
    for name in methods.METHODS:
        text, group = page([f"method={name}"]), ""
        assert inspect.getdoc(methods.find(name).Options).split()[0] in text
        for line in text.splitlines():
            if not line.startswith((" ", "#")):
                group = line.partition(":")[0]
            value, _, meaning = line.partition("  # ")
            if ": " in value and "{}" not in value and not line.lstrip().startswith("#"):
                assert meaning or group == name, (
                    f"{line}: say it in configs/meanings.yaml"
                )  # the docstring says a method's own
                assert not value.rstrip().endswith(" null") or "null:" in meaning, line


def test_no_meaning_is_of_a_setting_that_is_not():
    said = load_yaml(CONFIGS / "meanings.yaml")
    options = {field.name for name in methods.METHODS for field in dataclasses.fields(methods.find(name).Options)}
    assert set(said.pop("options")) <= options
    assert all(
        OmegaConf.select(load([]), key, throw_on_missing=True) is not None or "null:" in said[key] for key in said
    )


def test_who_set_a_value_stands_beside_it():
    text = page(["recipe=demo", "sgcl.radius=2"])
    assert "radius: 2.0" in text
    (radius, tile, epochs, seed) = (
        next(line for line in text.splitlines() if line.strip().startswith(key))
        for key in ("radius:", "tile:", "epochs:", "seed:")
    )
    assert radius.endswith("[the command line]")
    assert tile.endswith("[configs/cohort/rehearsal.yaml]")
    assert epochs.endswith("[demo]")
    assert "[" not in seed


def test_another_step_names_where_its_settings_stand(capsys):
    assert main(["parity", "--settings"]) == 2
    assert "pretrain --help" in capsys.readouterr().err
