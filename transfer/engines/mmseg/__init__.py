"""Segmentation with mmsegmentation (the maintained distributions of mmcv, mmengine and mmseg; no compiled operators)."""

from transfer.engines.mmseg.engine import MmsegEngine
from transfer.engines.mmseg.heads import HEADS

__all__ = ["HEADS", "MmsegEngine"]
