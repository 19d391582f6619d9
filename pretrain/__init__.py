"""Whole-slide images in, a pretrained backbone out: tiling, SGCL and its rivals, export."""
