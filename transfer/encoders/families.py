"""Where the backbone lies in the weight files of other projects: a table of families, told by their keys, never by file names."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from results.errors import UserError
from transfer.encoders.weights import WeightFile

WRAPPERS = frozenset(
    {
        "_orig_mod",
        "base_model",
        "classy_state_dict",
        "model",
        "model_state_dict",
        "module",
        "net",
        "network",
        "state",
        "state_dict",
    }
)
"""Names that only wrap a network and say nothing of which one it is; `x_state_dict` counts as `x`."""


MOST_SHOWN = 6
"""Backbones of one file that a message lists."""


@dataclass(frozen=True)
class Family:
    """How one project lays out its files.

    Attributes:
        name: as reports show it.
        branches: where backbones lie, wrappers left out; the first that a file has is taken, the others can be asked for.
        beside: first names or keys of which the file must have one; empty: any file.
    """

    name: str
    branches: tuple[str, ...]
    beside: tuple[str, ...] = ()

    def fits(self, places: set[str], names: set[str]) -> bool:
        """Whether the family explains every backbone of a file (`places`), and what else it needs is there (`names`)."""
        own = places & set(self.branches)
        telling = own - {""} or self.branches == ("",)
        return bool(telling) and own == places and (not self.beside or not names.isdisjoint(self.beside))


FAMILIES = (
    Family("MoCo v1, v2", ("encoder_q", "encoder_k")),
    Family("MoCo v3", ("base_encoder", "base_encoder.0", "momentum_encoder", "momentum_encoder.0", "backbone"), ("base_encoder",)),
    Family("OpenSelfSup, MMSelfSup (MoCo)", ("encoder_q.0", "encoder_k.0", "backbone"), ("encoder_q",)),
    Family("OpenSelfSup, MMSelfSup (BYOL)", ("online_net.0", "target_net.0", "backbone"), ("online_net",)),
    Family("DINO, iBOT", ("teacher.backbone", "student.backbone", "teacher", "student")),
    Family("VISSL", ("trunk._feature_blocks", "_feature_blocks", "trunk")),
    Family("BYOL", ("online_network.encoder", "target_network.encoder", "online_network", "target_network")),
    Family("BYOL (learner)", ("online_encoder", "target_encoder", "")),
    Family("lightly (DINO)", ("teacher_backbone", "student_backbone", "backbone"), ("teacher_backbone", "student_backbone")),
    Family("MMSelfSup, OpenSelfSup, MMPretrain", ("backbone",), ("meta",)),
    Family("solo-learn", ("backbone", "momentum_backbone"), ("classifier",)),
    Family("solo-learn (encoder)", ("encoder", "momentum_encoder"), ("classifier",)),
    Family("solo-learn (features_extractor)", ("features_extractor", "momentum_features_extractor")),
    Family("lightly", ("backbone", "backbone_momentum"), ("pytorch-lightning_version", "projection_head", "projection_head_momentum")),
    Family("Barlow Twins, VICReg", ("backbone",), ("projector",)),
    Family("SimSiam", ("encoder",), ("predictor",)),
    Family("backbone with heads", ("backbone", "backbone_momentum", "momentum_backbone")),
    Family("encoder with heads", ("encoder", "momentum_encoder")),
    Family("weights with their moving average", ("ema", "model_ema", "state_dict_ema", "ema_model", "")),
    Family("torchvision, timm or other plain names", ("",)),
)  # fmt: skip
"""Earlier ones are tried first."""


@dataclass(frozen=True)
class Dialect:
    """Names of a network's own tensors in a file.

    Attributes:
        anchor: a name that every such network has.
        renames: (pattern, replacement) from there to torchvision's ResNet and timm's transformer names, all applied in order.
    """

    anchor: str
    renames: tuple[tuple[str, str], ...] = ()

    def translate(self, name: str) -> str:
        for pattern, replacement in self.renames:
            name = re.sub(pattern, replacement, name)
        return name


DIALECTS = (
    Dialect("layer1.0.conv1.weight"),
    Dialect("patch_embed.proj.weight"),
    Dialect(
        "4.0.conv1.weight",  # nn.Sequential over torchvision's children
        ((r"^0\.", "conv1."), (r"^1\.", "bn1."), (r"^4\.", "layer1."), (r"^5\.", "layer2."), (r"^6\.", "layer3."), (r"^7\.", "layer4."), (r"^9\.", "fc.")),
    ),
    Dialect(
        "patch_embed.projection.weight",  # MMPretrain's transformers
        (
            (r"^patch_embed\.projection\.", "patch_embed.proj."), (r"^ln1\.", "norm."), (r"^layers\.", "blocks."),
            (r"^(blocks\.\d+)\.ln(\d)\.", r"\1.norm\2."), (r"^(blocks\.\d+)\.ffn\.layers\.0\.0\.", r"\1.mlp.fc1."),
            (r"^(blocks\.\d+)\.ffn\.layers\.1\.", r"\1.mlp.fc2."),
        ),
    ),
    Dialect(
        "conv_proj.weight",  # torchvision's transformers
        (
            (r"^conv_proj\.", "patch_embed.proj."), (r"^class_token$", "cls_token"), (r"^encoder\.pos_embedding$", "pos_embed"),
            (r"^encoder\.ln\.", "norm."), (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
            (r"^(blocks\.\d+)\.ln_(\d)\.", r"\1.norm\2."), (r"\.self_attention\.in_proj_", ".attn.qkv."),
            (r"\.self_attention\.out_proj\.", ".attn.proj."), (r"\.mlp\.(0|linear_1)\.", ".mlp.fc1."), (r"\.mlp\.(3|linear_2)\.", ".mlp.fc2."),
        ),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Place:
    """A backbone in a file: its `prefix` there (with the last dot), the same without wrappers, and how its tensors are named."""

    prefix: str
    where: str
    dialect: Dialect


@dataclass(frozen=True)
class Found:
    """The backbone that was chosen.

    Attributes:
        family: name of the family.
        prefix: of its names in the file.
        branch: word to ask for it with `FILE#branch`, empty where the file has one backbone.
        others: words for the backbones that were not taken.
        tensors: under torchvision's or timm's names, heads included.
        aside: how many tensors lie outside the prefix, by first name.
    """

    family: str
    prefix: str
    branch: str
    others: tuple[str, ...]
    tensors: dict[str, Any]
    aside: dict[str, int]


def find_backbone(file: WeightFile, branch: str = "", dialects: Iterable[Dialect] = DIALECTS) -> Found:
    """Choose the backbone of a file by the table of families, or the one that `branch` names.

    Raises:
        UserError: there is none, `branch` names none, or no family explains which one to take.
    """
    places = [place for dialect in dialects for place in _places(file.tensors, dialect)]
    if not places:
        raise UserError(
            f"{file.path} does not fit any known network (0 tensors loaded of its {len(file.tensors)}, whose names begin with "
            f"{_summary(_outside(file.tensors, ()))}): names such as layer1.0.conv1.weight (ResNet) or patch_embed.proj.weight "
            "(vision transformer) are expected, after a prefix that docs/encoders.md lists."
        )
    wheres = {place.where for place in places}
    names = {_first(name) for name in file.tensors} | file.keys
    family = next((family for family in FAMILIES if family.fits(wheres, names)), None)
    if branch:
        place, name = _asked(file, places, branch), family.name if family else "chosen by its prefix"
    elif family:
        order = [where for where in family.branches if where in wheres]
        same = [place for place in places if place.where == order[0]]
        place, name = _only(file, same, places), family.name
    else:
        place, name = _unexplained(file, places), "one prefix before plain names"
    deeper = tuple(other.prefix for other in places if other is not place and other.prefix.startswith(place.prefix))
    own = [key for key in file.tensors if key.startswith(place.prefix) and not key.startswith(deeper)]
    tensors = {place.dialect.translate(key[len(place.prefix) :]): file.tensors[key] for key in own}
    others = tuple(_word(other) for other in places if other is not place)
    taken = set(own)
    aside = _outside([key for key in file.tensors if key not in taken], ())
    return Found(name, place.prefix, _word(place) if others else "", others, tensors, aside)


def _places(names: Iterable[str], dialect: Dialect) -> list[Place]:
    ends = [name for name in names if name == dialect.anchor or name.endswith(f".{dialect.anchor}")]
    prefixes = [name.removesuffix(dialect.anchor) for name in ends]
    return [Place(prefix, ".".join(_telling(prefix)), dialect) for prefix in prefixes]


def _telling(name: str) -> list[str]:
    """The parts of a dotted name without wrappers."""
    return [part.removesuffix("_state_dict") for part in name.rstrip(".").split(".") if part and part not in WRAPPERS]


def _first(name: str) -> str:
    return (_telling(name) or [name])[0]


def _word(place: Place) -> str:
    return place.where or place.prefix.rstrip(".") or "plain"


def _asked(file: WeightFile, places: list[Place], branch: str) -> Place:
    fitting = [place for place in places if branch in (_word(place), place.prefix.rstrip("."))]
    fitting = fitting or [place for place in places if branch in place.where.split(".")]
    if len(fitting) != 1:
        words = list(dict.fromkeys(place.prefix.rstrip(".") or "plain" for place in fitting or places))
        near = words if len(words) <= MOST_SHOWN else get_close_matches(branch, words, MOST_SHOWN) or words
        raise UserError(
            f"{file.path}#{branch} names {len(fitting)} backbones of this file: write one of {_few(near, len(words))}."
        )
    return fitting[0]


def _only(file: WeightFile, same: list[Place], places: list[Place]) -> Place:
    if len(same) == 1:
        return same[0]
    words = [place.prefix.rstrip(".") or "plain" for place in same]
    raise UserError(
        f"{file.path} holds {len(places)} backbones ({_few(words, len(words))}): choose one with encoder={file.path}#{words[0]}."
    )


def _unexplained(file: WeightFile, places: list[Place]) -> Place:
    """One prefix before every name is plain; anything else that no family explains is for the user to say."""
    place = _only(file, places, places)
    outside = _outside(file.tensors, (place.prefix,))
    if outside:
        raise UserError(
            f"{file.path} holds a backbone under '{place.prefix}', a prefix of no known family, beside {_summary(outside)}: if that "
            f"is the one to score, write encoder={file.path}#{place.prefix.rstrip('.')}."
        )
    return place


def _few(words: list[str], total: int) -> str:
    shown = words[:MOST_SHOWN]
    return ", ".join(shown) + (f" and {total - len(shown)} more" if total > len(shown) else "")


def _outside(names: Iterable[str], prefixes: tuple[str, ...]) -> dict[str, int]:
    return dict(Counter(_first(name) for name in names if not name.startswith(prefixes)).most_common())


def _summary(counts: Mapping[str, int], most: int = 6) -> str:
    shown = [f"{name} ({count})" for name, count in list(counts.items())[:most]]
    return ", ".join([*shown, f"{len(counts) - most} more"] if len(counts) > most else shown)
