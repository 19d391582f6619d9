"""Folders that hold only part of a data set: the task's name and its notes say so, in records and tables."""

FULL = 0.95
"""Least share of the published units that goes by the data set's own name: releases differ by a few files."""


def named_by_size(name: str, found: int, published: int | None, what: str) -> tuple[str, tuple[str, ...]]:
    """Return the name of a task on `found` of `published` units, and notes for its records.

    Args:
        name: of the task on the whole data set.
        found: how many units the folder holds.
        published: how many the whole data set has; None where that is not known.
        what: the units, such as `tiles`.

    Returns:
        The name as it is, and no notes, for a whole data set; `NAME (sample: 12 of 107,180 tiles)` below `FULL`.
    """
    if published is None or found >= published:
        return name, ()
    share = f"{found:,} of {published:,} {what}"
    if found < FULL * published:
        return f"{name} (sample: {share})", (f"A sample, {share} of the data set: these are no scores of {name}.",)
    return name, (f"{share} of the data set were there.",)
