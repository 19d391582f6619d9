"""A segmenter around an encoder's weights: what is trained, how it is built, and how it is asked."""

import hashlib
import uuid
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from transfer.dialects.mmseg import to_mmseg
from transfer.encoders.network import Backbone
from transfer.engines.mmseg.heads import network
from transfer.engines.mmseg.library import MODELS, DefaultScope, MMLogger, get_dist_info
from transfer.engines.mmseg.schedule import Schedule
from transfer.tasks.segmentation import IGNORE, SegmentationTask, Split

COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Job:
    """One training: all that a process needs for its part of it."""

    task: SegmentationTask
    split: Split
    backbone: Backbone
    head: str
    schedule: Schedule
    seed: int
    device: str
    folder: Path
    devices: int = 1


def cell_seed(seed: int, trial: int) -> int:
    """Mix seed and trial to the seed of heads, dropout and crops, 31 bits."""
    return int.from_bytes(hashlib.sha256(f"segmentation {seed} {trial}".encode()).digest()[:4], "little") >> 1


def build(job: Job) -> torch.nn.Module:
    """Build the segmenter on the CPU: its heads drawn from the job's seed, its backbone filled from the encoder.

    Raises:
        RuntimeError: when any tensor of the backbone did not land, or the encoder has one that found no place.
    """
    norm = "SyncBN" if job.devices > 1 and job.device.startswith("cuda") else "BN"
    settings = network(job.head, job.backbone.architecture, len(job.task.classes), norm)
    settings["data_preprocessor"] = {
        "type": "SegDataPreProcessor",
        "mean": [255 * value for value in job.backbone.mean],
        "std": [255 * value for value in job.backbone.std],
        "bgr_to_rgb": False,
        "size": (job.schedule.crop, job.schedule.crop),
        "seg_pad_val": IGNORE,
    }
    with torch.random.fork_rng(devices=[]), DefaultScope.overwrite_default_scope("mmseg"):
        torch.manual_seed(job.seed)
        file_logger(job, "building")
        model = MODELS.build(settings)
        model.init_weights()
    fill(model.backbone, to_mmseg(job.backbone.state, job.backbone.architecture))
    return model


def fill(target: torch.nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Copy every tensor into `target` and look whether it is there; names that differ or change nothing are a RuntimeError."""
    missing, unexpected = target.load_state_dict(state, strict=False)
    missing = [name for name in missing if not name.endswith(COUNTER)]
    landed = target.state_dict()
    changed = [name for name, value in state.items() if name in landed and not torch.equal(landed[name].cpu(), value)]
    if missing or unexpected or changed:
        wrong = [*missing, *unexpected, *changed]
        raise RuntimeError(
            f"the encoder's weights did not land in the segmenter: {len(wrong)} tensors, first {wrong[0]}"
        )


def file_logger(job: Job, name: str) -> MMLogger:
    """Make a logger that writes to the job's folder alone the library's current one."""
    rank = get_dist_info()[0]
    logger = MMLogger.get_instance(
        f"{name}-{uuid.uuid4().hex}", log_file=str(job.folder / "mmengine.log"), file_mode="a"
    )
    logger.handlers = [handler for handler in logger.handlers if rank == 0 and hasattr(handler, "baseFilename")]
    return logger


class Predictor:
    """A segmenter in inference mode, as `stitched` wants it."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model

    def __call__(self, windows: np.ndarray) -> torch.Tensor:
        """Turn uint8 windows (B, S, S, 3) into class probabilities float32 (B, C, S, S)."""
        normal = self._model.data_preprocessor
        with torch.inference_mode():
            batch = torch.from_numpy(windows).to(normal.mean.device).permute(0, 3, 1, 2).float()
            shape = {"img_shape": tuple(batch.shape[-2:])}
            logits = self._model.encode_decode((batch - normal.mean) / normal.std, [shape] * len(batch))
            return logits.float().softmax(1)
