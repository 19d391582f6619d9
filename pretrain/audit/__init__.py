"""The auditor of positive pairs: what the sets of a run hold, as a page for people and as numbers for the curve."""

from pretrain.audit.epoch import epoch_numbers

__all__ = ["epoch_numbers"]
