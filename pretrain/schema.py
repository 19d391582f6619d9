"""The settings of `python -m pretrain`: their names, types, defaults and ranges. Nothing here needs torch."""

from dataclasses import dataclass, field

FEATURE_DIMS = {"resnet18": 512, "resnet50": 2048, "vit_small": 384, "resnet18_quarter": 128}
"""Backbone -> features of its pooled output."""


@dataclass
class TilingSettings:
    """How tiles are kept and stored; the tissue rule is described in `pretrain.tiling.tissue`."""

    min_tissue: float = 0.5
    encoding: str = "jpeg"
    quality: int = 90
    mask_mpp: float = 8.0
    workers: int | None = None


@dataclass
class RehearsalSettings:
    """The synthetic slides that `cohort=rehearsal` makes."""

    slides: int = 12
    size_px: int = 2048
    seed: int = 0


@dataclass
class Camelyon16Settings:
    """Slides of `cohort=camelyon16` (part: train, validation, test, all), and when a tile of them is tumour."""

    part: str = "train"
    rule: str = "centre"
    centre: float = 1 / 3
    min_share: float = 0.5


@dataclass
class ViewSettings:
    """Sizes in px and strengths of the augmentation; the defaults are those published for SGCL: always jitter, never blur.

    `jitter`, `blur` and `solarise` are probabilities. `blur_sigma` is in px of a 224 px view and shrinks with `size`, so that it
    blurs the same length of tissue at every size. `second_blur` and `local_blur` replace `blur` in the second global view and in
    local views (null: the same); only the second global view is ever solarised.
    """

    size: int = 224
    local_size: int = 96
    scale: tuple[float, float] = (0.2, 1.0)
    local_scale: tuple[float, float] = (0.2, 0.56)
    ratio: tuple[float, float] = (0.75, 4 / 3)
    grey: float = 0.2
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.4
    flip: float = 0.5
    jitter: float = 1.0
    blur: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    second_blur: float | None = None
    local_blur: float | None = None
    solarise: float = 0.0


@dataclass
class TrainSettings:
    """One run of the loop. The published schedule is epochs=100, batch_size=32 on 4 GPUs, lr=0.015.

    `weight_decay_end` lets the weight decay go there by half a cosine (DINO); null keeps it.
    """

    epochs: int = 10
    batch_size: int = 32
    optimizer: str = "sgd"
    lr: float = 0.015
    momentum: float = 0.9
    weight_decay: float = 1e-4
    weight_decay_end: float | None = None
    warmup_epochs: float = 0.0
    clip: float | None = None
    amp: str = "auto"
    deterministic: bool = False
    processes: int | None = None
    loaders: int | None = None
    log_every: int = 10
    knn_every: int | None = None
    checkpoint_minutes: float = 10.0
    checkpoint_steps: int | None = None


@dataclass
class Config:
    """Everything that changes what a run does; cohort, method, backbone and recipe add YAML layers below the command line."""

    cohort: str = "rehearsal"
    method: str = "sgcl"
    recipe: str | None = None
    seed: int = 0
    backbone: str = "resnet18"
    tile: int = 256
    mpp: float | None = 0.5
    mpp_override: float | None = None
    root: str | None = None
    manifest: str | None = None
    store: str | None = None
    work: str = "work"
    run: str | None = None
    name: str | None = None
    device: str = "auto"
    scheduler: str | None = None
    tiling: TilingSettings = field(default_factory=TilingSettings)
    rehearsal: RehearsalSettings = field(default_factory=RehearsalSettings)
    camelyon16: Camelyon16Settings = field(default_factory=Camelyon16Settings)
    views: ViewSettings = field(default_factory=ViewSettings)
    train: TrainSettings = field(default_factory=TrainSettings)


# These say where and how fast, or choose tiles, which the store's digest tells: they are not part of a run's identity.
PLACES = ("root", "manifest", "store", "camelyon16", "work", "run", "name", "device", "scheduler", "tiling.workers", "train.loaders", "train.processes", "train.log_every",
          "train.checkpoint_minutes", "train.checkpoint_steps")  # fmt: skip


RANGES = (
    ("seed", 0, 2**32 - 1), ("mpp", 0.01, 100), ("mpp_override", 0.01, 100), ("tiling.mask_mpp", 1, 100), ("tiling.workers", 0, 4096),
    ("train.lr", 1e-12, 1e6), ("train.momentum", 0, 0.9999), ("train.weight_decay", 0, 1), ("train.weight_decay_end", 0, 1), ("train.warmup_epochs", 0, 1e6),
    ("train.clip", 1e-9, 1e9), ("train.knn_every", 1, 1e9), ("train.loaders", 0, 256), ("train.checkpoint_minutes", 1e-3, 1e6),
    ("train.checkpoint_steps", 1, 1e9), ("train.processes", 1, 4096), ("views.size", 16, 4096), ("views.local_size", 16, 4096),
    ("views.grey", 0, 1), ("views.flip", 0, 1), ("views.hue", 0, 0.5), ("views.brightness", 0, 1), ("views.contrast", 0, 1),
    ("views.saturation", 0, 1), ("views.jitter", 0, 1), ("views.blur", 0, 1), ("views.second_blur", 0, 1), ("views.local_blur", 0, 1),
    ("views.solarise", 0, 1), ("camelyon16.centre", 1e-3, 1), ("camelyon16.min_share", 1e-6, 1),
)  # fmt: skip
"""Lowest and highest sensible value of numbers; not-a-number fits nowhere."""
