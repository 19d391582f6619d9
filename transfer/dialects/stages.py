"""Looking into a network: what its stages give for an image."""

import contextlib
import logging
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

RESNET_STAGES = ("layer1", "layer2", "layer3", "layer4")


def captured(model: nn.Module, modules: dict[str, str], inputs: Tensor) -> dict[str, Tensor]:
    """Run `model(inputs)` in inference mode and return the outputs of some of its modules.

    Args:
        model: put into evaluation mode.
        modules: stage name -> name of the module in `model`.
        inputs: (1, 3, H, W) float32.
    """
    found: dict[str, Tensor] = {}

    def keep(stage: str) -> None:
        model.get_submodule(modules[stage]).register_forward_hook(
            lambda module, arguments, output: found.update({stage: output.detach()})
        )

    for stage in modules:
        keep(stage)
    model.eval()
    with torch.inference_mode():
        model(inputs)
    return found


def normalised(image: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Turn uint8 RGB (H, W, 3) into (1, 3, H, W) float32, mean and standard deviation being of 0 to 1."""
    scaled = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    return (scaled - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)


def in_255(values: tuple[float, ...]) -> list[float]:
    """Mean or standard deviation of 0 to 1, in grey levels of 0 to 255."""
    return [float(value) * 255 for value in values]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hold back log lines below errors: loaders list the tensors of the heads, which no backbone file has."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
