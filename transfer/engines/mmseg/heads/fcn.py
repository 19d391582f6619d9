"""FCN on a ResNet of output stride 8 (FCN-D8), in the widths of mmsegmentation's own settings for each depth."""

from typing import Any

from transfer.engines.mmseg.heads import WIDTHS, backbone, head

CHANNELS = {"resnet18": (128, 64), "resnet50": (512, 256)}
"""Of the head and of the auxiliary head on stage 3."""


def network(architecture: str, classes: int, norm: str) -> dict[str, Any]:
    """See `heads.network`."""
    widths, (channels, auxiliary) = WIDTHS[architecture], CHANNELS[architecture]
    return {
        "type": "EncoderDecoder",
        "backbone": backbone(architecture, norm, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4)),
        "decode_head": head(
            "FCNHead", classes, norm, in_channels=widths[3], in_index=3, channels=channels, num_convs=2
        ),
        "auxiliary_head": head(
            "FCNHead", classes, norm, 0.4,
            in_channels=widths[2], in_index=2, channels=auxiliary, num_convs=1, concat_input=False,
        ),
    }  # fmt: skip
