"""Names, cards and files that nobody meant: each refused in one sentence, and none stops what is whole."""

import io
import json
import os
import sys

import pytest
import torch
from safetensors.torch import save_file
from transfer_toys import TILE, write_export

from results.errors import UserError
from transfer.__main__ import main
from transfer.classify import load
from transfer.encoders import EncoderOptions, open_encoder, open_encoders
from transfer.encoders.architectures import build_backbone, recognise
from transfer.encoders.cards import newest, newest_of_each, read_card
from transfer.encoders.network import choose_device
from transfer.recording import say

CPU = EncoderOptions(device="cpu", size=TILE)


def refusal(call, *arguments):
    with pytest.raises(UserError) as error:
        call(*arguments)
    text = str(error.value)
    assert "\n" not in text
    assert text.endswith(".")
    assert len(text) < 500
    return text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("vit_tiny_patch0_224", "patches of 1 to 64"),
        ("vit_tiny_patch16_225", "divide"),
        ("vit_tiny_patch1_99999", "at most 1024"),
        ("vit_tiny_patch1_1024", "256 are the most"),
        ("vit_tiny_patch16_224_0heads", "heads"),
        ("vit_tiny_patch16_224_7heads", "divides its 192"),
        ("vit_tiny_patch16_" + "9" * 5000, "not known"),
        ("\udcff", "not known"),
    ],
)
def test_a_transformer_that_cannot_be_is_refused(name, words, tmp_path):
    assert words in refusal(build_backbone, name)
    assert words in refusal(open_encoder, "random", EncoderOptions(device="cpu", backbone=name))
    card = write_export(tmp_path / "run", backbone="resnet18") / "export" / "card.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"backbone": name.replace("\udcff", "?")}))
    assert words in refusal(open_encoder, str(tmp_path / "run"), CPU)


@pytest.mark.parametrize(
    "change", [lambda e: e.to_sparse(), lambda e: e[:, :, :-1], lambda e: e[:0], lambda e: e.int()]
)
def test_odd_position_embeddings_are_no_surprise(change, tmp_path):
    state = dict(build_backbone("vit_small").state_dict())
    state["pos_embed"] = change(state["pos_embed"])
    assert recognise(state) in ("vit_small", None)
    torch.save(state, tmp_path / "vit.pth")
    assert "pos_embed" in refusal(open_encoder, str(tmp_path / "vit.pth"), CPU)


def test_tensors_without_numbers_are_refused(tmp_path):
    state = build_backbone("resnet18").state_dict()
    state["conv1.weight"] = torch.empty((64, 3, 7, 7), device="meta")
    torch.save(state, tmp_path / "meta.pth")
    assert "conv1.weight" in refusal(open_encoder, str(tmp_path / "meta.pth"), CPU)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mean", [10**400, 0, 0]), ("mean", [float("nan"), 0, 0]), ("mean", [True, 0, 0]), ("std", [1e-320, 1, 1]),
        ("std", [10**400] * 3), ("mpp", 10**400), ("mpp", "x"), ("size", 10**400), ("tile", float("inf")), ("note", "\ud800"),
    ],
)  # fmt: skip
def test_numbers_of_a_card_are_sane(key, value, tmp_path):
    card = write_export(tmp_path / "run") / "export" / "card.json"
    content = json.loads(card.read_text())
    content["input"][key] = value
    card.write_text(json.dumps(content))
    assert "card.json" in refusal(read_card, card)


def test_a_damaged_run_blocks_no_other(tmp_path, capsys):
    whole = write_export(tmp_path / "runs" / "a", created="2020-01-01")
    for name, text in {"b": "{", "c": "5", "d": None}.items():
        card = write_export(tmp_path / "runs" / name) / "export" / "card.json"
        card.unlink()
        os.mkfifo(card) if text is None else card.write_text(text)
    odd = write_export(tmp_path / "runs" / "e", created="2010-01-01") / "export" / "card.json"
    odd.write_text(json.dumps(json.loads(odd.read_text()) | {"seed": [1]}))
    assert newest(tmp_path) == newest(tmp_path, "sgcl", "toy", "0") == whole
    assert whole in newest_of_each(tmp_path)[0]
    warned = capsys.readouterr().err.splitlines()[:3]
    assert [name in line for name, line in zip("bcd", warned, strict=True)] == [True] * 3
    assert all(f"runs/{name}/export/card.json" in line for name, line in zip("bcd", warned, strict=True))
    assert "runs/b" in refusal(open_encoder, str(tmp_path / "runs" / "b"), CPU)


@pytest.mark.parametrize(
    ("typed", "words"),
    [("timm:", "NAME"), ("torchvision:", "NAME"), ("", "empty"), ("[[a,b]]", "brackets"), ("timm:resnet18@/nope", "no such file")],
)  # fmt: skip
def test_words_that_name_no_encoder(typed, words):
    text = refusal(lambda: open_encoders(load([f"encoder={typed}"]).encoder, CPU, False))
    assert words in text
    assert "None" not in text
    if typed.count(":") and typed.endswith(":"):
        assert words in refusal(open_encoder, typed, CPU).replace("names no network", "NAME")


def test_an_empty_file_says_so(tmp_path):
    for name in ("a.pth", "a.safetensors"):
        (tmp_path / name).touch()
        assert "the file is empty" in refusal(open_encoder, str(tmp_path / name), CPU)


def test_a_list_of_300_backbones_is_shortened(tmp_path):
    weight = torch.rand(4, 4)
    save_file({f"net{i}.layer1.0.conv1.weight": weight.clone() for i in range(300)}, tmp_path / "many.safetensors")
    for spec in ("", "#net77x"):
        text = refusal(open_encoder, f"{tmp_path / 'many.safetensors'}{spec}", CPU)
        assert "294 more" in text
    assert "net77" in text.partition("write one of")[2]


@pytest.mark.parametrize(
    ("words", "said"),
    [("engines=[[knn]]", "engines"), ("engines=[{a: b}]", "engines"), ("trials=1001", "1000"), ("trials=9999999999", "1000")],
)  # fmt: skip
def test_settings_of_the_wrong_kind(words, said):
    assert said in refusal(load, [words])


@pytest.mark.parametrize("name", ["meta", "mps", "cuda:99999", "cpu:3", "xla", "cuda:-1"])
def test_devices_are_cpu_and_cuda(name):
    assert f"device={name}" in refusal(choose_device, name)


def test_names_of_any_bytes_are_shown(monkeypatch):
    for encoding, shown in (("utf-8", "a\\udcffé[2J\n"), ("ascii", "a\\udcff\\xe9[2J\n")):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")
        monkeypatch.setattr(sys, "stdout", stream)
        say("a\udcffé\x1b[2J\u202e\r")
        assert stream.buffer.getvalue().decode(encoding) == shown


def test_a_mistake_is_told_without_control_characters(capsys):
    assert main(["classify", "task=\x1b[2J\u202enct\nerror: none"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: task=[2Jnct error: none cannot be parsed")
    assert len(said.splitlines()) == 1
    assert main(["classify", "encoder=latest", "work=no\x1b]0;such"]) == 2
    assert "\x1b" not in capsys.readouterr().err
