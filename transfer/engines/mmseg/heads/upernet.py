"""UPerNet: a feature pyramid over all four stages with pooled context (Xiao et al., ECCV 2018)."""

from typing import Any

from transfer.engines.mmseg.heads import WIDTHS, backbone, head


def network(architecture: str, classes: int, norm: str) -> dict[str, Any]:
    """See `heads.network`."""
    widths = WIDTHS[architecture]
    return {
        "type": "EncoderDecoder",
        "backbone": backbone(architecture, norm),
        "decode_head": head(
            "UPerHead", classes, norm,
            in_channels=list(widths), in_index=[0, 1, 2, 3], pool_scales=(1, 2, 3, 6), channels=512,
        ),
        "auxiliary_head": head(
            "FCNHead", classes, norm, 0.4,
            in_channels=widths[2], in_index=2, channels=256, num_convs=1, concat_input=False,
        ),
    }  # fmt: skip
