"""Detectron2 as an engine. Nothing here imports it before `compat.prepare` was called."""
