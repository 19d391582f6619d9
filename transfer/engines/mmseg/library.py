"""The one place where mmsegmentation is imported: without its words about optional parts that nothing here uses."""

import contextlib
import io
import warnings

with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
    warnings.simplefilter("ignore", UserWarning)
    import mmseg.datasets  # these two fill the registries
    import mmseg.models
    from mmengine.dataset import pseudo_collate
    from mmengine.dist import get_dist_info
    from mmengine.hooks import Hook
    from mmengine.logging import MMLogger
    from mmengine.model import MMDistributedDataParallel
    from mmengine.registry import DefaultScope
    from mmengine.runner import Runner
    from mmengine.structures import PixelData
    from mmseg.registry import MODELS
    from mmseg.structures import SegDataSample

__all__ = [
    "MODELS",
    "DefaultScope",
    "Hook",
    "MMDistributedDataParallel",
    "MMLogger",
    "PixelData",
    "Runner",
    "SegDataSample",
    "get_dist_info",
    "mmseg",
    "pseudo_collate",
]
