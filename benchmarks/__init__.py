"""Suites: which methods are pretrained, on what they are scored, and what that costs."""
