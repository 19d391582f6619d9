"""Citable tile manifests: which tiles a cohort has, where they come from and how they were made, in a few MB."""
