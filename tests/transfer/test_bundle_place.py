"""Where an export may be written, and what stays untouched."""

import errno
import json
import os

import pytest

from transfer import bundle
from transfer.__main__ import main

LISTED = {"bundle": {"files": {"timm.safetensors": {}}}}


def export(out, *words):
    return main(["export", f"out={out}", "encoder=random", "formats=[torchvision]", *words])


def refusal(capsys):
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """The proof is test_bundle's matter."""
    monkeypatch.setattr(bundle, "prove", lambda *a: {"stages": {}, "largest": 0.0, "library": "none"})


@pytest.mark.parametrize(
    ("card", "others", "named"),
    [
        ("5", ["thesis.txt"], "card.json"),
        ("[1]", [], "card.json"),
        ('["bundle"]', [], "card.json"),
        ('{"bundle": {"files": 3}}', [], "card.json"),
        ("[" * 100_000, [], "card.json"),
        ("7" * 5000, [], "card.json"),
        (json.dumps(LISTED), ["timm.safetensors", "thesis.txt"], "thesis.txt"),
        (json.dumps(LISTED), ["timm.safetensors/"], "timm.safetensors"),
        (json.dumps({"bundle": {"files": ["../other.txt"]}}), ["other.txt"], "other.txt"),
    ],
    ids=["5", "list", "list of bundle", "files 3", "deep", "digits", "beside a bundle", "a folder", "a path"],
)
def test_other_peoples_files_stay(card, others, named, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "card.json").write_text(card)
    for other in others:
        (out / other).mkdir() if other.endswith("/") else (out / other).write_text("mine")
    before = sorted(out.iterdir())
    assert export(out) == 2
    assert named in refusal(capsys)
    assert sorted(out.iterdir()) == before


def test_a_card_that_is_a_pipe_is_not_waited_for(tmp_path, capsys):
    os.mkfifo(tmp_path / "card.json")
    assert export(tmp_path) == 2
    assert "card.json" in refusal(capsys)


def test_an_empty_folder_that_cannot_be_renamed_is_filled_and_refilled(tmp_path, monkeypatch):
    """As a mount point refuses it."""
    out, rename = tmp_path / "mounted", os.replace
    out.mkdir()

    def replace(source, target):
        if out in (type(out)(source), type(out)(target)):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(target))
        rename(source, target)

    monkeypatch.setattr(os, "replace", replace)
    assert export(out) == 0
    assert {path.name for path in out.iterdir()} == {"torchvision.safetensors", "card.json", "USE.md"}
    assert export(out, "formats=[timm]") == 0
    assert {path.name for path in out.iterdir()} == {"timm.safetensors", "card.json", "USE.md"}


def test_here_is_a_folder_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert export(".") == 0
    assert (tmp_path / "card.json").is_file()


@pytest.mark.parametrize("backbone", ["resnet34", "timm:resnet10t"])
def test_a_network_without_a_dialect_is_refused(backbone, tmp_path, capsys):
    assert export(tmp_path / "out", f"backbone={backbone}") == 2
    assert "resnet50" in refusal(capsys)
    assert not (tmp_path / "out").exists()
