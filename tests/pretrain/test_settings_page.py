"""What `python -m pretrain --settings` prints."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from pretrain import methods
from pretrain.__main__ import main
from pretrain.config import CONFIGS, load
from pretrain.methods.declared import options_of
from pretrain.settings_page import page
from results.settings import load_yaml

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", methods.METHODS)
def test_options_are_read_as_they_are_imported(name):
    read, real = options_of(name), methods.find(name).Options

    def facts(cls):
        return [(f.name, f.type, f.default) for f in dataclasses.fields(cls)]

    assert facts(read) == facts(real)
    assert read.__doc__ == real.__doc__


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
        for line in page([f"method={name}"]).splitlines():
            if ": " in line and not line.lstrip().startswith("#") and line != "rotation: {}":
                value, _, meaning = line.partition("  # ")
                assert meaning, f"{line} of {name}: say it in configs/meanings.yaml"
                assert not value.rstrip().endswith(" null") or "null:" in meaning, line


def test_no_meaning_is_of_a_setting_that_is_not():
    said = load_yaml(CONFIGS / "meanings.yaml")
    options = {field.name for name in methods.METHODS for field in dataclasses.fields(options_of(name))}
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


def test_the_page_is_printed_without_torch():
    code = "import sys; from pretrain.__main__ import main; assert main(['train', '--settings', 'method=dino']) == 0; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "prototypes: 65536" in done.stdout


def test_another_step_names_where_its_settings_stand(capsys):
    assert main(["parity", "--settings"]) == 2
    assert "pretrain --help" in capsys.readouterr().err
