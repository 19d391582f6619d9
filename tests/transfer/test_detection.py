"""Detectors are trained and scored."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from detection_toys import TINY, backbone, built, run

from results.errors import UserError
from results.metrics import score_units
from transfer.engines.detectron2 import compat
from transfer.engines.detectron2.schedules import PROPOSALS, Proposals, read_schedule
from transfer.tasks.boxes import IGNORED, units_table

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("detectron2")]


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


@pytest.fixture(scope="module")
def once(nucls_task, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells") / "once"
    return run(nucls_task, folder, backbone()), folder


def test_units_follow_the_contract(nucls_task, once):
    units, folder = once
    assert units["unit"].to_pylist() == [image.name for image in nucls_task.part(0, "test")]
    assert units.column_names == [
        "unit",
        "cluster",
        *(f"{kind}_{name}" for name in nucls_task.classes for kind in ("truth", "found")),
    ]
    metadata = {key.decode(): float(value) for key, value in units.schema.metadata.items()}
    assert metadata["match_px"] == pytest.approx(15)
    assert 0 < metadata["score_threshold"] < 1
    for name in nucls_task.classes:
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


def test_the_same_seed_gives_the_same_units_bit_for_bit(nucls_task, once, tmp_path):
    assert run(nucls_task, tmp_path / "again", backbone()).equals(once[0], check_metadata=True)


@pytest.mark.parametrize("changed", [{"weights": 1}, {"seed": 1}])
def test_other_weights_and_seeds_give_other_units(nucls_task, once, tmp_path, changed):
    units = run(nucls_task, tmp_path / "other", backbone(seed=changed.get("weights", 0)), seed=changed.get("seed", 0))
    assert not units.equals(once[0])


def test_c4_trains_too(nucls_task, tmp_path, monkeypatch):
    monkeypatch.setitem(PROPOSALS, "light", Proposals(100, 40, 100, 10, 8))
    units = run(
        nucls_task, tmp_path / "c4", backbone("resnet50"), name="faster_rcnn_c4", iterations=1, batch=1, precise_bn=0
    )
    assert units.num_rows == 2


def test_what_goes_wrong_in_training_is_raised_and_not_printed(nucls_task, tmp_path, monkeypatch, caplog, capfd):
    from transfer.engines.detectron2 import data

    def broken(*_):
        raise UserError("a broken image.")

    monkeypatch.setattr(data, "training_sample", broken)
    with pytest.raises(UserError, match="a broken image"):
        run(nucls_task, tmp_path / "cell", backbone())
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


def test_ap_equals_that_of_detectron2s_evaluator(nucls_task, tmp_path):
    from transfer.engines.detectron2 import train

    images = list(nucls_task.images)
    job = train.Job(nucls_task, backbone(), "fpn", read_schedule("smoke"), 0, 0, "cpu", tmp_path)
    found, official = train.infer(job, Oracle(images, len(nucls_task.classes)), images, "all")
    ours = {metric["name"]: metric["value"] for metric in score_units(units_table(images, found, nucls_task.classes))}
    assert 0.05 < ours["ap"] < 0.95
    for name in ("ap", "ap50", "ap75"):
        assert 100 * ours[name] == pytest.approx(official[name.upper()], abs=1e-6)
    for name in nucls_task.classes:
        if official[f"AP-{name}"] is None:
            assert ours[f"ap_{name}"] is None
        else:
            assert 100 * ours[f"ap_{name}"] == pytest.approx(official[f"AP-{name}"], abs=1e-6)


def test_a_detector_that_finds_nothing_scores_zero(nucls_task, tmp_path):
    from transfer.engines.detectron2 import train

    class Blind(Oracle):
        def forward(self, batch):
            return [{"instances": answer["instances"][:0]} for answer in super().forward(batch)]

    job = train.Job(nucls_task, backbone(), "fpn", read_schedule("smoke"), 0, 0, "cpu", tmp_path)
    train.predict(job, Blind(nucls_task.images, 4))
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
def test_two_ranks_train_one_detector(nucls_task, tmp_path):
    """Over gloo; v0.6's own launcher asks for GPUs, so the ranks are started here."""
    from transfer.engines.detectron2 import train

    job = train.Job(nucls_task, backbone(), "fpn", read_schedule("smoke", {**TINY, "batch": 2}), 0, 0, "cpu", tmp_path)
    torch.multiprocessing.spawn(_rank, (job, f"file://{tmp_path}/meet"), nprocs=2)
    import pyarrow.parquet as pq

    assert pq.read_table(tmp_path / train.UNITS).num_rows == len(nucls_task.part(0, "test"))
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
