"""Weight files that must not become an encoder, each with one sentence that says why."""

import io
import pickle
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from results.errors import UserError
from transfer.encoders import EncoderOptions, open_encoder
from transfer.encoders.architectures import build_backbone

CPU = EncoderOptions(device="cpu", size=32)
LOOSE = EncoderOptions(device="cpu", size=32, allow_partial=True)


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(4)
    return build_backbone("resnet18").state_dict()


def refusal(path, options=CPU, spec=""):
    with pytest.raises(UserError) as error:
        open_encoder(spec or str(path), options)
    text = str(error.value)
    assert "\n" not in text
    assert text.endswith(".")
    assert len(text) < 1200
    return text


def reversed_values(state):
    return dict(zip(state, list(state.values())[::-1], strict=True))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (reversed_values, ["does not fit resnet18", "by stage: stem", "instead of"]),
        (lambda s: {f"wrapped.{i % 3}.{n}": v for i, (n, v) in enumerate(s.items())}, ["holds a backbone under 'wrapped.0.', a prefix of no known family"]),
        (lambda s: {n.replace("layer", "stage"): v for n, v in s.items()}, ["does not fit any known network", "0 tensors loaded of its 120", "stage2 (30)"]),
        (lambda s: {**{f"strange.{n}": v for n, v in s.items()}, "more.weight": torch.ones(2)}, ["'strange.', a prefix of no known family", "more (1)", "#strange"]),
        (lambda s: {**{f"a.{n}": v for n, v in s.items()}, **{f"b.{n}": v for n, v in s.items()}}, ["2 backbones (a, b)", "#a"]),
        (lambda s: {n: v for n, v in s.items() if not n.startswith("layer3")}, ["layer3 0/25", "25 missing", "allow_partial=true"]),
        (lambda s: {**s, "layer1.2.conv1.weight": torch.ones(64, 64, 3, 3)}, ["1 unexpected", "unexpected layer1.2.conv1.weight"]),
        (lambda s: {**s, "attention.weight": torch.ones(3)}, ["unexpected attention.weight"]),
        (lambda s: {**s, "layer2.0.conv1.weight": torch.full_like(s["layer2.0.conv1.weight"], torch.nan)}, ["layer2.0.conv1.weight that are not finite"]),
        (lambda s: {n: torch.zeros_like(v) for n, v in s.items()}, ["one number all over conv1.weight"]),
        (lambda s: {n: torch.full_like(v, torch.nan) if v.is_floating_point() else v for n, v in s.items()}, ["not finite"]),
        (lambda s: {**s, "bn1.running_var": -s["bn1.running_var"]}, ["negative variances in bn1.running_var"]),
        (lambda s: {**s, "conv1.weight": s["conv1.weight"].to(torch.int8)}, ["conv1.weight (64, 3, 7, 7) int8 instead of"]),
        (lambda s: {n: v.to(torch.complex64) for n, v in s.items()}, ["conv1.weight (64, 3, 7, 7) complex64 instead of"]),
        (lambda s: {**s, "x" * 10**5: torch.ones(1)}, ["1 unexpected", f"unexpected {'x' * 200}):"]),
        (lambda s: {**s, "conv1.weight": s["conv1.weight"][:, :1]}, ["conv1.weight (64, 1, 7, 7) instead of (64, 3, 7, 7)"]),
        (lambda s: {**s, **{f"junk{i}.x": one for i, one in enumerate(torch.ones(2000, 1))}}, ["2000 unexpected"]),
        (lambda s: {}, ["no named tensors (no keys)"]),
        (lambda s: torch.ones(3), ["holds a Tensor instead of tensors by name"]),
        (lambda s: list(s.values()), ["holds a list"]),
        (lambda s: dict(enumerate(s.values())), ["no named tensors (int keys)"]),
        (lambda s: {"patch_embed.proj.weight": torch.randn(96, 3, 4, 4), "layers.0.norm.weight": torch.ones(96)}, ["not known here", "timm:NAME@"]),
    ],
    ids=lambda value: None,
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_its_report(tmp_path, state, change, words):
    path = tmp_path / "weights.pth"
    torch.save(change(state), path)
    text = refusal(path)
    assert str(path) in text
    for word in words:
        assert word in text, text


@pytest.mark.slow
def test_very_many_names_are_one_sentence(tmp_path):
    save_file({f"junk.{i}": torch.ones(1) for i in range(100_000)}, tmp_path / "w.safetensors")
    text = refusal(tmp_path / "w.safetensors")
    assert "0 tensors loaded of its 100000" in text
    assert "junk (100000)" in text


def test_a_strange_prefix_can_be_vouched_for(tmp_path, state):
    path = tmp_path / "w.pth"
    torch.save({**{f"strange.{n}": v for n, v in state.items()}, "more.weight": torch.ones(2)}, path)
    encoder = open_encoder(f"{path}#strange", CPU)
    assert encoder.coverage["share"] == 1
    assert encoder.coverage["left_aside"] == {"more": 1}
    assert encoder.coverage["family"] == "chosen by its prefix"


def test_partial_weights_need_leave_and_say_their_share(tmp_path, state):
    path = tmp_path / "w.pth"
    torch.save({n: v for n, v in state.items() if not n.startswith("layer4")}, path)
    refusal(path)
    encoder = open_encoder(str(path), LOOSE)
    assert encoder.coverage["share"] == 0.75
    assert encoder.coverage["stages"]["layer4"] == [0, 25]
    torch.manual_seed(77)
    assert open_encoder(str(path), LOOSE).digest == encoder.digest


def test_nothing_loaded_is_refused_even_with_leave(tmp_path, state):
    path = tmp_path / "w.pth"
    torch.save({n: v.flatten() for n, v in state.items() if v.ndim > 1}, path)
    assert "known" in refusal(path, LOOSE)


class Trap:
    """Touches a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("zipped", [True, False])
def test_no_pickle_is_ever_executed(tmp_path, state, zipped):
    path, touched = tmp_path / "trap.pth", tmp_path / "touched"
    torch.save({"state_dict": dict(state), "args": Trap(str(touched))}, path, _use_new_zipfile_serialization=zipped)
    text = refusal(path)
    assert not touched.exists()
    assert "io.open" in text
    assert "torch.save(model.state_dict(), FILE)" in text
    with open(tmp_path / "r50.pkl", "wb") as file:
        pickle.dump({"model": {"stem.conv1.weight": np.ones(3)}, "trap": Trap(str(touched))}, file)
    assert "plain pickle (as Detectron2's .pkl)" in refusal(tmp_path / "r50.pkl")
    assert not touched.exists()


class Callback:
    def __init__(self):
        self.best = 1


def test_unknown_objects_are_named_and_known_ones_never_made(tmp_path, state):
    torch.save({"state_dict": dict(state), "callback": Callback()}, tmp_path / "a.pth")
    assert "test_weight_refusals.Callback" in refusal(tmp_path / "a.pth")
    from omegaconf import OmegaConf
    from pytorch_lightning.utilities.parsing import AttributeDict

    known = {
        "hyper_parameters": AttributeDict(lr=1, optimizer=OmegaConf.create({"a": [1, "x", None, 0.5, True]})),
        "epoch": np.float64(3), "history": np.arange(3), "where": tmp_path, "other": OrderedDict(a=1), "lr": np.int64(2),
    }  # fmt: skip
    torch.save({"state_dict": dict(state), **known}, tmp_path / "b.pth")
    assert open_encoder(str(tmp_path / "b.pth"), CPU).coverage["share"] == 1


def test_histories_of_mmengine_are_passed_over(tmp_path, state):
    history = pytest.importorskip("mmengine.logging").HistoryBuffer([1.0, 2.0], [1, 1])
    content = {
        "meta": {},
        "message_hub": {"loss": history},
        "state_dict": {f"backbone.{n}": v for n, v in state.items()},
    }
    torch.save(content, tmp_path / "w.pth")
    assert open_encoder(str(tmp_path / "w.pth"), CPU).coverage["family"] == "MMSelfSup, OpenSelfSup, MMPretrain"


def test_damaged_files_are_named(tmp_path, state):
    stream = io.BytesIO()
    torch.save(state, stream)
    whole = stream.getvalue()
    save_file(state, tmp_path / "w.safetensors")
    tensors = (tmp_path / "w.safetensors").read_bytes()
    old = io.BytesIO()
    torch.save(state, old, _use_new_zipfile_serialization=False)
    cases = {
        "half.pth": whole[: len(whole) // 2], "head.pth": whole[:40], "empty.pth": b"", "text.pth": b"hello, these are no weights at all",
        "half.safetensors": tensors[: len(tensors) // 2], "empty.safetensors": b"", "old.pth": old.getvalue()[:200_000],
        "zip.pth": b"PK\x03\x04" + bytes(100), "zeros.pth": bytes(4096),
    }  # fmt: skip
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        assert "cannot be read as weights" in refusal(tmp_path / name), name


@pytest.mark.parametrize("zipped", [True, False])
def test_any_damage_is_one_sentence(tmp_path, zipped):
    stream, random, path = io.BytesIO(), np.random.default_rng(0), tmp_path / "w.pth"
    content = {"state_dict": {"layer1.0.conv1.weight": torch.ones(2, 2)}, "epoch": 1, "lr": np.float64(1)}
    torch.save(content, stream, _use_new_zipfile_serialization=zipped)
    whole = np.frombuffer(stream.getvalue(), np.uint8)
    for _ in range(60):
        damaged = whole.copy()
        damaged[random.integers(0, len(whole), 3)] = random.integers(0, 256, 3)
        path.write_bytes(damaged.tobytes())
        refusal(path)


def test_a_file_that_would_swell_is_not_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(2**26))
    assert "would grow to 64 MiB" in refusal(tmp_path / "bomb.pth")


def test_a_mapping_that_holds_itself_ends(tmp_path):
    content = {"weight": torch.ones(1)}
    content["model"] = content
    torch.save(content, tmp_path / "w.pth")
    assert "0 tensors loaded of its 1" in refusal(tmp_path / "w.pth")
