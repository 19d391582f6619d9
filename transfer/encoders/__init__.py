"""Encoder specs, the networks and floors behind them, and proof of what was loaded.

`base`, `cards`, `colour` and `specs` do without torch; the others are imported when a network is opened.
"""

from transfer.encoders.specs import EncoderOptions, check_specs, coverage_of, open_encoder, open_encoders

__all__ = ["EncoderOptions", "check_specs", "coverage_of", "open_encoder", "open_encoders"]
