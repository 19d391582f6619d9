import json

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from transfer_toys import TILE, write_export

from results.errors import UserError
from transfer.encoders import EncoderOptions, check_specs, open_encoder, open_encoders
from transfer.encoders.cards import newest, newest_of_each
from transfer.encoders.network import RandomEncoder, build_backbone, choose_device, load_weights

CPU = EncoderOptions(device="cpu", size=TILE)


@pytest.fixture(scope="module")
def batch():
    return np.random.default_rng(0).integers(0, 256, (5, TILE, TILE, 3), dtype=np.uint8)


def test_mean_rgb_is_the_plain_mean(batch):
    floor = open_encoder("mean_rgb", CPU)
    expected = [[tile[..., c].astype(float).mean() / 255 for c in range(3)] for tile in batch]
    features = floor.features(batch)
    assert features.dtype == np.float32
    assert features.shape == (5, floor.feature_dim)
    np.testing.assert_allclose(features, expected, rtol=1e-6)


def test_colour_histogram_is_numpys(batch):
    floor = open_encoder("colour_histogram", CPU)
    features = floor.features(batch)
    for tile, row in zip(batch, features, strict=True):
        counts, _ = np.histogramdd(tile.reshape(-1, 3), bins=8, range=[(0, 256)] * 3)
        np.testing.assert_allclose(row, np.sqrt(counts.ravel() / counts.sum()), rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-6)


def test_an_export_gives_the_features_of_its_weights(run, batch):
    encoder = open_encoder(str(run), CPU)
    model = torchvision.models.resnet18(weights=None)
    model.load_state_dict(load_file(run / "export" / "backbone.safetensors"), strict=False)
    model.fc = torch.nn.Identity()
    with torch.inference_mode():
        expected = model.eval()((torch.from_numpy(batch).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25)
    np.testing.assert_allclose(encoder.features(batch), expected.numpy(), rtol=1e-5, atol=1e-6)
    assert (encoder.kind, encoder.name, encoder.feature_dim) == ("run", "sgcl on toy", 512)
    assert encoder.run == run.name
    stages = {"stem": [5, 5], "layer1": [20, 20], "layer2": [25, 25], "layer3": [25, 25], "layer4": [25, 25]}
    counts = {"share": 1.0, "loaded": 100, "missing": 0, "unexpected": 0, "dropped_heads": {}, "stages": stages}
    assert encoder.coverage == {**counts, "family": "export", "architecture": "resnet18"}
    assert open_encoder(str(run / "export" / "backbone.safetensors"), CPU).kind == "file"


def test_tiles_are_resized_to_the_side_of_the_card(run):
    encoder = open_encoder(str(run), CPU)
    flat = np.full((2, TILE, TILE, 3), 90, np.uint8)
    larger = np.full((2, 3 * TILE, 3 * TILE, 3), 90, np.uint8)
    np.testing.assert_allclose(encoder.features(flat), encoder.features(larger), rtol=1e-4, atol=1e-5)


def test_the_name_of_the_card_wins_over_the_method(tmp_path):
    assert open_encoder(str(write_export(tmp_path / "r", name="sgcl (fixed)")), CPU).name == "sgcl (fixed) on toy"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: {name.replace("layer", "stage"): v for name, v in w.items()}, ["missing", "unexpected", "layer1.0.conv1.weight"]),
        (lambda w: {name: v for name, v in w.items() if not name.startswith("layer4")}, ["missing layer4.0.conv1.weight", "25 missing"]),
        (lambda w: {f"backbone.{name}": v for name, v in w.items()}, ["0 tensors loaded", "unexpected backbone."]),
        (lambda w: torchvision.models.resnet34(weights=None).state_dict(), ["0 missing", "unexpected layer1.2."]),
        (lambda w: build_backbone("resnet50").state_dict(), ["layer1.0.conv1.weight (64, 64, 1, 1) instead of (64, 64, 3, 3)"]),
    ],
    ids=["renamed stages", "missing stage", "prefix", "resnet34 fits but is larger", "resnet50"],
)  # fmt: skip
def test_weights_that_do_not_fit_are_refused_with_names(tmp_path, run, change, words):
    weights = change(load_file(run / "export" / "backbone.safetensors"))
    weights = {name: value for name, value in weights.items() if not name.startswith("fc.")}
    other = write_export(tmp_path / "run", weights=weights)
    with pytest.raises(UserError) as error:
        open_encoder(str(other), CPU)
    assert all(word in str(error.value) for word in [*words, "allow_partial=true"]), error.value


def test_shuffled_names_of_unlike_shapes_are_refused(tmp_path, run):
    weights = load_file(run / "export" / "backbone.safetensors")
    shuffled = dict(zip(weights, list(weights.values())[::-1], strict=True))
    with pytest.raises(UserError, match="does not fit resnet18"):
        open_encoder(str(write_export(tmp_path / "run", weights=shuffled)), CPU)


def test_partial_weights_load_when_allowed_and_say_so(tmp_path, run):
    weights = {
        k: v for k, v in load_file(run / "export" / "backbone.safetensors").items() if not k.startswith("layer4")
    }
    other = write_export(tmp_path / "run", weights=weights)
    encoder = open_encoder(str(other), EncoderOptions(device="cpu", allow_partial=True))
    assert encoder.coverage["missing"] == 25
    assert encoder.coverage["share"] == pytest.approx(0.75)
    assert encoder.coverage["stages"]["layer4"] == [0, 25]
    torch.manual_seed(99)
    again = open_encoder(str(other), EncoderOptions(device="cpu", allow_partial=True))
    torch.testing.assert_close(again.backbone().state, encoder.backbone().state, rtol=0, atol=0)


def test_batch_norm_counters_are_optional():
    model = build_backbone("resnet18")
    weights = {name: value for name, value in model.state_dict().items() if "num_batches" not in name}
    assert load_weights(model, weights).complete


def test_a_changed_file_is_refused(tmp_path, run):
    other = write_export(tmp_path / "run")
    path = other / "export" / "backbone.safetensors"
    weights = load_file(path)
    weights["conv1.weight"][0, 0, 0, 0] += 1
    save_file(weights, path)
    with pytest.raises(UserError, match="its card says"):
        open_encoder(str(other), CPU)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"backbone": "vit_huge"}, "vit_huge"),
        ({"input": {"size": 32}}, "input.mean"),
        ({"digest": None}, "'digest'"),
        ({"feature_dim": 2048}, "2048 features but resnet18 has 512"),
    ],
)
def test_a_card_that_cannot_be_right_is_refused(tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        open_encoder(str(write_export(tmp_path / "run", **changes)), CPU)


def test_what_is_not_there_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.pt").write_bytes(b"x")
    for spec, words in {
        str(tmp_path / "nothing"): "neither a file nor a folder",
        str(tmp_path / "empty"): "export/backbone.safetensors",
        str(tmp_path / "a.pt"): "cannot be read as weights",
        "imagenet": "imagenet=FILE",
        "latest": "no finished export",
        "latest:npid": "no finished export with method npid",
    }.items():
        with pytest.raises(UserError, match=words):
            open_encoder(spec, EncoderOptions(work=tmp_path, device="cpu"))


def test_latest_and_all_choose_by_time_method_and_seed(tmp_path):
    runs = tmp_path / "runs"
    for name, method, seed, day in [
        ("b", "npid", 0, 1),
        ("a", "npid", 0, 3),
        ("c", "npid", 1, 2),
        ("d", "sgcl", 0, 2),
        ("e", "sgcl", 0, 4),
    ]:
        write_export(
            runs / name, method=method, seed=seed, created=f"2026-01-0{day}T00:00:00+00:00", finished=name != "e"
        )
    (runs / "half" / "export").mkdir(parents=True)
    assert newest(tmp_path) == runs / "a"
    assert newest(tmp_path, "sgcl") == runs / "d"
    assert newest(tmp_path, seed="1") == runs / "c"
    (runs / "f").mkdir()
    (runs / "f" / "run.json").write_text("{}")
    kept, left_out = newest_of_each(tmp_path)
    assert kept == [runs / "a", runs / "c", runs / "d"]
    assert left_out == {"b": "a is newer", "e": "stopped early", "f": "not exported"}
    _, lines = open_encoders(["all"], EncoderOptions(work=tmp_path, device="cpu"), floors=False)
    assert "encoder=all leaves out b (a is newer), e (stopped early), f (not exported)" in lines
    assert open_encoder("latest:npid::1", EncoderOptions(work=tmp_path, device="cpu")).card["seed"] == 1


def test_a_run_is_taken_by_its_name(tmp_path):
    write_export(tmp_path / "runs" / "mine", method="npid", seed=3)
    options = EncoderOptions(work=tmp_path, device="cpu")
    check_specs(["mine"], options)
    encoder = open_encoder("mine", options)
    assert (encoder.run, encoder.card["seed"]) == ("mine", 3)
    for nothing in ("other", "../runs/mine"):
        with pytest.raises(UserError, match="neither a file nor a folder"):
            check_specs([nothing], options)


def test_random_weights_follow_seed_and_trial_alone(batch):
    device = choose_device("cpu")
    torch.manual_seed(1)
    first = open_encoder("random", CPU)
    before = torch.get_rng_state()
    again = RandomEncoder("resnet18", TILE, 0, device)
    assert torch.equal(before, torch.get_rng_state())
    np.testing.assert_array_equal(first.features(batch), again.features(batch))
    second = first.for_trial(1)
    assert second.digest == first.digest
    assert not np.allclose(first.features(batch), second.features(batch))
    np.testing.assert_array_equal(second.features(batch), open_encoder("random", CPU, trial=1).features(batch))


def test_floors_take_the_shape_of_what_they_stand_beside(tmp_path):
    write_export(tmp_path / "runs" / "a", backbone="resnet50")
    encoders, remarks = open_encoders(["latest"], EncoderOptions(work=tmp_path, device="cpu"), floors=True)
    assert [e.name for e in encoders] == [
        "sgcl on toy",
        f"random (resnet50, {TILE} px)",
        "mean RGB",
        "colour histogram",
    ]
    assert [e.kind for e in encoders] == ["run", "floor", "floor", "floor"]
    assert remarks[0] == "sgcl on toy: 265 of 265 tensors loaded (100 %), export, resnet50"
    assert "no ImageNet row" in remarks[-1]


def test_dense_floors_are_networks(run):
    encoders, _ = open_encoders([str(run)], CPU, floors=True, dense=True)
    assert [encoder.name for encoder in encoders] == ["sgcl on toy", f"random (resnet18, {TILE} px)"]


def test_imagenet_comes_from_a_file_of_tensors_only(tmp_path, batch):
    torch.manual_seed(3)
    state = torchvision.models.resnet18(weights=None).state_dict()
    torch.save(state, tmp_path / "resnet18.pth")
    save_file(state, tmp_path / "resnet18.safetensors")
    rows = [
        open_encoder(
            "imagenet", EncoderOptions(device="cpu", size=TILE, imagenet=str(tmp_path / name), backbone="resnet50")
        )
        for name in ("resnet18.pth", "resnet18.safetensors")
    ]
    assert rows[0].name == f"ImageNet (resnet18, {TILE} px)"
    np.testing.assert_array_equal(rows[0].features(batch), rows[1].features(batch))


class _Trap:
    def __reduce__(self):
        return (exec, ("raise SystemExit('unpickled')",))


def test_pickled_objects_are_refused_unread(tmp_path):
    torch.save({"conv1.weight": _Trap()}, tmp_path / "trap.pth")
    (tmp_path / "junk.pth").write_bytes(b"no weights")
    (tmp_path / "junk.safetensors").write_bytes(b"no weights")
    for name, words in {
        "trap.pth": "refused",
        "junk.pth": "junk.pth",
        "junk.safetensors": "cannot be read",
    }.items():
        with pytest.raises(UserError, match=words):
            open_encoder("imagenet", EncoderOptions(device="cpu", imagenet=str(tmp_path / name)))


def test_a_broken_card_is_named(tmp_path):
    run = write_export(tmp_path / "run")
    (run / "export" / "card.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read as JSON"):
        open_encoder(str(run), CPU)
    (run / "export" / "card.json").write_text(json.dumps([1]))
    with pytest.raises(UserError, match="'digest'"):
        open_encoder(str(run), CPU)


def test_a_device_that_is_not_there_is_a_user_error():
    with pytest.raises(UserError, match="device=warp"):
        choose_device("warp")


def test_imagenet_weights_are_fetched_only_when_asked_and_never_unpickled(monkeypatch):
    asked = []

    def fetch(url, **options):
        asked.append((url, options))
        return torchvision.models.resnet18(weights=None).state_dict()

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fetch)
    row = open_encoder("imagenet", EncoderOptions(device="cpu", size=TILE, download=True))
    assert row.coverage["share"] == 1
    ((url, options),) = asked
    assert "resnet18" in url
    assert options["weights_only"]
    assert options["check_hash"]

    def fail(url, **options):
        raise OSError("no route")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fail)
    with pytest.raises(UserError, match="give imagenet=FILE"):
        open_encoder("imagenet", EncoderOptions(device="cpu", download=True))
