import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from nucls_toys import write_nucls

from results.errors import UserError
from results.metrics import score_units
from transfer.encoders.network import Backbone, build_backbone
from transfer.engines.detectron2 import compat
from transfer.engines.detectron2.schedules import PROPOSALS, Proposals, Schedule, read_schedule
from transfer.tasks.boxes import IGNORED, BoxedImage, units_table
from transfer.tasks.nucls import NuclsSettings, load_nucls

pytestmark = pytest.mark.slow
OUTSIDE = [
    *((key, float("nan")) for key in ("scale", "jitter", "colour", "lr", "momentum", "weight_decay", "clip")),
    ("iterations", 0), ("iterations", 10_000_001), ("batch", 0), ("batch", 4097), ("crop", 8), ("crop", 5000),
    ("scale", 0.1), ("scale", 9.0), ("lr", 0.0), ("lr", 10.0), ("momentum", 1.0), ("weight_decay", -1.0), ("weight_decay", 2.0),
    ("clip", 0.0), ("jitter", 1.5), ("colour", -0.1), ("warmup", -1), ("precise_bn", -1),
]  # fmt: skip
TINY = {"iterations": 2, "crop": 64, "precise_bn": 1}


@pytest.fixture(scope="module", autouse=True)
def _detectron2():
    try:
        compat.prepare()
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return load_nucls(NuclsSettings(), write_nucls(tmp_path_factory.mktemp("data") / "nucls"), 3, 0)


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


# schedules


def test_schedules_are_read_and_checked():
    lengths = [read_schedule(name).iterations for name in ("smoke", "short", "full")]
    assert lengths == sorted(lengths)
    assert read_schedule("smoke", {"iterations": 7}).iterations == 7
    for changes, message in [
        ({"iteration": 7}, "did you mean 'iterations'"),
        ({"proposals": "many"}, "light, default"),
        *(({key: value}, f"{key}=.* must lie from") for key, value in OUTSIDE),
        *(({"decay_at": value}, "decay_at") for value in ([0.9, 0.7], [0.5, 0.5], [1.5], [float("nan")], [[0.5]], 0.5)),
        *(({key: float("inf")}, key) for key in ("iterations", "batch", "lr", "scale", "clip")),
        ({"lr": 10**400}, "does not fit"),
        ({"bfloat16": 1}, "bfloat16=1 from options must be true or false"),
        ({"bfloat16": "yes"}, "true or false"),
        ({"batch": True}, "batch"),
        ({"iterations": 5, "warmup": 5}, "less than iterations=5"),
    ]:
        with pytest.raises(UserError, match=message):
            read_schedule("smoke", changes)
    with pytest.raises(UserError, match="full, short, smoke"):
        read_schedule("long")


# samples


@pytest.fixture
def marked(tmp_path):
    """An image that is white inside its boxes and black elsewhere; the second box is ignored."""
    from PIL import Image

    boxes = np.array([[10, 20, 26, 40], [50, 8, 62, 16], [60, 50, 80, 60]], np.float32)
    pixels = np.zeros((70, 90, 3), np.uint8)
    for x0, y0, x1, y1 in boxes.astype(int):
        pixels[y0:y1, x0:x1] = 255
    Image.fromarray(pixels).save(tmp_path / "marked.png")
    return BoxedImage(
        "marked", tmp_path / "marked.png", "s", "p", "h", (0, 0, 90, 70), boxes, np.array([0, IGNORED, 1])
    )


@pytest.mark.parametrize("crop", [None, 48])
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_boxes_follow_the_pixels(marked, crop, scale):
    from transfer.engines.detectron2.data import training_sample

    schedule, shapes = Schedule(crop=crop, scale=scale), set()
    for number in range(40):
        sample = training_sample(marked, schedule, np.random.default_rng(number))
        image, boxes = sample["image"][0].numpy() > 127, sample["instances"].gt_boxes.tensor.numpy()
        drawn = np.zeros_like(image)
        for x0, y0, x1, y1 in boxes.round().astype(int):
            drawn[y0:y1, x0:x1] = True
        assert (drawn != image).mean() < 0.03 * (scale > 1) + 1e-9
        assert (sample["instances"].gt_classes != IGNORED).any()
        shapes.add((image.shape, tuple(boxes[0].round())))
    assert len(shapes) > 7


def test_samples_do_not_depend_on_the_number_of_ranks(task):
    from transfer.engines.detectron2.data import Samples, training_batches

    schedule = Schedule(crop=48, jitter=0.2, colour=0.1, scale=1.0)
    samples = Samples(task.part(0, "train"), schedule, (0, 0, 0), 8)

    def steps(world):
        loaders = [training_batches(samples, 4, rank, world, 0) for rank in range(world)]
        return [sorted(float(s["image"].double().sum()) for batch in step for s in batch) for step in zip(*loaders, strict=True)]  # fmt: skip

    assert steps(1) == steps(2)
    assert len(steps(1)) == 2
    other = Samples(task.part(0, "train"), schedule, (1, 0, 0), 8)
    assert not torch.equal(samples[0]["image"], other[0]["image"])


def test_colour_changes_pixels_and_no_box(marked):
    from transfer.engines.detectron2.data import training_sample

    plain, coloured = (training_sample(marked, Schedule(colour=c), np.random.default_rng(1)) for c in (0.0, 0.2))
    assert not torch.equal(plain["image"], coloured["image"])
    assert plain["image"].shape == coloured["image"].shape
    assert torch.equal(plain["instances"].gt_boxes.tensor, coloured["instances"].gt_boxes.tensor)


@pytest.mark.parametrize("shape", [(1, 9, 3), (9, 1, 3), (1, 1, 3)])
def test_images_one_px_wide_turn_in_every_way(shape):
    from transfer.engines.detectron2.data import _tensor, _turn

    pixels = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    for way in range(8):
        turned, _ = _turn(pixels, np.zeros((0, 4)), way)
        assert sorted(_tensor(turned).flatten().tolist()) == sorted(pixels.ravel().tolist())
    _tensor(pixels[::-1, ::-1])


# weights


@pytest.mark.parametrize(("heads", "architecture"), [("fpn", "resnet18"), ("fpn", "resnet50"), ("c4", "resnet50")])
def test_every_weight_arrives(heads, architecture):
    weights = backbone(architecture)
    model = built(heads, weights)
    own = model.state_dict()
    last = "roi_heads.res5" if heads == "c4" else "backbone.bottom_up.res5"
    conv = "conv3" if architecture == "resnet50" else "conv2"
    assert torch.equal(own[f"{last}.1.{conv}.weight"], weights.state[f"layer4.1.{conv}.weight"])
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any("Frozen" in type(module).__name__ for module in model.modules())
    assert ("roi_heads.res5.norm.weight" in own) == (heads == "c4")
    assert torch.allclose(model.pixel_mean.flatten(), 255 * torch.tensor(weights.mean))


@pytest.mark.parametrize("break_it", ["missing", "shape", "value"])
def test_weights_that_do_not_arrive_are_refused(break_it, monkeypatch):
    weights = backbone()
    state = dict(weights.state)
    if break_it == "missing":
        del state["layer3.0.conv1.weight"]
    elif break_it == "shape":
        state["layer3.0.conv1.weight"] = state["layer3.0.conv1.weight"][:, :1]
    else:
        state["layer3.0.bn1.weight"] = state["layer3.0.bn1.weight"] * float("nan")
    with pytest.raises(UserError, match=r"1 of \d+ tensors .*res4\.0\.conv1"):
        built("fpn", replace(weights, state=state))


@pytest.mark.parametrize(
    ("name", "architecture", "message"),
    [
        ("faster_rcnn_c4", "resnet18", "C4"),
        ("faster_rcnn_fpn", "vit_small", "transfer classify"),
        ("faster_rcnn_c4", "vit_small", "transfer classify"),
    ],
)
def test_encoders_that_cannot_be_used_are_refused(name, architecture, message):
    with pytest.raises(UserError, match=message):
        engine(name).check(Backbone(architecture, {}, (0, 0, 0), (1, 1, 1)))


def test_engine_settings_are_checked():
    from transfer.engines.detectron2.engine import FasterRCNN

    with pytest.raises(UserError, match="faster_rcnn_fpn, faster_rcnn_c4"):
        FasterRCNN("yolo")
    with pytest.raises(UserError, match="gpus=2"):
        FasterRCNN(device="cpu", gpus=2)
    settings = engine(bfloat16=True).settings()
    assert json.loads(json.dumps(settings)) == settings
    assert settings["bfloat16"] is False
    assert settings["iterations"] == 2
    assert settings["detections"] == 300
    assert settings["detectron2"] == compat.version()


# training


def test_a_box_that_is_ignored_is_neither_nucleus_nor_background_for_the_box_head():
    from detectron2.structures import Boxes, Instances
    from detectron2.utils.events import EventStorage

    model = built("fpn", backbone())
    truth = Instances((64, 64))
    truth.gt_boxes = Boxes(torch.tensor([[4.0, 4, 20, 20], [40.0, 40, 56, 56]]))
    truth.gt_classes = torch.tensor([IGNORED, 2])
    proposals = Instances((64, 64))
    proposals.proposal_boxes = Boxes(torch.tensor([[5.0, 5, 20, 20], [40.0, 40, 55, 56], [20.0, 40, 30, 50]]))
    proposals.objectness_logits = torch.zeros(3)
    with EventStorage():
        (sampled,) = model.roi_heads.label_and_sample_proposals([proposals], [truth])
    pairs = {
        (int(box[0]), int(label)) for box, label in zip(sampled.proposal_boxes.tensor, sampled.gt_classes, strict=True)
    }
    assert pairs == {(40, 2), (20, 4)}


def run(task, folder, weights, seed=0, trial=0, name="faster_rcnn_fpn", **changes):
    folder.mkdir()
    return engine(name, **changes).run(task, weights, seed, trial, folder)


@pytest.fixture(scope="module")
def once(task, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells") / "once"
    return run(task, folder, backbone()), folder


def test_units_follow_the_contract(task, once):
    units, folder = once
    assert units["unit"].to_pylist() == [image.name for image in task.part(0, "test")]
    assert units.column_names == [
        "unit",
        "cluster",
        *(f"{kind}_{name}" for name in task.classes for kind in ("truth", "found")),
    ]
    metadata = {key.decode(): float(value) for key, value in units.schema.metadata.items()}
    assert metadata["match_px"] == pytest.approx(15)
    assert 0 < metadata["score_threshold"] < 1
    for name in task.classes:
        for flat in units[f"found_{name}"].to_pylist():
            boxes = np.array(flat).reshape(-1, 5)
            assert (boxes[:, :4] >= 0).all()
            assert (boxes[:, 2:4] <= 80).all()
    assert {metric["name"] for metric in score_units(units)} >= {"ap", "ap50", "ap75", "f1_distance"}
    files = {path.name for path in folder.iterdir()}
    assert files >= {
        "units.parquet",
        "test.coco.json",
        "validation.coco.json",
        "detectron2.json",
        "test.png",
        "training.jsonl",
    }


def test_the_same_seed_gives_the_same_units_bit_for_bit(task, once, tmp_path):
    assert run(task, tmp_path / "again", backbone()).equals(once[0], check_metadata=True)


@pytest.mark.parametrize("changed", [{"weights": 1}, {"seed": 1}])
def test_other_weights_and_seeds_give_other_units(task, once, tmp_path, changed):
    units = run(task, tmp_path / "other", backbone(seed=changed.get("weights", 0)), seed=changed.get("seed", 0))
    assert not units.equals(once[0])


def test_c4_trains_too(task, tmp_path, monkeypatch):
    monkeypatch.setitem(PROPOSALS, "light", Proposals(100, 40, 100, 10, 8))
    units = run(task, tmp_path / "c4", backbone("resnet50"), name="faster_rcnn_c4", iterations=1, batch=1, precise_bn=0)
    assert units.num_rows == 2


def test_what_goes_wrong_in_training_is_raised_and_not_printed(task, tmp_path, monkeypatch, caplog, capfd):
    from transfer.engines.detectron2 import data

    def broken(*_):
        raise UserError("a broken image.")

    monkeypatch.setattr(data, "training_sample", broken)
    with pytest.raises(UserError, match="a broken image"):
        run(task, tmp_path / "cell", backbone())
    assert not [record for record in caplog.records if record.exc_info]
    assert "Traceback" not in capfd.readouterr().err


class Oracle(torch.nn.Module):
    """In the place of a detector: truth with noise, doubles and strangers, also over ignored boxes."""

    def __init__(self, images, classes):
        super().__init__()
        self.images, self.classes = {image.name: image for image in images}, classes

    def forward(self, batch):
        from detectron2.structures import Boxes, Instances

        answers = []
        for given in batch:
            image = self.images[given["file_name"]]
            random = np.random.default_rng(given["image_id"])
            boxes = np.concatenate([image.boxes + random.normal(0, spread, image.boxes.shape) for spread in (1, 3)])
            boxes = np.concatenate([boxes[:, :2], np.maximum(boxes[:, 2:], boxes[:, :2] + 1)], axis=1)
            labels = np.tile(np.where(image.labels == IGNORED, 0, image.labels), 2)
            strangers = random.uniform(0, 50, (8, 2))
            boxes = np.concatenate([boxes, np.hstack([strangers, strangers + random.uniform(8, 20, (8, 2))])])
            wrong = random.random(len(boxes)) < 0.2
            labels = np.concatenate([labels, np.zeros(8, int)])
            labels = np.where(wrong, random.integers(0, self.classes, len(boxes)), labels)
            result = Instances((given["height"], given["width"]))
            result.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32))
            result.scores = torch.tensor(random.random(len(boxes)).round(2), dtype=torch.float32)
            result.pred_classes = torch.tensor(labels)
            answers.append({"instances": result})
        return answers


def test_ap_equals_that_of_detectron2s_evaluator(task, tmp_path):
    from transfer.engines.detectron2 import train

    images = list(task.images)
    job = train.Job(task, backbone(), "fpn", read_schedule("smoke"), 0, 0, "cpu", tmp_path)
    found, official = train.infer(job, Oracle(images, len(task.classes)), images, "all")
    ours = {metric["name"]: metric["value"] for metric in score_units(units_table(images, found, task.classes))}
    assert 0.05 < ours["ap"] < 0.95
    for name in ("ap", "ap50", "ap75"):
        assert 100 * ours[name] == pytest.approx(official[name.upper()], abs=1e-6)
    for name in task.classes:
        if official[f"AP-{name}"] is None:
            assert ours[f"ap_{name}"] is None
        else:
            assert 100 * ours[f"ap_{name}"] == pytest.approx(official[f"AP-{name}"], abs=1e-6)


def test_a_detector_that_finds_nothing_scores_zero(task, tmp_path):
    from transfer.engines.detectron2 import train

    class Blind(Oracle):
        def forward(self, batch):
            return [{"instances": answer["instances"][:0]} for answer in super().forward(batch)]

    job = train.Job(task, backbone(), "fpn", read_schedule("smoke"), 0, 0, "cpu", tmp_path)
    train.predict(job, Blind(task.images, 4))
    import pyarrow.parquet as pq

    units = pq.read_table(tmp_path / train.UNITS)
    assert {m["name"]: m["value"] for m in score_units(units)}["ap"] == 0
    assert units.schema.metadata[b"score_threshold"] == b"0.5"


def test_the_threshold_is_the_best_on_validation():
    from transfer.engines.detectron2.threshold import choose_threshold

    truth = [10, 10, 20, 20, 0, 40, 40, 50, 50, 0]
    found = [10, 10, 20, 20, 0.71, 40, 40, 50, 50, 0.66, 70, 70, 80, 80, 0.55, 80, 10, 90, 20, 0.3]
    flat = pa.list_(pa.float32())
    units = pa.table(
        {"unit": ["a"], "cluster": ["s"], "truth_x": pa.array([truth], flat), "found_x": pa.array([found], flat)}
    )
    assert 0.55 < choose_threshold(units, 5.0) <= 0.66


@pytest.mark.filterwarnings("ignore")
def test_two_ranks_train_one_detector(task, tmp_path):
    """Over gloo; v0.6's own launcher asks for GPUs, so the ranks are started here."""
    from transfer.engines.detectron2 import train

    job = train.Job(task, backbone(), "fpn", read_schedule("smoke", {**TINY, "batch": 2}), 0, 0, "cpu", tmp_path)
    torch.multiprocessing.spawn(_rank, (job, f"file://{tmp_path}/meet"), nprocs=2)
    import pyarrow.parquet as pq

    assert pq.read_table(tmp_path / train.UNITS).num_rows == len(task.part(0, "test"))
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def _rank(rank, job, meet):
    import torch.distributed as dist

    from transfer.engines.detectron2 import train

    compat.prepare()
    from detectron2.utils import comm

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=2)
    comm._LOCAL_PROCESS_GROUP = dist.new_group([0, 1])
    plain = train.train

    def keeping(given):
        detector = plain(given)
        torch.save(dict(detector.named_parameters()), given.folder / f"rank{rank}.pt")
        return detector

    train.train = keeping
    train.work(job)
    dist.destroy_process_group()


# the command


def test_the_command_accounts_for_the_data_and_stops_there(task, tmp_path, capsys):
    from transfer.detect import detect, load

    root = task.images[0].path.parents[1]
    assert detect(load([f"task.root={root}", "check=true", "task.classes=one", f"work={tmp_path}"])) == 0
    out = capsys.readouterr().out
    assert "6 images in rgb; 36 rows" in out
    assert "trial 3: " in out
    assert not list(tmp_path.iterdir())


def test_the_command_writes_one_record_a_cell_and_runs_none_twice(task, tmp_path, capsys):
    from transfer.detect import detect, load

    root = task.images[0].path.parents[1]
    arguments = [
        "encoder=random", "floors=false", f"task.root={root}", f"work={tmp_path}", f"records={tmp_path / 'records'}", "trials=2",
        "options={iterations: 1, crop: 64, precise_bn: 0}", "device=cpu",
    ]  # fmt: skip
    assert detect(load(arguments)) == 0
    records = [json.loads(path.read_text()) for path in sorted((tmp_path / "records").glob("*.json"))]
    assert len(records) == 2
    assert {record["task"]["kind"] for record in records} == {"detection"}
    assert all("0.6" in record["engine"]["settings"]["detectron2"] for record in records)
    said = capsys.readouterr().out
    assert said.count("  iteration 1 of 1, loss ") == 2
    assert said.count("  predicting 2 validation and 2 test images") == 2
    fewer = [argument.replace("trials=2", "trials=1") for argument in arguments]
    assert detect(load(fewer)) == 0
    assert "1 already there" in capsys.readouterr().out
    assert detect(load(arguments)) == 0
    assert "2 already there" in capsys.readouterr().out
