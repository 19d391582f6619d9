"""Data sets: what is there, how to get it, whether it is whole, and how archives become folders."""
