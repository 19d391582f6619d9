"""Encoder specs, the networks and floors behind them, and proof of what was loaded. No module here imports torch but `network`."""

from transfer.encoders.specs import EncoderOptions, open_encoder, open_encoders

__all__ = ["EncoderOptions", "open_encoder", "open_encoders"]
