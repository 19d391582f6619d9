"""What the options of methods may be, by their names and whatever the method. Nothing here needs torch."""

import re
from dataclasses import fields
from typing import Any

from results.errors import UserError

WIDEST, COUNT = (1, 65536), (1, 1e9)
LIMITS: dict[str, tuple[float, float]] = {
    "dimension": WIDEST, "hidden": WIDEST, "bottleneck": WIDEST, "components": WIDEST,
    "temperature": (1e-4, 1e4), "tau": (1e-4, 1e4), "teacher_temperature": (1e-4, 1e4), "teacher_temperature_start": (1e-4, 1e4),
    "momentum": (0, 1), "centre_momentum": (0, 1), "radius": (1.001, 100), "aux": (1, 1000), "clusterings": (1, 64),
    "negatives": COUNT, "nei_k": COUNT, "clusters": COUNT, "sample": COUNT, "prototypes": COUNT, "min_cluster": COUNT,
    "update_every": COUNT, "local_crops": (0, 64), "ramp_up": (0, 1e6), "temperature_warmup": (0, 1e6), "freeze_epochs": (0, 1e6),
}  # fmt: skip
"""Lowest and highest sensible value of a number. Counts are capped by the number of tiles."""
OTHERS = (0, 1e6)
"""Of every other number: weights of losses, and what a new method brings."""

CHOICES: dict[str, tuple[str, ...]] = {
    "bank": ("fp32", "bf16", "int8"),
    "form": ("auto", "exact", "sampled"),
    "mining": ("fixed", "reference", "late", "hardest", "uniform"),
    "neck": ("mlp", "linear"),
    "variant": ("fixed", "reference"),
}
"""The words that an option may be; null too, where the option takes it."""

SWITCHES = ("d1", "d2", "d4", "d5", "d6", "d7", "d16")
"""The defects of the published code that have a switch each (docs/method.md)."""
MENDED = "is mended in both variants"
NO_SWITCH = {
    "d3": MENDED, "d8": "goes with sgcl.variant alone", "d9": MENDED, "d10": MENDED, "d11": MENDED, "d12": MENDED,
    "d14": "is mended by sgcl.normalise=true",
}  # fmt: skip
"""What became of the other defects of the loss."""


def check_options(method: str, options: Any) -> None:
    """Refuse a number or a word of a method's options that fits no method; not-a-number fits nowhere.

    Raises:
        UserError: it names the option as it is typed and what it may be.
    """
    for name in (f.name for f in fields(options)):
        value = getattr(options, name)
        low, high = LIMITS.get(name, OTHERS)
        if isinstance(value, int | float) and not isinstance(value, bool) and not low <= value <= high:
            raise UserError(f"{method}.{name}={value} does not fit: give a number from {low:g} to {high:g}.")
        if isinstance(value, str) and name in CHOICES and value not in CHOICES[name]:
            raise UserError(f"{method}.{name}={value} is not known: choose one of {', '.join(CHOICES[name])}.")


def refuse_no_switch(key: str) -> None:
    """Say of `sgcl.d3` and its like that it is no switch, and why: a nearest key would be another defect.

    Raises:
        UserError: the key is that of a numbered defect without a switch.
    """
    method, _, option = key.partition(".")
    if method != "sgcl" or not re.fullmatch(r"d\d+", option) or option in SWITCHES:
        return
    known = option in NO_SWITCH
    reason = f"{option.upper()} {NO_SWITCH[option]} (docs/method.md)" if known else "no defect of this number has one"
    raise UserError(f"{key} is no switch, {reason}: the switches are {', '.join(SWITCHES)}.")
